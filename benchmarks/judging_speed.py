"""How long one look takes at many experiments: `make benchmark-judging`.

Each experiment has six metrics, in sessions: increase of the error rate, increase of the P95 latency, rating, and three
absolute limits, every one with its readings and directions. A look is one new window of both arms for each experiment.
More traffic costs no more, once it has filled all bins of the latencies that occur. Processor time of one core.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from deploypipe.metrics.criteria import Criterion, Evaluation, Kind, Plan, Role, advance, advance_many, rows, start
from deploypipe.metrics.windows import CANDIDATE, STABLE, WHOLE, ArmWindow, Feedback, Measured, Units
from deploypipe.stats.histogram import bin_of

PLAN = Plan(
    (
        Criterion("error_rate", Kind.INCREASE, 0.5, role=Role.GOAL),
        Criterion("latency", Kind.INCREASE, 20, True, 0.95, role=Role.GOAL),
        Criterion("rating", Kind.LIMIT, 4.0, role=Role.GOAL),
        Criterion("error_rate", Kind.LIMIT, 5.0, proves=False),
        Criterion("latency", Kind.LIMIT, 1000, level=0.95, proves=False),
        Criterion("success_rate", Kind.LIMIT, 95.0, proves=False),
    )
)
WARM = 20
"""Windows before the one that is timed: alternatives and thresholds exist by then."""
TRAFFIC = (10, 100, 1000, 10_000)
"""Sessions per arm and window."""
GOAL = 1.0
SHAPES = 50
"""Different windows that the experiments take in turn: making them is not what is timed."""


def arm(sessions: int, rng: random.Random) -> ArmWindow:
    def latencies(weight: int) -> dict[int, int]:
        counts: dict[int, int] = {}
        for _ in range(min(sessions, 200)):
            bin_ = bin_of(rng.lognormvariate(5, 0.5))
            counts[bin_] = counts.get(bin_, 0) + weight * max(1, sessions // 200)
        return counts

    failed = sum(rng.random() < 0.01 for _ in range(sessions))
    whole: dict[tuple[int, int], int] = {}
    for _ in range(sessions):
        requests = rng.randint(1, 5)
        key = (requests, sum(rng.random() < 0.01 for _ in range(requests)))
        whole[key] = whole.get(key, 0) + 1
    ratings = {stars: max(1, round(sessions * part)) for stars, part in ((3, 0.02), (4, 0.04), (5, 0.06))}
    return ArmWindow(
        requests=3 * sessions,
        errors={"server_error": failed},
        assigned=sessions,
        fresh=Units((sessions, failed), latencies(1), whole, latencies(WHOLE), Feedback(ratings)),
    )


def windows(sessions: int, rng: random.Random) -> list[Measured]:
    return [
        Measured(0, 15.0, 0, {STABLE: 0.5, CANDIDATE: 0.5}, {STABLE: arm(sessions, rng), CANDIDATE: arm(sessions, rng)})
        for _ in range(SHAPES)
    ]


def numbered(window: Measured, number: int) -> Measured:
    return Measured(number, window.seconds, window.period, window.shares, window.arms)


def measure(experiments: int, sessions: int, looks: int) -> tuple[float, float, float]:
    """Median seconds of a look at all of them together, one by one, and of their rows."""
    rng = random.Random(7)
    shapes = windows(sessions, rng)
    states: list[Evaluation] = [start(PLAN)] * experiments
    together: list[float] = []
    for look in range(WARM + looks):
        new = [(numbered(shapes[(look + place) % SHAPES], look),) for place in range(experiments)]
        began = time.process_time()
        states = advance_many(states, new, [CANDIDATE] * experiments)
        if look >= WARM:
            together.append(time.process_time() - began)
    began = time.process_time()
    for place, state in enumerate(states):
        advance(state, (numbered(shapes[place % SHAPES], WARM + looks),))
    alone = time.process_time() - began
    began = time.process_time()
    for state in states:
        rows(state)
    return statistics.median(together), alone, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--looks", type=int, default=5)
    given = parser.parse_args()
    print(
        f"{given.experiments:,} experiments, {len(PLAN.criteria)} metrics each, one new window; seconds on one core\n"
    )
    print("| sessions per arm and window | all together | one by one | their rows |\n|---|---|---|---|")
    seconds = {}
    for sessions in TRAFFIC:
        together, alone, shown = measure(given.experiments, sessions, given.looks)
        seconds[sessions] = together
        print(f"| {sessions:,} | {together:.2f} | {alone:.2f} | {shown:.2f} |", flush=True)
    most = max(seconds.values())
    _, *others, last = seconds.values()
    print(f"\n{'PASS' if most < GOAL else 'MISS'}: together in less than {GOAL:g} s (at most {most:.2f} s)")
    print(f"{TRAFFIC[-1] // TRAFFIC[1]} times the traffic: {last / others[0]:.2f} times the cost")


if __name__ == "__main__":
    main()
