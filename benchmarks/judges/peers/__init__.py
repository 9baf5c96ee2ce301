"""The judges of others, each written anew from its documents and source, with the settings that its documents give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.judges.peers import fixed, growthbook
from benchmarks.judges.peers.argo import Argo
from benchmarks.judges.peers.flagger import Flagger
from benchmarks.judges.peers.kayenta import Kayenta
from benchmarks.judges.peers.mission import Mission
from benchmarks.judges.scenarios import MARGIN, RATIO, Scenario, Stream
from benchmarks.judges.verdicts import Verdicts

YARDSTICK = "Exact test, one look at the end"

Judge = Callable[[Stream, Sequence[float]], dict[float, Verdicts]]


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    judge: Judge
    """The verdicts at each alpha; the same ones for a judge that knows none."""
    knows_alpha: bool = False


def _without_alpha(judge: Callable[[Stream], Verdicts]) -> Judge:
    def judged(stream: Stream, alphas: Sequence[float]) -> dict[float, Verdicts]:
        return dict.fromkeys(alphas, judge(stream))

    return judged


def _at_each(judge: Callable[[Stream, float], Verdicts]) -> Judge:
    def judged(stream: Stream, alphas: Sequence[float]) -> dict[float, Verdicts]:
        return {alpha: judge(stream, alpha) for alpha in alphas}

    return judged


MISSION = (
    Peer("Mission's rule", _without_alpha(Mission(abort_waits=False))),
    Peer("Mission's rule, nothing before 1,000 requests", _without_alpha(Mission(abort_waits=True))),
)

OF_ERRORS = (
    *MISSION,
    Peer("Argo: success ≥ 95 %, limit 0", _without_alpha(Argo(0, least_success=0.95))),
    Peer("Argo: success ≥ 95 %, limit 3", _without_alpha(Argo(3, least_success=0.95))),
    Peer("Argo: success ≥ 95 %, limit 3, each 5 min", _without_alpha(Argo(3, least_success=0.95, interval=5))),
    Peer("Argo: rise ≤ 0.5 points, limit 0", _without_alpha(Argo(0, most_increase=MARGIN))),
    Peer("Argo: rise ≤ 0.5 points, limit 3", _without_alpha(Argo(3, most_increase=MARGIN))),
    Peer("Flagger: success ≥ 99 %, threshold 1", _without_alpha(Flagger(1))),
    Peer("Flagger: success ≥ 99 %, threshold 5", _without_alpha(Flagger(5))),
    Peer("Kayenta, once", _without_alpha(Kayenta(1, "errors"))),
    Peer("Kayenta, six times", _without_alpha(Kayenta(6, "errors"))),
    Peer("GrowthBook, sequential", _at_each(growthbook.judge), True),
    Peer("z-test, every look", _at_each(fixed.z_test), True),
    Peer("Fisher, every look", _at_each(fixed.fisher), True),
    Peer("Fisher, one look at the end", _at_each(fixed.fisher_at_end), True),
    Peer(YARDSTICK, fixed.exact_at_end, True),
)

OF_LATENCY = (
    *MISSION,
    Peer("Argo: P95 ≤ 1.2 × stable, limit 0", _without_alpha(Argo(0, most_slower=RATIO))),
    Peer("Argo: P95 ≤ 1.2 × stable, limit 3", _without_alpha(Argo(3, most_slower=RATIO))),
    Peer("Flagger: P99 ≤ 500 ms, threshold 1", _without_alpha(Flagger(1))),
    Peer("Flagger: P99 ≤ 500 ms, threshold 5", _without_alpha(Flagger(5))),
    Peer("Kayenta, once", _without_alpha(Kayenta(1, "latency"))),
    Peer("Kayenta, six times", _without_alpha(Kayenta(6, "latency"))),
    Peer("z-test of slow shares, every look", _at_each(fixed.slow_share), True),
)


KNOWING_ALPHA = frozenset(peer.name for peer in (*OF_ERRORS, *OF_LATENCY) if peer.knows_alpha)


def of(scenario: Scenario) -> tuple[Peer, ...]:
    return OF_ERRORS if scenario.latency is None else OF_LATENCY
