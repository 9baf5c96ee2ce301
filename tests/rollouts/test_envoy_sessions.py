"""From what users do at a real gateway to what decisions read: sessions, and what their users said."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from deploypipe.metrics import feedback
from deploypipe.metrics.facts import RouteFacts
from deploypipe.metrics.measured import measured
from deploypipe.metrics.models import FeedbackTotals
from deploypipe.metrics.sources import gateway as source
from deploypipe.metrics.windows import CANDIDATE, STABLE, ArmWindow, Measured
from rollouts.traffic.base import Backend, RouteTable
from tests.metrics.world import totals
from tests.rollouts.test_envoy import Gateway, Upstream, event, eventually, new_id, running_gateway, session_in

BEGAN = timezone.now() - timedelta(hours=1)
ARMS = {"stable": STABLE, "candidate": CANDIDATE}
FACTS = RouteFacts("prod", "m", "salt", BEGAN, 2, BEGAN, ARMS, {STABLE: 0.5, CANDIDATE: 0.5})
PERIOD = 2


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with (
        running_gateway(tmp_path_factory.mktemp("gateway")) as gateway,
        Upstream("stable") as stable,
        Upstream("candidate") as candidate,
    ):
        stable.stream("/stream", event('{"n": 1}'), event("[DONE]"))
        candidate.stream("/stream", event('{"n": 1}'), event('{"error": {"message": "out of memory"}}'))
        backends = (Backend("candidate", candidate.address, 5_000), Backend("stable", stable.address, 5_000))
        table = RouteTable(
            "prod", "m", backends, "salt", cuts=(("candidate", 5_000), ("stable", 5_000)),
            arms=(("candidate", "candidate"), ("stable", "stable")),
        )  # fmt: skip
        revision = gateway.router.write([table])
        eventually(lambda: gateway.router.installed().revision == revision)
        yield gateway


def read(gateway: Gateway, at: datetime | None = None) -> None:
    source.read(gateway.router.access_log, lambda: [FACTS], clock=lambda: at or timezone.now())


def windows() -> list[Measured]:
    return measured("prod", "m", ARMS, BEGAN)


def of(arm: str) -> ArmWindow:
    return totals(windows())[PERIOD, arm]


def ask(gateway: Gateway, session: str, path: str, **headers: str) -> str:
    """The request's id."""
    answer = gateway.get(f"/prod/m{path}", session=session, **headers)
    return str(answer.headers["x-request-id"])


@pytest.mark.django_db
def test_users_of_a_real_gateway_are_counted_and_heard(gateway: Gateway) -> None:
    on_candidate, on_stable = session_in(0, 5_000), session_in(5_000, 10_000)
    for path in ("/who", "/fail", "/stream", "/bad"):
        ask(gateway, on_candidate, path)
    named = ask(gateway, on_stable, "/who")
    ask(gateway, on_stable, "/stream")
    last = ask(gateway, on_stable, "/who", x_deploypipe_arm="candidate", request_id=new_id())
    gateway.record_of(last)
    read(gateway)
    assert (of(CANDIDATE).fresh.first, of(STABLE).fresh.first) == ((1, 0), (1, 0))
    assert of(CANDIDATE).errors == {"http_5xx": 1, "stream_error": 1}
    assert (of(CANDIDATE).client_errors, of(CANDIDATE).requests, of(STABLE).requests) == (1, 3, 2)

    said: list[dict[str, Any]] = [
        {"session": on_candidate, "rating": 2, "converted": False},
        {"request_id": named, "rating": 5, "cost": 0.25},
        {"session": "somebody else", "rating": 1},
    ]
    assert feedback.accept("prod", "m", said, timezone.now()).accepted == 3
    read(gateway, timezone.now() + timedelta(seconds=90))
    assert of(CANDIDATE).fresh.whole == {(3, 2): 1}
    assert of(STABLE).fresh.whole == {(2, 0): 1}
    assert of(CANDIDATE).fresh.feedback.ratings == {2: 1}
    # Stable's user looked at the candidate by force before the rating came: heard, but of no weight.
    assert of(STABLE).fresh.feedback.ratings == {}
    heard = [of(arm).feedback for arm in (STABLE, CANDIDATE)]
    assert sum(sum(words.ratings.values()) for words in heard) == 2
    assert (of(CANDIDATE).assigned, of(STABLE).assigned) == (1, 1)
    found = FeedbackTotals.objects.get()
    assert (found.matched, found.waiting) == (2, 1)
