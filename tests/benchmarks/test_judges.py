"""The small version of the benchmark: our judge keeps its level, and the table is about the product's own code."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.judges import check, figures, goals, grid, ours, peers, run, sessions, table
from benchmarks.judges.scenarios import MARGIN, Latency, Scenario, draw, slow_share
from benchmarks.judges.verdicts import ABORT, OPEN, PROMOTE

ALPHAS = (0.05, 0.01)
RUNS = 400

MIDDLE = Scenario("middle", 0.01, per_minute=200, share=0.1, minutes=30, window_seconds=30)
AT_MARGIN = [
    replace(MIDDLE, name="rare errors", base=0.001, effect=MARGIN),
    replace(MIDDLE, name="middle", effect=MARGIN),
    replace(MIDDLE, name="frequent errors", base=0.05, effect=MARGIN, share=0.5),
    replace(MIDDLE, name="one percent of the traffic", effect=MARGIN, share=0.01),
    replace(MIDDLE, name="closing look", base=0.05, effect=MARGIN, per_minute=20, minutes=60),
    replace(MIDDLE, name="ramp", effect=MARGIN, per_minute=2000, ramp=True),
    replace(MIDDLE, name="day's pattern and ramp", effect=MARGIN, per_minute=2000, ramp=True, drift=2.0),
    replace(MIDDLE, name="sessions", effect=MARGIN, share=0.5, sessions=True),
    replace(MIDDLE, name="sessions and ramp", effect=MARGIN, sessions=True, ramp=True, minutes=32),
    replace(MIDDLE, name="latency", base=0.0, latency=Latency(1.2)),
    replace(
        MIDDLE, name="latency, day's pattern and ramp", base=0.0, latency=Latency(1.2), ramp=True, drift=1.5, minutes=32
    ),
]
"""Where a version may neither be aborted nor promoted."""


@pytest.mark.parametrize("scenario", AT_MARGIN, ids=lambda scenario: scenario.name)
def test_version_at_the_margin_is_neither_aborted_nor_promoted_more_often_than_alpha(scenario):
    runs = 200 if scenario.latency or scenario.sessions else RUNS
    judged = ours.judge(draw(scenario, runs, 1), ALPHAS)
    for alpha, found in judged.items():
        most = alpha + 3 * np.sqrt(alpha * (1 - alpha) / runs)
        assert (found.kind == ABORT).mean() <= most
        assert (found.kind == PROMOTE).mean() <= most


@pytest.mark.parametrize(
    "scenario",
    [
        replace(MIDDLE, name="errors", effect=0.04),
        replace(MIDDLE, name="no change", per_minute=2000, share=0.5),
        replace(MIDDLE, name="slow traffic", effect=0.2, per_minute=20),
        replace(MIDDLE, name="ramp", per_minute=2000, ramp=True),
        replace(MIDDLE, name="outage", effect=0.04, share=0.5, outage=(1, 11)),
        replace(MIDDLE, name="sessions", effect=0.09, share=0.5, sessions=True),
        replace(MIDDLE, name="sessions and ramp", sessions=True, ramp=True, minutes=32, per_minute=2000),
        replace(MIDDLE, name="slower", base=0.0, latency=Latency(1.5)),
        replace(MIDDLE, name="as quick", base=0.0, latency=Latency()),
        replace(
            MIDDLE,
            name="as quick, day's pattern and ramp",
            base=0.0,
            latency=Latency(),
            ramp=True,
            drift=1.5,
            minutes=32,
        ),
    ],
    ids=lambda scenario: scenario.name,
)
def test_product_says_the_same_at_the_same_look(scenario):
    stream = draw(scenario, 20, 2)
    judged = ours.judge(stream, ALPHAS)
    assert (judged[0.05].kind != OPEN).any()  # or there is nothing to compare
    for alpha in ALPHAS:
        assert check.differences(stream, alpha, judged[alpha], 4) == []


def test_product_takes_the_same_closing_look():
    stream = draw(replace(MIDDLE, effect=0.04, per_minute=20, minutes=60), 60, 2)
    for alone in (False, True):
        judged = ours.judge(stream, (0.05,), alone=alone)[0.05]
        by_it = (judged.kind == ABORT) & (judged.look == stream.scenario.windows - 1)
        assert by_it[:12].any()  # or there is nothing to compare
        assert check.differences(stream, 0.05, judged, 12, alone=alone) == []


def test_closing_look_finds_what_looking_all_the_time_pays_for():
    """docs/decisions/0010: two thirds of the runs instead of two fifths."""
    stream = draw(replace(MIDDLE, effect=0.04, per_minute=20, minutes=60), 400, 6)
    caught = ours.judge(stream, (0.05,), alone=True)[0.05].kind == ABORT
    assert (
        caught.mean() >= 0.8 * (dict(peers.of(stream.scenario)[-1].judge(stream, (0.05,)))[0.05].kind == ABORT).mean()
    )


def test_difference_to_the_product_would_be_found():
    stream = draw(replace(MIDDLE, effect=0.09), 2, 2)
    judged = ours.judge(stream, (0.05,))[0.05]
    later = replace(judged, look=judged.look + 1)
    assert len(check.differences(stream, 0.05, later, 2)) == 2


def test_nothing_is_decided_while_nothing_is_measured():
    scenario = replace(MIDDLE, effect=0.2, outage=(0, 30))
    assert (ours.judge(draw(scenario, 50, 3), (0.05,))[0.05].kind == OPEN).all()


def test_streams_have_the_rates_and_the_split_that_they_are_asked_for():
    stream = draw(replace(MIDDLE, effect=0.04, drift=2.0), 400, 4)
    candidate, stable = stream.candidate.requests.sum(), stream.stable.requests.sum()
    assert candidate / (candidate + stable) == pytest.approx(0.1, abs=0.002)
    difference = stream.candidate.errors.sum() / candidate - stream.stable.errors.sum() / stable
    assert difference == pytest.approx(0.04, abs=0.003)


def test_sessions_have_the_same_rate_by_request_and_in_both_readings():
    stream = draw(replace(MIDDLE, base=0.1, share=0.5, sessions=True), 200, 5)
    arm = stream.stable
    assert arm.sessions is not None
    by_request = arm.errors.sum() / arm.requests.sum()
    first = arm.sessions.first_failed.sum() / arm.sessions.first.sum()
    whole = (arm.sessions.shares.sum(axis=(0, 1)) * np.array(sessions.SHARES)).sum() / arm.sessions.whole.sum()
    assert [by_request, first, whole] == pytest.approx([0.1] * 3, abs=0.006)


def test_requests_of_a_session_fail_together():
    """Correlation one third: what request-level tests are wrong about."""
    readings = draw(replace(MIDDLE, base=0.1, share=0.5, sessions=True), 200, 5).stable.sessions
    assert readings is not None
    whole = readings.whole.sum(axis=(0, 1))
    pairs = whole[2]
    assert pairs[2] / pairs[:3].sum() == pytest.approx(0.1 * (0.1 + 0.9 / 3), abs=0.01)


def test_version_that_is_twenty_percent_slower_lies_on_the_boundary_and_the_tail_beyond():
    assert slow_share(Latency(1.2)) == pytest.approx(0.05)
    assert slow_share(Latency(1.0, 0.08, 3.0)) > 0.06
    assert slow_share(Latency(1.1)) < 0.04


def test_table_is_the_same_on_one_core_and_on_two():
    cell = next(cell for cell in grid.cells() if cell.family == "5 % errors, 20/min, split 10 %")
    cells = [replace(cell, runs=90, batch=30)]
    (one,), (two,) = (run.everything(cells, processes, checked=1) for processes in (1, 2))
    assert one.differences == two.differences == ()
    assert len(one.outcomes[run.OURS, 0.05].kind) == 90
    assert [*map(str, figures.figures(one))] == [*map(str, figures.figures(two))]


def test_grid_has_every_factor_and_no_cell_twice():
    cells = grid.cells()
    assert len({cell.name for cell in cells}) == len(cells)
    of_errors = [cell.scenario for cell in cells if not cell.scenario.latency]
    assert {scenario.base for scenario in of_errors} == set(grid.BASES)
    assert {scenario.per_minute for scenario in of_errors} == set(grid.TRAFFIC)
    assert {scenario.share for scenario in of_errors} == set(grid.SPLITS)
    assert all(cell.runs >= (grid.RUNS if cell.scenario.beyond else grid.VALIDITY_RUNS) for cell in cells)


def test_goal_that_no_cell_can_tell_is_not_called_passed():
    some = [cell for cell in grid.cells() if cell.family == "5 % errors, 200/min, split 10 %"]
    cells = [replace(cell, runs=30, peers=False) for cell in some]
    found = [one for done in run.everything(cells, 1, checked=0) for one in figures.figures(done)]
    passed = {goal.words: goal.passed for goal in goals.goals(found, 0.05)}
    assert [value for words, value in passed.items() if words.startswith("At 20 requests/min")] == [None]
    assert [value for words, value in passed.items() if words.startswith("A version at or beyond")] == [True]


def figure(effect, *, judge=run.OURS, aborted=0, promoted=0, minutes=10.0, to_wald=1.5, missed=0, **changed):
    """By hand, of 1,000 runs."""
    scenario = replace(MIDDLE, name=f"cell {effect}", effect=effect, **changed)
    share = [figures.Share(count, 1000) for count in (aborted, promoted, missed)]
    return figures.Figures(
        grid.Cell("family", str(effect), scenario, 1000), judge, 0.05,
        None if scenario.beyond else share[0], share[1] if scenario.at_or_beyond else None, share[2],
        200 * minutes, minutes, None, to_wald,
    )  # fmt: skip


def goal(beginning, *some):
    (found,) = [one for one in goals.goals(some, 0.05) if one.words.startswith(beginning)]
    return found


def test_cell_above_alpha_is_named_with_its_numbers():
    found = goal("A version within", figure(0.0, aborted=61), figure(MARGIN, aborted=90), figure(0.04))
    assert (found.passed, found.held, found.of) == (False, 0, 2)
    assert found.misses == (
        "“cell 0.005”: 9 (7.3–10.9) %",
        "“cell 0.0”: 6.1 (4.7–7.77) %; its interval still allows α",
    )


def test_cell_that_takes_more_than_twice_walds_bound_is_named_with_its_ratio():
    found = goal("A regression is caught", figure(0.04), figure(0.09, to_wald=2.46), figure(MARGIN))
    assert (found.passed, found.held, found.of) == (False, 1, 2)
    # Errors have five ninths of alpha: log(36) instead of log(20).
    assert found.misses == (
        "“cell 0.09”: 2.46; against the bound at the part of α that this criterion has among the mission's four, 2.06",
    )


def test_only_a_peer_that_keeps_alpha_is_a_rival_and_ours_may_lose_to_it():
    ours_ = [figure(0.0), figure(0.04, minutes=9.0)]
    careless = [figure(0.0, judge="careless", aborted=200), figure(0.04, judge="careless", minutes=1.0)]
    careful = [figure(0.0, judge="careful", aborted=20), figure(0.04, judge="careful", minutes=8.0)]
    slow = [figure(0.0, judge="slow"), figure(0.04, judge="slow", minutes=60.0)]
    found = goal("A regression is aborted", *ours_, *careless, *careful, *slow)
    assert (found.held, found.of) == (1, 2)
    assert found.misses == ("“cell 0.04”: ours 9 min; careful 8 min",)


def test_power_is_that_of_the_error_rate_alone_against_the_exact_test():
    slow = {"per_minute": 20.0, "minutes": 60}
    some = [
        figure(0.04, missed=500, **slow),
        figure(0.04, judge=run.OURS_ALONE, missed=400, **slow),
        figure(0.04, judge=peers.YARDSTICK, missed=200, **slow),
    ]
    found = goal("At 20 requests/min", *some)
    assert found.passed is False
    assert found.misses[0].startswith("“cell 0.04”: 60.0 % against 80.0 %, 0.75 of it (as one of")


def test_made_part_of_the_page_is_replaced_and_the_rest_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.replace_between(page, "new")
    assert page.read_text() == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter\n"


def test_tables_name_every_judge_once_and_every_goal():
    cells = [
        replace(cell, runs=20) for cell in grid.small() if cell.scenario.per_minute == 200 and not cell.scenario.ramp
    ]
    done = run.everything(cells, 1, checked=1)
    found = [one for each in done for one in figures.figures(each)]
    summary = table.summary(done, found, 60.0, "one core")
    for judge in (*peers.OF_ERRORS, *peers.OF_LATENCY):
        assert f"| {judge.name} |" in summary
    for one in goals.goals(found, 0.05):
        assert summary.count(f"| {one.words} |") == 1
    assert "the same verdict at the same look in each" in summary
    assert all(f"### {cell.family[0].upper()}{cell.family[1:]}" in table.everything(found) for cell in cells)
