"""What a rollout is told by its experiment, and what is kept of each look."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from abtests import decision
from abtests.gates import ExperimentGate
from abtests.lifecycle import Status
from abtests.models import Experiment, Snapshot
from deploypipe.core.models import AuditEntry
from rollouts.analysis import Verdict
from rollouts.backends import gates
from rollouts.lifecycle import Purpose
from rollouts.models import Rollout, RolloutStep
from rollouts.plan import Finding
from tests.abtests.world import BEGAN, NOW, World

Json = dict[str, Any]
MARGIN: Json = {"goals": [{"aim": "non_inferiority", "margin_points": 2}], "min_requests": 1000}
AUTOMATIC: Json = {**MARGIN, "auto_promote": True, "auto_rollback": True}
SAME: Json = {"stable": (400, 4), "candidate": (400, 4), "batches": 30}
WORSE: Json = {"stable": (400, 4), "candidate": (400, 80), "batches": 10}
TOO_LITTLE: Json = {"stable": (20, 0), "candidate": (20, 1), "batches": 2}


def judge(rollout: Rollout, *, seconds: float = 60.0, later: float = 0.0) -> Finding:
    """At its step for so long. `later` moves the clock: records that were read at NOW grow old."""
    gate = gates.get("experiment")
    assert gate
    return gate.judge(rollout, 1, now=NOW + timedelta(seconds=later), seconds=seconds)


def experiment() -> Experiment:
    return Experiment.objects.select_related("rollout", "stable", "candidate").get()


def test_gate_is_registered_by_its_name() -> None:
    assert isinstance(gates.get("experiment"), ExperimentGate)


@pytest.mark.parametrize(
    ("given", "fields"),
    [({}, set()), (MARGIN, set()), ({"alpha": 0}, {"alpha"}), ({"x": 1, "min_requests": -1}, {"x", "min_requests"})],
)
def test_settings_are_checked_field_by_field(given: dict[str, Any], fields: set[str]) -> None:
    assert set(ExperimentGate().check(given)) == fields


def test_experiment_begins_when_its_step_does(world: World) -> None:
    world.rollout(MARGIN)
    found = experiment()
    assert (found.status, found.started_at, found.candidate, found.stable) == (
        Status.RUNNING, BEGAN, world.candidate, world.live,
    )  # fmt: skip
    assert (found.name, found.created_by) == ("textgen v2 in production", world.cast.cy)
    assert AuditEntry.objects.get(verb="experiment.started").after == {"settings": MARGIN}


@pytest.mark.parametrize(
    ("given", "measured", "seconds", "verdict", "status"),
    [
        (AUTOMATIC, SAME, 60, Verdict.PASS, Status.PROMOTE),
        (AUTOMATIC, WORSE, 60, Verdict.FAIL, Status.ABORT),
        (AUTOMATIC, TOO_LITTLE, 60, Verdict.INSUFFICIENT_DATA, Status.RUNNING),
        (AUTOMATIC, TOO_LITTLE, 1800, Verdict.INSUFFICIENT_DATA, Status.INCONCLUSIVE),
        (AUTOMATIC, None, 60, Verdict.INSUFFICIENT_DATA, Status.RUNNING),
        (AUTOMATIC, None, 1800, Verdict.INSUFFICIENT_DATA, Status.INCONCLUSIVE),
        (MARGIN, SAME, 60, Verdict.INSUFFICIENT_DATA, Status.RUNNING),
        (MARGIN, WORSE, 60, Verdict.FAIL, Status.ABORT),
        ({**MARGIN, "auto_rollback": False}, WORSE, 60, Verdict.INSUFFICIENT_DATA, Status.RUNNING),
    ],
)
def test_finding_of_each_decision(
    given: dict[str, Any], measured: dict[str, Any] | None, seconds: float, verdict: Verdict, status: Status,
    world: World,
) -> None:  # fmt: skip
    rollout = world.rollout(given)
    world.measure(**measured) if measured else world.records_read(NOW)
    finding = judge(rollout, seconds=seconds)
    assert finding.verdict == verdict
    assert experiment().status == status
    assert finding.sentence == experiment().sentence
    assert finding.timed_out == (status is Status.INCONCLUSIVE)


def test_decision_that_needs_a_person_says_so_on_the_experiment_too(world: World) -> None:
    rollout = world.rollout(MARGIN)
    world.measure(**SAME)
    finding = judge(rollout)
    assert finding.sentence.endswith("A person must act on it.")
    assert experiment().sentence == finding.sentence
    assert Snapshot.objects.get().verdict == "promote"


@pytest.mark.parametrize("seconds", [60, 100_000])
def test_metrics_that_cannot_be_read_decide_nothing(seconds: float, world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**WORSE)
    finding = judge(rollout, seconds=seconds, later=16)
    assert finding.verdict == Verdict.PROVIDER_ERROR
    assert "the gateway's records were last read" in finding.sentence
    assert experiment().status == Status.RUNNING


def test_requests_from_before_the_experiment_do_not_count(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**WORSE)
    Experiment.objects.update(started_at=NOW)
    assert judge(rollout).verdict == Verdict.INSUFFICIENT_DATA


def test_each_window_is_looked_at_once(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**TOO_LITTLE)
    for _ in range(3):
        judge(rollout)
    assert Snapshot.objects.count() == 1
    world.measure(**TOO_LITTLE)
    for _ in range(3):
        judge(rollout)
    assert Snapshot.objects.count() == 2
    newest = Snapshot.objects.first()
    assert newest
    assert newest.detail["totals"]["candidate"] == {"requests": 80, "errors": 4}


def test_snapshot_can_be_computed_again(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**WORSE)
    judge(rollout)
    kept = Snapshot.objects.get()
    assert kept.detail["code_version"] == decision.CODE_VERSION
    assert kept.sentence == kept.detail["sentence"] == experiment().sentence
    assert kept.detail["settings"]["min_requests"] == 1000


def test_settings_are_frozen_when_it_begins(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**TOO_LITTLE)
    judge(rollout)
    RolloutStep.objects.filter(rollout=rollout, index=1).update(settings={"min_requests": 1, "auto_promote": True})
    world.measure(**TOO_LITTLE)
    judge(Rollout.objects.get(pk=rollout.pk))
    assert experiment().settings == AUTOMATIC


@pytest.mark.parametrize(("measured", "verdict"), [(SAME, Verdict.PASS), (WORSE, Verdict.FAIL)])
def test_ended_experiment_gives_the_same_finding_again(
    measured: dict[str, Any], verdict: Verdict, world: World
) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**measured)
    first = judge(rollout)
    world.measure(**(SAME if measured is WORSE else WORSE))
    assert first.verdict == verdict
    assert judge(rollout) == judge(rollout, seconds=100_000, later=1000) == first
    assert Snapshot.objects.count() == 1
    assert AuditEntry.objects.filter(verb__startswith="experiment.decide").count() == 1


@pytest.mark.parametrize(
    ("purpose", "verdict", "timed_out"),
    [(Purpose.EXPERIMENT, Verdict.PASS, False), (Purpose.PROMOTE, Verdict.INSUFFICIENT_DATA, True)],
)
def test_no_answer_is_an_answer_only_where_nothing_is_to_be_promoted(
    purpose: Purpose, verdict: Verdict, timed_out: bool, world: World
) -> None:
    rollout = world.rollout(AUTOMATIC, purpose=purpose)
    world.measure(**TOO_LITTLE)
    finding = judge(rollout, seconds=1800)
    assert (finding.verdict, finding.timed_out) == (verdict, timed_out)
    assert finding.sentence.startswith("No decision after 30 min")
    assert judge(rollout, seconds=1801) == finding


def test_end_is_recorded_with_the_sentence(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**WORSE)
    finding = judge(rollout)
    entry = AuditEntry.objects.get(verb="experiment.decide_abort")
    assert (entry.before, entry.after, entry.reason) == ({"status": "running"}, {"status": "abort"}, finding.sentence)
    assert experiment().ended_at == NOW


def test_step_that_was_left_without_its_say_stops_it(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**TOO_LITTLE)
    judge(rollout)
    rollout.reason = "Skipped by cy."
    gate = ExperimentGate()
    gate.end(rollout, 1, now=NOW)
    gate.end(rollout, 1, now=NOW)
    assert (experiment().status, experiment().sentence) == (Status.STOPPED, "Skipped by cy.")
    finding = judge(rollout)
    assert (finding.verdict, finding.timed_out) == (Verdict.INSUFFICIENT_DATA, True)


def test_step_that_was_left_after_the_answer_changes_nothing(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**SAME)
    judge(rollout)
    ExperimentGate().end(rollout, 1, now=NOW)
    assert experiment().status == Status.PROMOTE
