from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts import FileEntry, Manifest
from registry.qa.base import Check, Context, Finding, Outcome, RunningServer, Severity
from registry.qa.policy import Policy
from registry.qa.runner import Result, examine, to_scored
from registry.scoring import Status

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
    def __init__(self, error: Exception | None = None) -> None:
        self.log: list[str] = []
        self.error = error

    @contextmanager
    def __call__(self) -> Iterator[RunningServer]:
        self.log.append("started")
        if self.error:
            raise self.error
        yield replace(SERVER, model="hosted")
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
    result = examine(context, [variant("files", needs_artifact=True, **FILES), Sound])[0]
    assert result.outcome == Outcome.not_applicable("No files were given, only a running server.")
    assert not result.stops


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
    assert [r.outcome.status for r in results] == [Status.ERROR] * 4
    assert results[0].outcome.reason == "The check was ended: the 0.3 s for all checks of the server were used up."
    assert results[3].outcome.reason.startswith("It was not begun: the 0.3 s")


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
