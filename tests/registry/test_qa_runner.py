from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts import FileEntry, Manifest
from registry.qa.base import Check, Context, Finding, Outcome, RunningServer, Severity
from registry.qa.builtin.exchange import visit
from registry.qa.policy import Load, Policy
from registry.qa.runner import Result, examine, to_scored
from registry.qa.warming import warm_up
from registry.scoring import Status
from tests.registry.recorder import recording
from tests.registry.worst_servers import serving, silent

SERVER = RunningServer("http://127.0.0.1:1", "words", "a-secret-key")
CONTEXT = Context(Path("/nowhere"), Manifest((FileEntry("a", 0, "0" * 64),)), "vllm", Policy(), SERVER)


class Sound(Check):
    name = "security.sound"
    label = "Sound"
    category = "security"
    weight = 1.0
    required = False
    needs_server = True
    alone = False
    timeout = 30.0

    def run(self, context: Context) -> Outcome:
        return Outcome.passed("It is sound.")


def variant(name: str, run: Any = None, **facts: Any) -> type[Check]:
    body = {"run": lambda self, context: run(context)} if run else {}
    return type(name, (Sound,), {"name": f"security.{name}", "label": name, **facts, **body})


def test_results_come_in_the_order_of_the_checks() -> None:
    first_may_end = threading.Event()

    def slow(context: Context) -> Outcome:
        assert first_may_end.wait(20)
        return Outcome.passed("At last.")

    def quick(context: Context) -> Outcome:
        first_may_end.set()
        return Outcome.passed("At once.")

    seen: list[str] = []
    results = examine(
        CONTEXT, [variant("slow", slow), variant("quick", quick)], on_result=lambda r: seen.append(r.name)
    )
    assert [r.name for r in results] == ["security.slow", "security.quick"]
    assert seen == ["security.quick", "security.slow"]


def test_each_check_that_is_begun_is_told_before_its_result() -> None:
    told: list[str] = []
    made: list[type[Check]] = [variant("one", lambda context: Outcome.passed("Fine.")), Sound]
    skipped = variant("files", needs_artifact=True, needs_server=False)
    examine(
        replace(CONTEXT, artifact=None),
        [*made, skipped],
        on_start=lambda check: told.append(f"{check.name} begins"),
        on_result=lambda result: told.append(result.name),
    )
    assert {line for line in told if line.endswith(" begins")} == {f"{check.name} begins" for check in made}
    assert all(told.index(f"{check.name} begins") < told.index(check.name) for check in made)
    assert skipped.name in told


def test_hanging_check_is_an_error_and_stops_no_other() -> None:
    release = threading.Event()
    hanging = variant("hanging", lambda context: release.wait(60), timeout=0.2)
    results = examine(CONTEXT, [hanging, Sound])
    release.set()
    assert results[0].outcome.status is Status.ERROR
    assert results[0].outcome.reason == "The check gave no answer within 0.2 s."
    assert 0.2 <= results[0].seconds < 10
    assert results[1].outcome.status is Status.PASSED


def test_hanging_check_does_not_keep_the_process_alive() -> None:
    code = (
        "from tests.registry.test_qa_runner import *\n"
        "check = variant('hanging', lambda context: threading.Event().wait(), timeout=0.1)\n"
        "print(examine(CONTEXT, [check])[0].outcome.status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "error"


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ValueError("the key a-secret-key is wrong"), "ValueError: the key ••• is wrong"),
        (KeyError(), "KeyError: no text"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_raising_check_is_an_error_without_the_key(raised: BaseException, words: str) -> None:
    def run(context: Context) -> Outcome:
        raise raised

    result, other = examine(CONTEXT, [variant("raising", run), Sound])
    assert result.outcome.status is Status.ERROR
    assert result.outcome.reason == f"The check failed with {words}"
    assert other.outcome.status is Status.PASSED


def test_check_that_returns_something_else_is_an_error() -> None:
    result = examine(CONTEXT, [variant("careless", lambda context: True)])[0]
    assert result.outcome.reason == "The check returned bool instead of an Outcome."


def test_evidence_is_made_fit_for_json_and_a_database() -> None:
    evidence = {"a-secret-key": [b"x", float("nan"), "zero\0", "half \ud800"], "at": Path("/tmp"), "pair": (1, None)}  # noqa: S108
    result = examine(
        CONTEXT, [variant("odd", lambda c: Outcome.passed("Fine.", value=float("inf"), evidence=evidence))]
    )[0]
    assert result.outcome.value is None
    assert result.outcome.evidence == {
        "•••": ["b'x'", None, "zero\N{REPLACEMENT CHARACTER}", "half ?"],
        "at": "/tmp",  # noqa: S108
        "pair": [1, None],
    }


def test_checks_that_are_alone_run_after_the_others_one_by_one() -> None:
    busy: set[str] = set()
    overlaps: list[set[str]] = []
    order: list[str] = []
    lock = threading.Lock()

    def watch(name: str) -> Any:
        def run(context: Context) -> Outcome:
            with lock:
                busy.add(name)
                overlaps.append(set(busy))
                order.append(name)
            with lock:
                busy.remove(name)
            return Outcome.passed("Seen.")

        return run

    names = ["one", "two", "three", "four", "five", "six"]
    checks = [variant(n, watch(n), alone=n in ("one", "four")) for n in names]
    examine(CONTEXT, checks)
    assert order[-2:] == ["one", "four"]
    assert all(seen == {name} for seen, name in zip(overlaps[-2:], order[-2:], strict=True))


def test_checks_on_the_server_run_beside_each_other() -> None:
    both = threading.Barrier(2)

    def meet(context: Context) -> Outcome:
        both.wait(20)
        return Outcome.passed("We met.")

    results = examine(CONTEXT, [variant("left", meet), variant("right", meet)])
    assert {r.outcome.status for r in results} == {Status.PASSED}


def test_results_arrive_in_the_thread_of_the_caller() -> None:
    threads: list[threading.Thread] = []
    examine(CONTEXT, [Sound], on_result=lambda result: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]


def test_seconds_are_read_from_the_given_clock() -> None:
    times = iter(range(100))
    result = examine(CONTEXT, [variant("timed", timeout=1e6)], clock=lambda: float(next(times)))[0]
    assert result.seconds in (1.0, 2.0)


class Host:
    def __init__(self, error: BaseException | None = None) -> None:
        self.log: list[str] = []
        self.error = error

    @contextmanager
    def __call__(self) -> Iterator[RunningServer]:
        self.log.append("started")
        if self.error:
            raise self.error
        try:
            yield replace(SERVER, model="hosted")
        finally:
            self.log.append("stopped")


NO_SERVER = replace(CONTEXT, server=None, server_problem="Nobody hosts it.")
FILES = {"needs_server": False, "required": True}


def test_server_is_started_for_the_checks_that_need_it_and_stopped_afterwards() -> None:
    host = Host()
    names: list[str] = []

    def look(context: Context) -> Outcome:
        assert context.server is not None
        names.append(context.server.model)
        assert host.log == ["started"]
        return Outcome.passed("Seen.")

    results = examine(NO_SERVER, [variant("look", look), variant("files", **FILES)], start_server=host)
    assert {r.outcome.status for r in results} == {Status.PASSED}
    assert names == ["hosted"]
    assert host.log == ["started", "stopped"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.ERROR, Status.NOT_CHECKED])
def test_no_server_is_started_when_a_required_check_of_the_files_does_not_pass(status: Status) -> None:
    host = Host()
    bad = variant("files", lambda context: Outcome(status, "A byte is wrong."), **FILES)
    results = examine(NO_SERVER, [bad, Sound], start_server=host)
    assert host.log == []
    assert results[1].outcome == Outcome.not_checked("The server was not started: A byte is wrong.")


def test_server_is_started_when_only_an_optional_check_of_the_files_fails() -> None:
    host = Host()
    bad = variant("files", lambda context: Outcome.failed("No card."), needs_server=False)
    assert examine(NO_SERVER, [bad, Sound], start_server=host)[1].outcome.status is Status.PASSED
    assert host.log == ["started", "stopped"]


def test_server_that_does_not_start_leaves_its_reason_on_each_check() -> None:
    seen: list[Result] = []
    host = Host(RuntimeError("It exited with 3."))
    results = examine(NO_SERVER, [Sound], start_server=host, on_result=seen.append)
    assert results == seen
    assert results[0].outcome == Outcome.not_checked("It exited with 3.")


LIVE = {"needs_live": True}


def test_live_version_is_started_for_the_checks_that_compare_with_it_and_stopped_before_the_last_ones() -> None:
    host, live = Host(), Host()
    logs: list[tuple[str, list[str]]] = []

    def note(name: str) -> Any:
        def look(context: Context) -> Outcome:
            logs.append((name, list(live.log)))
            assert (context.live is not None) == (name == "compare")
            return Outcome.passed("Seen.")

        return look

    checks = [
        variant("last", note("last"), last=True),
        variant("compare", note("compare"), **LIVE),
        variant("alone", note("alone"), alone=True),
    ]
    results = examine(NO_SERVER, checks, start_server=host, start_live=live)
    assert {r.outcome.status for r in results} == {Status.PASSED}
    assert logs == [("alone", []), ("compare", ["started"]), ("last", ["started", "stopped"])]


def test_without_a_live_version_there_is_nothing_to_compare_with() -> None:
    result = examine(CONTEXT, [variant("compare", **LIVE)])[0]
    assert result.outcome == Outcome.not_applicable("No other version is live, so there is nothing to compare with.")


def test_live_version_that_does_not_start_is_no_finding_against_the_new_one() -> None:
    live = Host(RuntimeError("There is no second card."))
    result = examine(CONTEXT, [variant("compare", **LIVE)], start_live=live)[0]
    assert result.outcome.status is Status.NOT_CHECKED
    assert "could not be started: There is no second card." in result.outcome.reason


def test_live_version_is_not_started_for_what_is_blocked_already() -> None:
    live = Host()
    bad = variant("bad", lambda context: Outcome.failed("It is wrong."), required=True)
    result = examine(CONTEXT, [bad, variant("compare", **LIVE)], start_live=live)[1]
    assert result.outcome == Outcome.not_checked("The live version was not started for it: bad blocks already.")
    assert live.log == []


def test_live_version_is_not_started_where_the_policy_does_not_ask() -> None:
    live = Host()
    context = replace(CONTEXT, policy=Policy(compare_with_live=False))
    result = examine(context, [variant("compare", **LIVE)], start_live=live)[0]
    assert result.outcome.status is Status.NOT_APPLICABLE
    assert live.log == []


def test_checks_of_files_are_not_applicable_where_only_a_server_was_given() -> None:
    context = replace(CONTEXT, artifact=None, manifest=None)
    both = variant("both", needs_artifact=True)
    results = examine(context, [variant("files", needs_artifact=True, **FILES), both, Sound])
    said = Outcome.not_applicable("No files were given, only a running server.")
    assert [r.outcome for r in results[:2]] == [said, said]
    assert results[2].outcome.status is Status.PASSED
    assert not results[0].stops


def test_server_has_only_so_long_for_all_checks_together() -> None:
    never = threading.Event()

    def hang(context: Context) -> Outcome:
        never.wait(30)
        return Outcome.passed("At last.")

    checks = [variant(f"hangs_{n}", hang, alone=True) for n in range(3)] + [variant("quick", last=True)]
    began = time.monotonic()
    results = examine(CONTEXT, checks, server_seconds=0.3)
    never.set()
    assert time.monotonic() - began < 10
    assert [r.outcome.status for r in results] == [Status.ERROR] + [Status.NOT_CHECKED] * 3
    assert results[0].outcome.reason == "The check was ended: the 0.3 s for all checks of the server were used up."
    assert results[3].outcome.reason.startswith("It was not begun: the 0.3 s")


def test_server_is_asked_once_before_the_first_check_so_that_none_takes_its_first_start_for_its_speed() -> None:
    with recording() as recorder:
        seen: list[int] = []

        def count(context: Context) -> Outcome:
            seen.append(len(recorder.bodies))
            return Outcome.passed("Counted.")

        context = replace(CONTEXT, server=recorder.running)
        examine(context, [variant("files", needs_artifact=True, **FILES)], warm_up=warm_up)
        assert recorder.bodies == []  # nobody wants to know anything of it
        examine(context, [variant("first", count)], warm_up=warm_up)
        assert (seen, recorder.paths) == ([1], ["/v1/completions"])


def test_copy_of_the_live_version_is_asked_once_too() -> None:
    with recording() as recorder:

        @contextmanager
        def live() -> Iterator[RunningServer]:
            yield recorder.running

        examine(CONTEXT, [variant("compare", **LIVE)], start_live=live, warm_up=warm_up)
        assert recorder.paths == ["/v1/completions"]


def test_server_that_hangs_at_its_first_request_uses_up_the_time_of_the_checks_and_no_more() -> None:
    began = time.monotonic()
    with serving(silent) as url:
        context = replace(CONTEXT, server=RunningServer(url, "words", ""))
        result = examine(context, [Sound], warm_up=warm_up, server_seconds=0.3)[0]
    assert time.monotonic() - began < 10
    assert result.outcome.reason == "It was not begun: the 0.3 s for all checks of the server were used up."


def test_policy_with_a_longer_load_has_so_much_more_time() -> None:
    never = threading.Event()
    context = replace(CONTEXT, policy=Policy(load=Load(seconds=5.25)))
    result = examine(context, [variant("hangs", lambda c: never.wait(30))], server_seconds=0.05)[0]
    never.set()
    assert result.outcome.reason == "The check was ended: the 0.3 s for all checks of the server were used up."


def test_late_answer_of_a_check_that_was_given_up_is_not_heard() -> None:
    release, answered = threading.Event(), threading.Event()

    def late(context: Context) -> Outcome:
        release.wait(30)
        answered.set()
        return Outcome.passed("At last.")

    def let_it_go(context: Context) -> Outcome:
        release.set()
        assert answered.wait(20)
        return Outcome.passed("Seen.")

    seen: list[str] = []
    checks = [variant("late", late, timeout=0.1), variant("later", let_it_go, alone=True)]
    results = examine(CONTEXT, checks, on_result=lambda r: seen.append(r.name))
    assert seen == ["security.late", "security.later"]
    assert [r.outcome.status for r in results] == [Status.ERROR, Status.PASSED]


def test_check_that_was_given_up_is_told_and_has_stopped_before_the_speed_is_measured() -> None:
    stopped = threading.Event()

    def press(context: Context) -> Outcome:
        assert context.given_up.wait(30)
        stopped.set()
        return Outcome.passed("I stopped.")

    def measure(context: Context) -> Outcome:
        return Outcome.passed("Quiet.") if stopped.is_set() else Outcome.failed("It is pressed.")

    checks = [variant("press", press, timeout=0.1), variant("measure", measure, alone=True)]
    results = examine(CONTEXT, checks)
    assert [r.outcome.reason for r in results] == ["The check gave no answer within 0.1 s.", "Quiet."]


def test_check_that_runs_when_the_examination_is_broken_off_is_told() -> None:
    told = threading.Event()

    def press(context: Context) -> Outcome:
        if context.given_up.wait(30):
            told.set()
        return Outcome.passed("I stopped.")

    def gone(result: Result) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(CONTEXT, [variant("press", press), Sound], on_result=gone)
    assert told.wait(20)


def test_visitor_of_a_check_that_was_given_up_asks_nothing_more() -> None:
    context = replace(CONTEXT)
    context.given_up.set()
    with visit(context) as visitor, pytest.raises(TimeoutError, match="Nobody waits"):
        visitor.ask("GET", "/health")


def test_check_of_files_that_measures_speed_runs_alone_too() -> None:
    busy: set[str] = set()
    beside: list[set[str]] = []

    def watch(name: str) -> Any:
        def run(context: Context) -> Outcome:
            busy.add(name)
            beside.append(set(busy))
            busy.remove(name)
            return Outcome.passed("Seen.")

        return run

    names = ["one", "two", "three"]
    examine(CONTEXT, [variant(n, watch(n), needs_server=False, alone=n == "one") for n in names])
    assert beside[-1] == {"one"}


def test_copy_of_the_live_version_that_never_starts_is_given_up_and_stopped_when_it_comes() -> None:
    release, stopped = threading.Event(), threading.Event()

    @contextmanager
    def hang() -> Iterator[RunningServer]:
        assert release.wait(30)
        try:
            yield SERVER
        finally:
            stopped.set()

    checks = [variant("compare", **LIVE), variant("last", last=True)]
    results = examine(CONTEXT, checks, start_live=hang, live_start_seconds=0.1)
    assert results[0].outcome == Outcome.not_checked(
        "A copy of the live version could not be started: It was not ready within 0.1 s."
    )
    assert results[1].outcome.status is Status.PASSED
    release.set()
    assert stopped.wait(20)


def test_copy_of_the_live_version_may_take_three_times_as_long_as_the_new_one_did() -> None:
    later = [0.0]

    @contextmanager
    def slow_new() -> Iterator[RunningServer]:
        later[0] += 10.0
        yield SERVER

    @contextmanager
    def slow_live() -> Iterator[RunningServer]:
        assert not release.wait(0.2)  # twice as long as it could take beside a new version that is there at once
        yield SERVER

    release = threading.Event()
    result = examine(
        NO_SERVER,
        [variant("compare", **LIVE)],
        start_server=slow_new,
        start_live=slow_live,
        live_start_seconds=0.1,
        clock=lambda: time.monotonic() + later[0],
    )[0]
    assert result.outcome.status is Status.PASSED


def test_starting_the_live_version_does_not_use_up_the_time_of_the_checks() -> None:
    later = [0.0]

    @contextmanager
    def slow() -> Iterator[RunningServer]:
        later[0] += 1000.0
        yield SERVER

    checks = [variant("compare", **LIVE), variant("last", last=True)]
    clock = lambda: time.monotonic() + later[0]  # noqa: E731
    results = examine(CONTEXT, checks, start_live=slow, clock=clock, server_seconds=60)
    assert [r.outcome.status for r in results] == [Status.PASSED, Status.PASSED]


def test_live_version_whose_start_ends_the_program_ends_only_the_comparison() -> None:
    leaves = Host(SystemExit(3))
    results = examine(CONTEXT, [variant("compare", **LIVE), variant("last", last=True)], start_live=leaves)
    assert results[0].outcome.reason == "A copy of the live version could not be started: SystemExit: 3"
    assert results[1].outcome.status is Status.PASSED


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), RuntimeError("the database is gone")])
def test_what_the_caller_meets_ends_the_examination_and_both_servers(raised: BaseException) -> None:
    host, live = Host(), Host()

    def interrupt(result: Result) -> None:
        if result.name == "security.compare":
            raise raised

    with pytest.raises(type(raised)):
        examine(NO_SERVER, [variant("compare", **LIVE), Sound], start_server=host, start_live=live, on_result=interrupt)
    assert (host.log, live.log) == (["started", "stopped"], ["started", "stopped"])


class Unreadable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def raising(error: BaseException) -> Any:
    def run(context: Context) -> Outcome:
        raise error

    return run


def circle() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["again"] = found
    return found


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("great", "It is."), "ValueError: 'great' is not a valid Status"),  # type: ignore[arg-type]
        (Outcome.passed(None), "None stands where a text is expected"),  # type: ignore[arg-type]
        (Outcome.passed("It is.", value="much"), "its value is 'much', a number is expected"),
        (Outcome.passed("It is.", limit=True), "its limit is True, a number is expected"),
        (Outcome.passed("It is.", evidence=["a"]), "its evidence is list, a mapping is expected"),
        (Outcome.passed("It is.", evidence=circle()), "RecursionError"),
        (Outcome.passed("It is.", findings=("bad",)), "AttributeError"),
    ],
)
def test_answer_that_cannot_be_kept_is_an_error_of_that_check_alone(outcome: Outcome, words: str) -> None:
    results = examine(CONTEXT, [variant("odd", lambda context: outcome), Sound])
    assert results[0].outcome.status is Status.ERROR
    assert words in results[0].outcome.reason
    assert results[1].outcome.status is Status.PASSED


def test_error_without_readable_words_is_an_error_all_the_same() -> None:
    result = examine(CONTEXT, [variant("mute", raising(Unreadable()))])[0]
    assert result.outcome.reason == "The check failed with Unreadable: no text"


def test_status_may_be_its_word_and_a_value_any_number() -> None:
    outcome = Outcome("passed", "It is.", value=Fraction(1, 2))  # type: ignore[arg-type]
    result = examine(CONTEXT, [variant("loose", lambda context: outcome)])[0]
    assert result.outcome.status is Status.PASSED
    assert result.outcome.value == 0.5


def test_evidence_too_long_to_keep_is_left_out_with_its_size() -> None:
    outcome = Outcome.failed("It is.", evidence={"all": "x" * 300_000})
    result = examine(CONTEXT, [variant("long", lambda context: outcome)])[0]
    assert result.outcome.evidence == {"left_out": "It had 300,011 bytes; 256,000 are kept."}


def test_key_of_the_live_version_is_taken_out_too() -> None:
    live = replace(SERVER, api_key="another-key")
    outcome = Outcome.failed("It says a-secret-key and another-key.")
    result = examine(replace(CONTEXT, live=live), [variant("leak", lambda c: outcome, needs_live=True)])[0]
    assert result.outcome.reason == "It says ••• and •••."


def test_required_check_of_an_advisory_category_does_not_block() -> None:
    bad = variant("bad", lambda context: Outcome.failed("It is wrong."), required=True)
    context = replace(CONTEXT, policy=Policy(advisory=("security",)))
    assert not examine(context, [bad])[0].stops
    assert examine(CONTEXT, [bad])[0].stops


def test_secrets_are_taken_out_of_findings_too() -> None:
    found = Finding(Severity.HIGH, "It says a-secret-key.", "Change a-secret-key.")
    result = examine(CONTEXT, [variant("leak", lambda c: Outcome.failed("It leaks.", findings=(found,)))])[0]
    assert [f.to_json() for f in result.outcome.findings] == [
        {"severity": "high", "sentence": "It says •••.", "action": "Change •••."}
    ]


def test_result_is_scored_by_its_facts() -> None:
    scored = to_scored(examine(CONTEXT, [Sound])[0])
    assert (scored.name, scored.category, scored.status, scored.reason) == (
        "security.sound",
        "security",
        Status.PASSED,
        "It is sound.",
    )
