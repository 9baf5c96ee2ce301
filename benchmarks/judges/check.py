"""That the table is about the product's own code: the same windows through `deploypipe.metrics.criteria`."""

from __future__ import annotations

from benchmarks.judges import ours
from benchmarks.judges.scenarios import FIRST_BIN, Arm, Stream
from benchmarks.judges.verdicts import ABORT, OPEN, PROMOTE, Verdicts
from deploypipe.metrics import criteria
from deploypipe.metrics.windows import CANDIDATE, STABLE, ArmWindow, Measured, Units


def windows(stream: Stream, run: int) -> list[Measured]:
    scenario = stream.scenario
    shares, periods = scenario.shares.tolist(), scenario.periods.tolist()
    return [
        Measured(
            number,
            float(scenario.window_seconds),
            periods[number],
            {STABLE: 1 - shares[number], CANDIDATE: shares[number]},
            {STABLE: _arm(stream.stable, run, number), CANDIDATE: _arm(stream.candidate, run, number)},
        )
        for number in range(scenario.windows)
    ]


def _arm(arm: Arm, run: int, window: int) -> ArmWindow:
    requests, failed = int(arm.requests[run, window]), int(arm.errors[run, window])
    latency: dict[int, int] = {}
    if arm.latency is not None:
        counts = arm.latency[run, window]
        latency = {FIRST_BIN + int(i): int(counts[i]) for i in counts.nonzero()[0]}
    units = Units()
    if arm.sessions is not None:
        whole = arm.sessions.whole[run, window]
        units = Units(
            first=(int(arm.sessions.first[run, window]), int(arm.sessions.first_failed[run, window])),
            whole={(int(n), int(s)): int(whole[n, s]) for n, s in zip(*whole.nonzero(), strict=True)},
        )
    return ArmWindow(requests=requests, errors={"server": failed} if failed else {}, latency=latency, fresh=units)


def verdict(evaluation: criteria.Evaluation) -> int:
    """Abort if anything is broken, promote if all that must be proven is."""
    rows = criteria.rows(evaluation)
    if any(row.state is criteria.State.BROKEN for row in rows):
        return ABORT
    return PROMOTE if all(row.state is criteria.State.MET for row in rows if row.proves) else OPEN


def differences(stream: Stream, alpha: float, verdicts: Verdicts, runs: int, *, alone: bool = False) -> list[str]:
    """Where the product says something else than `ours.judge`, or says it at another look; empty if all is the same."""
    found = []
    plan = ours.plan(stream.scenario, alpha, alone=alone)
    for run in range(min(runs, stream.runs)):
        measured = windows(stream, run)
        kind, look = int(verdicts.kind[run]), int(verdicts.look[run])
        before = criteria.replay(plan, measured[:look])
        after = criteria.advance(before, measured[look : look + 1])
        if look == stream.scenario.windows - 1:
            after = criteria.close(after)
        if verdict(before) != OPEN or verdict(after) != kind:
            found.append(
                f"{stream.scenario.name}, run {run}, alpha {alpha}: ours {kind} at look {look}, the product"
                f" {verdict(before)} before and {verdict(after)} at it"
            )
    return found
