"""The figures as Markdown: the goals, a table that reads at a glance, and every cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.judges import peers
from benchmarks.judges.figures import Figures, Share, minutes, percent, ratio
from benchmarks.judges.goals import Goal, goals
from benchmarks.judges.grid import MIDDLE
from benchmarks.judges.run import ALPHAS, OURS, OURS_ALONE, SEED, Done

BEGIN, END = "<!-- made by `make benchmark-judges`: begin -->", "<!-- made by `make benchmark-judges`: end -->"
_WORDS = {True: "PASS", False: "MISS", None: "NOT MEASURED"}
CELLS_PAGE = "decision_quality_cells.md"


def summary(done: Sequence[Done], found: Sequence[Figures], seconds: float, machine: str) -> str:
    runs = sum(len(outcome.kind) for one in done for (judge, alpha), outcome in one.outcomes.items() if judge == OURS)
    held = {alpha: goals(found, alpha) for alpha in ALPHAS}
    usual = [one for one in found if one.alpha == ALPHAS[0] and one.judge != OURS_ALONE]
    of_errors = [one for one in usual if not one.cell.scenario.latency and not one.cell.scenario.outage]
    of_latency = [one for one in usual if one.cell.scenario.latency]
    return "\n\n".join([
        "### Does it keep what it promises?",
        _at_a_glance(held),
        "### Error rates: all judges, α = 0.05",
        _glance(of_errors),
        "### Latency: all judges, α = 0.05",
        _glance(of_latency),
        "### The middle of the grid: 1 % errors, 200 requests/min, a tenth of the traffic, one hour, α = 0.05",
        _cells(one for one in usual if one.cell.family == MIDDLE),
        *(part for alpha in ALPHAS for part in (f"### Goal by goal, α = {alpha:g}", _goals(held[alpha]))),
        "### How it was made",
        f"{len(done)} cells, {runs // len(ALPHAS):,} simulated runs of ours, seed {SEED},"
        f" {seconds / 60:.1f} minutes on {machine}. [All of them]({CELLS_PAGE}).",
        *_product(done),
    ])  # fmt: skip


def _product(done: Sequence[Done]) -> list[str]:
    differences = [said for one in done for said in one.differences]
    same = f"ANOTHER verdict in {len(differences)}" if differences else "the same verdict at the same look in each"
    return [
        "The product's own evaluation (`deploypipe.metrics.criteria`) judged the windows of"
        f" {sum(one.checked for one in done):,} of these runs, and came to {same}.",
        *differences[:10],
    ]


def everything(found: Sequence[Figures]) -> str:
    parts = [
        "# Every cell of the benchmark of judges",
        "Made by `make benchmark-judges`, read in [decision_quality.md](decision_quality.md), which says what the"
        " columns mean. At α = 0.01 only the judges that know an α are listed again.",
    ]
    knowing = {OURS, OURS_ALONE, *peers.KNOWING_ALPHA}
    for alpha in ALPHAS:
        parts.append(f"## α = {alpha:g}")
        families = dict.fromkeys(one.cell.family for one in found)
        for family in families:
            rows = [one for one in found if one.cell.family == family and one.alpha == alpha]
            if alpha != ALPHAS[0]:
                rows = [one for one in rows if one.judge in knowing]
            parts.append(f"### {family[0].upper()}{family[1:]}")
            parts.append(_cells(rows))
    return "\n\n".join(parts) + "\n"


def replace_between(page: Path, text: str) -> None:
    """Put the made part into the page, whose prose stays."""
    old = page.read_text()
    before, rest = old.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _at_a_glance(held: Mapping[float, Sequence[Goal]]) -> str:
    alphas = list(held)
    lines = [
        "| Goal |" + "".join(f" α = {alpha:g} |" for alpha in alphas),
        "|---|" + "---|" * len(alphas),
    ]
    for same in zip(*held.values(), strict=True):
        lines.append(f"| {same[0].words} |" + "".join(f" {_verdict(goal)} |" for goal in same))
    return "\n".join(lines)


def _verdict(goal: Goal) -> str:
    return f"**{_WORDS[goal.passed]}**" + (f", {goal.held} of {goal.of}" if goal.of else "")


def _goals(some: Sequence[Goal]) -> str:
    lines = []
    for goal in some:
        lines.append(f"- {_verdict(goal)}: {goal.words}.")
        lines += [f"  - {note}" for note in goal.notes]
        lines += [f"  - MISS in {miss}" for miss in goal.misses]
    return "\n".join(lines)


def _cells(rows: Iterable[Figures]) -> str:
    lines = [
        "| Candidate | Judge | Falsely aborted | Bad promoted | Missed at the end | Median requests | Median time |"
        " × Wald |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.cell.effect} | {_bold(one.judge)} | {percent(one.falsely_aborted)} | {percent(one.badly_promoted)} |"
        f" {percent(one.missed)} | {_requests(one.requests)} | {minutes(one.minutes)} | {_times(one.to_wald)} |"
        for one in rows
    ]
    return "\n".join(lines)


def _glance(some: Sequence[Figures]) -> str:
    shared = {one.cell.name for one in some if one.judge != OURS}
    judges = dict.fromkeys(one.judge for one in some)
    lines = [
        "| Judge | Identical version aborted, worst | Version within or at the margin aborted, worst | Cells above α |"
        " Bad version promoted, worst | Cells above α | Regressions caught | Sound versions promoted |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for judge in judges:
        own = [one for one in some if one.judge == judge and one.cell.name in shared]
        identical = [one.falsely_aborted for one in own if one.falsely_aborted and one.cell.scenario.unchanged]
        aborted = [one.falsely_aborted for one in own if one.falsely_aborted]
        promoted = [one.badly_promoted for one in own if one.badly_promoted]
        caught = [1 - one.missed.value for one in own if one.missed and one.cell.scenario.beyond]
        passed = [1 - one.missed.value for one in own if one.missed and not one.cell.scenario.beyond]
        alpha = own[0].alpha
        lines.append(
            f"| {_bold(judge)} | {_worst(identical)} | {_worst(aborted)} |"
            f" {sum(share.value > alpha for share in aborted)} of {len(aborted)} |"
            f" {_worst(promoted)} |"
            f" {sum(share.value > alpha for share in promoted)} of {len(promoted)} |"
            f" {100 * sum(caught) / len(caught):.0f} % | {100 * sum(passed) / len(passed):.0f} % |"
        )
    return "\n".join(lines)


def _worst(shares: Iterable[Share]) -> str:
    return percent(max(shares, key=lambda share: share.value))


def _bold(judge: str) -> str:
    return f"**{judge}**" if judge in (OURS, OURS_ALONE) else judge


def _requests(value: float) -> str:
    if math.isnan(value):
        return ""
    return "—" if math.isinf(value) else f"{value:,.0f}"


def _times(value: float) -> str:
    return "—" if math.isinf(value) else ratio(value)
