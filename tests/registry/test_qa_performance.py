"""Each check of speed passes on a quick server, fails on one that is wrong in its way, and says the numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from registry.qa.base import Context, Hardware, Outcome, RunningServer
from registry.qa.builtin.performance import BetweenTokens, ErrorRate, FirstToken, Memory, Throughput, Whole
from registry.qa.builtin.performance_baseline import NotSlowerThanLive
from registry.qa.builtin.performance_limits import ClosedLoop, HighestRate, _judge
from registry.qa.catalogue import all_checks
from registry.qa.policy import Load, Policy
from registry.qa.probe.knee import Holds, Knee, Pressed
from registry.qa.probe.measured import Measured, Request
from registry.qa.probe.press import tokens_asked
from registry.qa.probe.report import ProbeReport, report
from registry.qa.probe.run import run_probe
from registry.qa.runner import examine
from registry.scoring import Status
from tests.registry.faulty_engine import KEY, Engine, running_engine
from tests.registry.recorder import Recorder, recording

SHORT = Load(requests_per_second=100, seconds=0.5, warm_up_requests=2, max_tokens=20)
POLICY = Policy(max_latency_ms=450, load=SHORT)
PROBED = (FirstToken, BetweenTokens, Whole, Throughput, ErrorRate)

Parameters = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def one_live() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def live(one_live: Engine) -> Engine:
    one_live.reset()
    return one_live


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def context(server: RunningServer, policy: Policy = POLICY, **more: Any) -> Context:
    return Context(None, None, "vllm", policy, server, **more)


def with_parameters(**parameters: Mapping[str, Any]) -> Policy:
    return replace(POLICY, parameters={f"performance.{name}": values for name, values in parameters.items()})


# -- the one load ------------------------------------------------------------------------------------------------------


def test_one_load_answers_all_five_checks(engine: Engine) -> None:
    looked_at = context(engine.running)
    outcomes = {check.name: check().run(looked_at) for check in PROBED}
    assert {name: o.status for name, o in outcomes.items()} == {
        "performance.first_token": Status.PASSED,
        "performance.between_tokens": Status.NOT_APPLICABLE,
        "performance.whole": Status.NOT_APPLICABLE,
        "performance.throughput": Status.PASSED,
        "performance.error_rate": Status.PASSED,
    }
    requests = outcomes["performance.error_rate"].evidence["requests"]
    assert next(engine.numbers) == 1 + 2 + requests  # one to see how to ask, two to warm up, and each once
    assert f"0 of {requests} requests failed (0 %, 95 % confidence: 0 to" in outcomes["performance.error_rate"].reason
    assert f"95th percentile of {requests} requests at 100 requests/s" in outcomes["performance.first_token"].reason
    assert KEY not in json.dumps([o.evidence for o in outcomes.values()], allow_nan=False)


def test_what_has_no_limit_is_measured_and_not_judged(engine: Engine) -> None:
    engine.gap_delay = 0.01
    looked_at = context(engine.running)
    pauses, whole = BetweenTokens().run(looked_at), Whole().run(looked_at)
    assert pauses.status is whole.status is Status.NOT_APPLICABLE
    assert pauses.reason.endswith("; no limit is set.")
    assert pauses.value is not None
    assert pauses.value >= 9
    assert whole.value is not None
    assert whole.value >= 19 * 9


def test_long_pauses_between_tokens_fail_their_check_alone(engine: Engine) -> None:
    engine.gap_delay = 0.03
    policy = with_parameters(between_tokens={"most_ms": 20.0}, whole={"most_ms": 5000.0})
    looked_at = context(engine.running, policy)
    pauses = BetweenTokens().run(looked_at)
    assert pauses.status is Status.FAILED
    assert "pause between two pieces of an answer was" in pauses.reason
    assert pauses.reason.endswith("the limit is 20 ms.")
    assert pauses.limit == 20
    assert FirstToken().run(looked_at).status is Whole().run(looked_at).status is Status.PASSED


def test_long_answers_fail_their_check_alone(engine: Engine) -> None:
    engine.gap_delay = 0.03
    policy = with_parameters(between_tokens={"most_ms": 5000.0}, whole={"most_ms": 500.0})
    looked_at = context(engine.running, policy)
    whole = Whole().run(looked_at)
    assert whole.status is Status.FAILED
    assert "time to the end of the answer was" in whole.reason
    assert "the limit is 500 ms" in whole.reason
    assert FirstToken().run(looked_at).status is BetweenTokens().run(looked_at).status is Status.PASSED


def test_server_that_does_not_stream_has_no_pauses(engine: Engine) -> None:
    engine.faults = {"no streams"}
    pauses = BetweenTokens().run(context(engine.running, with_parameters(between_tokens={"most_ms": 20.0})))
    assert pauses.status is Status.NOT_APPLICABLE
    assert pauses.reason == "The server does not stream, so there is no pause between tokens."


def test_server_that_answers_nothing_fails_every_check_with_one_short_wait(engine: Engine) -> None:
    """The real time-out is ten seconds; the probe's report of a shorter one stands for it here."""
    engine.faults = {"hangs"}
    looked_at = context(
        engine.running,
        replace(
            with_parameters(whole={"most_ms": 500.0}, closed_loop={"concurrency": 2}, knee={"find": True}),
            load=replace(SHORT, warm_up_requests=3),
        ),
        live=RunningServer("http://127.0.0.1:1", "words", KEY),
    )
    looked_at.scratch["performance.probe"] = run_probe(engine.running, looked_at.policy.load, request_timeout=0.5)
    asked = next(engine.numbers)
    begun = "None of the 3 warm-up requests was answered within 10 s (3 timed out), so the load was not begun."
    for check in (FirstToken, Whole, Throughput, ErrorRate, ClosedLoop, HighestRate):
        outcome = check().run(looked_at)
        assert (check.name, outcome.status) == (check.name, Status.FAILED)
        assert outcome.reason.startswith(begun)
    assert BetweenTokens().run(looked_at).status is Status.NOT_APPLICABLE
    baseline = NotSlowerThanLive().run(looked_at)
    assert baseline.status is Status.NOT_CHECKED
    assert baseline.reason == "This version answered no request of the load: there is nothing to compare."
    assert next(engine.numbers) == asked + 1  # none of them asked the server again
    assert ErrorRate().run(looked_at).value == 100.0
    assert Throughput().run(looked_at).value == 0.0


def test_server_that_falls_silent_after_the_warm_up_is_pressed_by_no_other_load(engine: Engine) -> None:
    policy = replace(with_parameters(closed_loop={"concurrency": 2}), load=replace(SHORT, warm_up_requests=0))
    engine.faults = {"hangs"}
    looked_at = context(engine.running, policy)
    looked_at.scratch["performance.probe"] = run_probe(engine.running, policy.load, request_timeout=0.5)
    requests = looked_at.scratch["performance.probe"].requests
    outcome = ClosedLoop().run(looked_at)
    assert outcome.status is Status.FAILED
    assert outcome.reason.startswith(
        f"None of the {requests} requests was answered within 10 s ({requests} timed out)."
    )
    assert ErrorRate().run(looked_at).status is FirstToken().run(looked_at).status is Status.FAILED


def test_load_too_small_for_the_demanded_throughput_counts_the_mix_of_lengths(engine: Engine) -> None:
    load = replace(SHORT, output_tokens=((10, 1.0), (30, 1.0)))
    outcome = Throughput().run(context(engine.running, replace(POLICY, load=load, min_throughput_tokens_sec=2500)))
    assert outcome.status is Status.NOT_CHECKED
    assert f"100 requests/s for 0.5 s ask for {tokens_asked(load) / 0.5:.0f} tokens/s at most" in outcome.reason
    assert 52 * 10 < tokens_asked(load) < 52 * 30
    assert outcome.reason.endswith("raise its rate or its max_tokens.")


def test_load_whose_requests_happen_to_be_few_is_not_held_against_the_server(engine: Engine) -> None:
    """Poisson: 50 requests are expected in this time and 46 fall into it, so no server could bring 1,900 tokens/s."""
    load = replace(SHORT, requests_per_second=92.0)
    possible = tokens_asked(load) / load.seconds
    assert possible != 92 * 20
    for limit, status in ((possible + 1, Status.NOT_CHECKED), (possible / 2, Status.PASSED)):
        outcome = Throughput().run(context(engine.running, replace(POLICY, load=load, min_throughput_tokens_sec=limit)))
        assert outcome.status is status


def slow_because_sent_late(value: float, late: float) -> ProbeReport:
    request = Request(due=0, ended=1, lag=late, first=value, whole=value, pieces=1)
    return report(Measured("/v1/completions", True, 5.0, (request,) * 100))


@pytest.mark.parametrize(
    ("value", "late", "status"),
    [
        (0.5, 0.2, Status.ERROR),  # 300 ms if it had been sent in time, and 450 are allowed
        (0.5, 0.01, Status.FAILED),
        (5.0, 0.2, Status.FAILED),
        (5.0, 0.6, Status.ERROR),
    ],
)
def test_probe_that_was_late_itself_blames_no_server(value: float, late: float, status: Status) -> None:
    looked_at = context(RunningServer("http://127.0.0.1:1", "words", KEY))
    outcome = FirstToken().judge(looked_at, slow_because_sent_late(value, late))
    assert outcome.status is status
    assert ("this machine was too busy" in outcome.reason) == (status is Status.ERROR)


def test_closed_loop_of_the_policy_is_said_as_such(engine: Engine) -> None:
    policy = replace(POLICY, load=replace(SHORT, concurrency=4), min_throughput_tokens_sec=10)
    looked_at = context(engine.running, policy)
    assert "with 4 requests always under way" in FirstToken().run(looked_at).reason
    assert Throughput().run(looked_at).status is Status.PASSED


# -- the team's own prompts --------------------------------------------------------------------------------------------


def test_own_prompts_are_what_the_server_is_asked(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "ours.jsonl").write_text('{"prompt": "Where is my parcel?"}\n')
    policy = replace(POLICY, load=replace(SHORT, prompts_file="ours.jsonl"))
    outcome = ErrorRate().run(context(recorder.running, policy, files=tmp_path))
    assert outcome.status is Status.PASSED
    assert set(recorder.prompts[1:]) == {"Where is my parcel?"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ours.jsonl", "Line 2 of ours.jsonl is no JSON"),
        ("../ours.jsonl", "is not a file inside the folder"),
        ("theirs.jsonl", "There is no file 'theirs.jsonl' in the folder for such files."),
    ],
)
def test_own_prompts_that_cannot_be_used_are_an_error_and_nothing_is_asked(
    recorder: Recorder, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "ours.jsonl").write_text('{"prompt": "Where is my parcel?"}\nWhere?\n')
    policy = replace(POLICY, load=replace(SHORT, prompts_file=name))
    outcome = ErrorRate().run(context(recorder.running, policy, files=tmp_path))
    assert outcome.status is Status.ERROR
    assert outcome.reason.startswith("The policy's own prompts cannot be used: ")
    assert words in outcome.reason
    assert recorder.bodies == []


# -- memory ------------------------------------------------------------------------------------------------------------

HELD = 50_000_000


@pytest.fixture
def family() -> Iterator[psutil.Process]:
    """A process with a child that holds 50 MB of its own."""
    child = f"held = bytearray(b'x' * {HELD}); print('ready', flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield psutil.Process(process.pid)
        process.communicate("\n")


def test_memory_of_all_processes_of_the_server_is_counted(engine: Engine, family: psutil.Process) -> None:
    looked_at = context(replace(engine.running, pid=family.pid), hardware=Hardware(gpus=0))
    looked_at.scratch["performance.probe"] = run_probe(engine.running, SHORT)
    outcome = Memory().run(looked_at)
    assert outcome.status is Status.PASSED
    assert outcome.value is not None
    assert HELD / 1e9 <= outcome.value < 5 * HELD / 1e9
    assert outcome.reason.endswith("GB resident in 2 processes after the load; the limit is 16 GB.")


def test_more_memory_than_the_policy_allows_fails(engine: Engine, family: psutil.Process) -> None:
    policy = replace(POLICY, max_memory_gb=0.04)
    outcome = Memory().run(context(replace(engine.running, pid=family.pid), policy))
    assert outcome.status is Status.FAILED
    assert "in 2 processes without a load before; the limit is 0.04 GB." in outcome.reason
    assert "memory of a GPU is not in this figure" in outcome.reason  # whether there is one was not declared


def test_memory_of_a_server_elsewhere_is_what_its_metrics_say(recorder: Recorder) -> None:
    recorder.metrics_text = "process_resident_memory_bytes 2.5e9\n"
    outcome = Memory().run(context(recorder.running))
    assert outcome.status is Status.PASSED
    assert outcome.value == 2.5
    assert "2.50 GB resident as /metrics says of the process that answers" in outcome.reason
    recorder.metrics_text = "process_resident_memory_bytes 17e9\n"
    assert Memory().run(context(recorder.running)).status is Status.FAILED


def test_memory_that_nobody_tells_is_not_checked(recorder: Recorder) -> None:
    outcome = Memory().run(context(recorder.running))
    assert outcome.status is Status.NOT_CHECKED
    assert outcome.reason == (
        "Which process it is cannot be seen from here, and /metrics does not say process_resident_memory_bytes."
    )
    assert Memory.weight > 0


def test_memory_of_a_process_that_is_gone_is_an_error(engine: Engine) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    outcome = Memory().run(context(replace(engine.running, pid=process.pid)))
    assert outcome.status is Status.ERROR
    assert outcome.reason == f"The server's process {process.pid} is gone."


# -- a set number of users ---------------------------------------------------------------------------------------------


def closed(**more: Any) -> Policy:
    return replace(with_parameters(closed_loop={"concurrency": 4, "seconds": 0.5}), **more)


def test_closed_loop_is_left_out_until_a_policy_sets_its_users(engine: Engine) -> None:
    assert ClosedLoop().run(context(engine.running)).status is Status.NOT_APPLICABLE
    assert next(engine.numbers) == 0


def test_closed_loop_passes_where_the_limits_hold(engine: Engine) -> None:
    outcome = ClosedLoop().run(context(engine.running, closed()))
    assert outcome.status is Status.PASSED
    assert outcome.reason.startswith("With 4 requests always under way, the first token took ")
    assert outcome.reason.endswith("tokens/s came: all limits of the policy hold.")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("slow under load", "the limit for the first token is 450 ms"),
        ("one stream in five fails", "at most 1 % of the requests may fail"),
        ("short answers under load", "at least 3000 tokens/s are demanded"),
    ],
)
def test_closed_loop_fails_by_each_limit(engine: Engine, fault: str, words: str) -> None:
    engine.faults, engine.first_delay = {fault}, 0.02
    least = 3000 if fault.startswith("short") else 1
    outcome = ClosedLoop().run(context(engine.running, closed(min_throughput_tokens_sec=least)))
    assert outcome.status is Status.FAILED
    assert words in outcome.reason


# -- the highest rate --------------------------------------------------------------------------------------------------


def knee(**more: Any) -> Policy:
    return with_parameters(knee={"find": True, "seconds": 0.2, **more})


def test_highest_rate_is_looked_for_only_where_the_policy_asks(engine: Engine) -> None:
    assert HighestRate().run(context(engine.running)).status is Status.NOT_APPLICABLE
    assert next(engine.numbers) == 0


def test_highest_rate_is_said_with_its_presses(engine: Engine) -> None:
    policy = replace(knee(lowest_rate=50.0, highest_rate=110.0), max_latency_ms=5000)
    outcome = HighestRate().run(context(engine.running, policy))
    assert outcome.status is Status.PASSED
    assert outcome.value == 110
    assert "hold is 110 requests/s at least; nothing higher was tried, by 2 short presses" in outcome.reason
    assert [press["rate"] for press in outcome.evidence["presses"]] == [100, 110]


def test_server_that_holds_at_no_rate_fails(engine: Engine) -> None:
    engine.faults = {"slow under load"}
    outcome = HighestRate().run(context(engine.running, knee(lowest_rate=100.0)))
    assert outcome.status is Status.FAILED
    assert outcome.reason.startswith("Even at 100 requests/s the limits (450 ms to the first token and 1 % errors) do ")
    assert outcome.value == 0
    assert [press["limits"] for press in outcome.evidence["presses"]] == ["broke", "broke"]


def test_answers_that_last_longer_than_the_wait_for_a_first_token_do_not_break_a_rate(engine: Engine) -> None:
    engine.gap_delay = 0.11  # an answer takes 2.1 s, and four times the limit for the first token is 1.8 s
    outcome = HighestRate().run(context(engine.running, knee(lowest_rate=40.0, highest_rate=40.0)))
    assert outcome.status is Status.PASSED
    assert "and 0 of " in outcome.reason


def test_rate_that_was_not_come_down_to_is_not_said_to_break() -> None:
    broken = tuple(Pressed(1000 / 2 ** (n // 2), Holds.NO, "the first token never came") for n in range(14))
    outcome = _judge(Knee(broken, None, broken[-1].rate), 1.0, POLICY)
    assert outcome.status is Status.NOT_CHECKED
    assert outcome.reason.startswith(
        "At 15.6 requests/s and above the limits (450 ms to the first token and 1 % errors"
    )
    assert "14 presses did not come down to 1: give the policy's load a lower rate to begin with." in outcome.reason


def test_lowest_rate_above_the_highest_is_an_error(engine: Engine) -> None:
    outcome = HighestRate().run(context(engine.running, knee(lowest_rate=300.0)))
    assert outcome.status is Status.ERROR
    assert "lowest_rate is 300 and highest_rate 200" in outcome.reason


# -- the live version --------------------------------------------------------------------------------------------------


ALIKE = replace(POLICY, load=replace(SHORT, concurrency=2))
"""Each turn is as short as it can be."""


def compared(engine: Engine, live: Engine, policy: Policy = ALIKE) -> Outcome:
    return NotSlowerThanLive().run(context(engine.running, policy, live=live.running))


def lenient(policy: Policy) -> Policy:
    return replace(policy, parameters={"performance.baseline": {"most_percent": 900.0}})


def test_version_as_quick_as_the_live_one_passes_and_says_so(engine: Engine, live: Engine) -> None:
    engine.first_delay = live.first_delay = 0.02
    outcome = compared(engine, live, lenient(replace(POLICY, load=replace(SHORT, requests_per_second=16))))
    assert outcome.status is Status.PASSED
    assert outcome.reason.startswith("This version is not slower than the live one by more than 900 %: median time")
    assert {one["name"] for one in outcome.evidence["compared"]} >= {"median time to first token", "throughput"}
    assert outcome.evidence["pairs"] == 10
    assert outcome.evidence["failed"] == {"candidate": 0, "live": 0}


def test_version_with_a_later_first_token_fails(engine: Engine, live: Engine) -> None:
    engine.first_delay, live.first_delay = 0.15, 0.02
    outcome = compared(engine, live)
    assert outcome.status is Status.FAILED
    assert outcome.reason.startswith("This version is slower than the live one by more than 20 %: ")
    assert "median time to first token" in outcome.reason
    assert outcome.value is not None
    assert outcome.value > 100
    assert outcome.limit == 20


def test_version_with_longer_pauses_fails(engine: Engine, live: Engine) -> None:
    engine.gap_delay, live.gap_delay = 0.015, 0.005
    outcome = compared(engine, live)
    assert outcome.status is Status.FAILED
    assert "median pause between tokens" in outcome.reason


def test_quicker_version_passes(engine: Engine, live: Engine) -> None:
    engine.first_delay, live.first_delay = 0.02, 0.15
    outcome = compared(engine, live)
    assert outcome.status is Status.PASSED
    assert "% faster" in outcome.reason


def test_live_copy_that_is_gone_is_not_compared_with(engine: Engine) -> None:
    with running_engine() as other:
        gone = other.running
    outcome = NotSlowerThanLive().run(context(engine.running, live=gone))
    assert outcome.status is Status.NOT_CHECKED
    assert outcome.reason == (
        "The live version's copy answered none of its 2 warm-up requests. So the two could not be compared."
    )


def test_version_that_is_gone_while_the_live_one_answers_fails(live: Engine) -> None:
    with running_engine() as other:
        gone = other.running
    outcome = NotSlowerThanLive().run(context(gone, live=live.running))
    assert outcome.status is Status.FAILED
    assert outcome.reason == "This version answered none of its 2 warm-up requests. The live one answers."


def test_failures_on_either_side_are_said(engine: Engine, live: Engine) -> None:
    live.faults = {"one stream in five fails"}
    outcome = compared(engine, live, lenient(ALIKE))
    assert outcome.evidence["failed"] == {"candidate": 0, "live": 8}
    assert outcome.reason.endswith("Of 40 requests each, 0 of this version and 8 of the live one failed.")


def test_rate_too_low_to_compare_by_is_not_checked(engine: Engine, live: Engine) -> None:
    outcome = compared(engine, live, replace(POLICY, load=replace(SHORT, requests_per_second=0.5)))
    assert outcome.status is Status.NOT_CHECKED
    assert "At 0.5 requests/s the comparison would take too long" in outcome.reason


def test_runner_hands_the_live_copy_to_the_comparison(engine: Engine, live: Engine) -> None:
    checks = [check for check in all_checks() if check.name == "performance.baseline"]
    [result] = examine(context(engine.running), checks)
    assert result.outcome.status is Status.NOT_APPLICABLE
    [result] = examine(context(engine.running, ALIKE, live=live.running), checks)
    assert result.outcome.status in (Status.PASSED, Status.FAILED)
    assert "the live one" in result.outcome.reason


# -- all of them -------------------------------------------------------------------------------------------------------


def test_default_policy_runs_what_is_quick_and_leaves_out_the_rest() -> None:
    defaults = {
        (check.name, parameter.name): parameter.default
        for check in all_checks()
        if check.category == "performance"
        for parameter in check.parameters
    }
    assert defaults == {
        ("performance.between_tokens", "most_ms"): 0.0,
        ("performance.whole", "most_ms"): 0.0,
        ("performance.closed_loop", "concurrency"): 0,
        ("performance.closed_loop", "seconds"): 3.0,
        ("performance.knee", "find"): False,
        ("performance.knee", "lowest_rate"): 1.0,
        ("performance.knee", "highest_rate"): 200.0,
        ("performance.knee", "seconds"): 2.0,
        ("performance.baseline", "most_percent"): 20.0,
    }


def test_only_the_error_rate_blocks() -> None:
    checks = [check for check in all_checks() if check.category == "performance"]
    assert [check.name for check in checks if check.required] == ["performance.error_rate"]
    assert all(check.alone and check.needs_server for check in checks)


def test_this_process_is_read_like_any_other() -> None:
    outcome = Memory().run(context(RunningServer("http://127.0.0.1:1", "words", KEY, os.getpid())))
    assert outcome.status is Status.PASSED
