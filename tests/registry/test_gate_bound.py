"""An examination ends within five minutes whatever the server does, every time-out counted."""

from __future__ import annotations

import time

import pytest

from registry.qa.base import Check, Context, RunningServer
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.runner import AT_ONCE, LIVE_START_SECONDS, SERVER_SECONDS, Result, examine
from registry.qa.warming import warm_up
from registry.scoring import Status
from tests.registry.worst_servers import WORST, healthy_then_silent, serving

FIVE_MINUTES = 300.0


def examined(url: str, seconds: float = SERVER_SECONDS) -> list[Result]:
    server = RunningServer(url, "words", "a-secret-key-0123456789")
    return examine(Context(None, None, "vllm", Policy(), server), all_checks(), warm_up=warm_up, server_seconds=seconds)


@pytest.mark.slow
def test_whole_gate_at_default_policy_ends_soon_on_a_server_that_hangs_at_everything_but_its_health() -> None:
    began = time.monotonic()
    with serving(healthy_then_silent) as url:
        results = examined(url)
    took = time.monotonic() - began
    slowest = sorted(results, key=lambda result: -result.seconds)[:5]
    # 99 s when this was written, 30 of them for the warm-up; a check that waits for every request of a list would show
    # here first.
    assert took < 150, [(result.name, round(result.seconds, 1)) for result in slowest]
    stops = {result.name for result in results if result.stops}
    assert {"compatibility.generation", "performance.error_rate", "security.key_required"} <= stops
    assert not [result.outcome.reason for result in results if "used up" in result.outcome.reason]
    assert not [result.name for result in results if "gave no answer within" in result.outcome.reason]


@pytest.mark.parametrize("name", WORST)
def test_runner_ends_whatever_the_server_does_and_each_check_has_a_result(name: str) -> None:
    began = time.monotonic()
    with serving(WORST[name]) as url:
        results = examined(url, seconds=2.0)
    assert time.monotonic() - began < 60
    assert [result.name for result in results] == [check.name for check in all_checks()]
    asked = [r for r, check in zip(results, all_checks(), strict=True) if check.needs_server]
    well = [r.name for r in asked if r.outcome.status is Status.PASSED and r.name != "security.transport"]
    assert well == []  # over the wire all is well where the address is on loopback: that one looks at nothing else


def test_all_time_outs_together_stay_under_five_minutes() -> None:
    # Before the server's time begins: what needs neither files nor a server, side by side. How long files take is by
    # their size. The warm-ups are in the server's time.
    before = [_longest(c) for c in all_checks() if not c.needs_server and not c.needs_artifact]
    assert len(before) <= AT_ONCE
    assert SERVER_SECONDS + LIVE_START_SECONDS + max(before) <= FIVE_MINUTES


def _longest(check: type[Check]) -> float:
    """One that bounds its own process says so in a parameter; 10 s more for what it does beside."""
    own = [float(parameter.default) for parameter in check.parameters if parameter.name == "seconds"]
    return min([check.timeout, *(seconds + 10 for seconds in own)])
