"""What a rollout is told by its experiment, and what is kept of each look."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from abtests import decision, evidence_file
from abtests.evidence import from_file
from abtests.gates import ExperimentGate, windows_of
from abtests.lifecycle import Status
from abtests.models import Experiment, Snapshot
from abtests.replay import replay
from abtests.settings import parse_settings
from deploypipe.core.models import AuditEntry
from deploypipe.stats.exact import p_value
from rollouts import actions as rollout_actions
from rollouts.analysis import Verdict
from rollouts.backends import gates
from rollouts.lifecycle import Purpose
from rollouts.models import Deployment, Rollout, RolloutStep, Route
from rollouts.plan import Finding
from tests.abtests.world import BEGAN, NOW, World
from tests.metrics.test_records import USUAL

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
    # Each default is written down too: a later version of the product may have others.
    settled = parse_settings({**MARGIN, "closing_share": 0.0}).to_json()
    assert AuditEntry.objects.get(verb="experiment.started").after == {"settings": settled}


@pytest.mark.parametrize(("sessions_a_minute", "kept"), [(0, 0.0), (4, 0.8), (20, 0.8), (200, 0.0)])
def test_what_is_kept_for_the_end_is_settled_by_the_traffic_of_before_the_split(
    sessions_a_minute: int, kept: float, world: World, tmp_path: Path, settings: Any
) -> None:
    """At a tenth of the traffic for half an hour. The split was changed a moment ago: nothing has come since."""
    settings.GATEWAY_RECORDS = tmp_path / "access.log"
    began = timezone.now() - timedelta(minutes=10)
    settings.GATEWAY_RECORDS.write_text(
        "".join(
            json.dumps({
                **USUAL, "backend": "textgen-v1", "session": f"{place:016x}",
                "start_ms": str(round(1000 * (began.timestamp() + 60 * place / sessions_a_minute))),
            }) + "\n"
            for place in range(9 * sessions_a_minute)
        )
    )  # fmt: skip
    Route.objects.update(weight=1000, changed_at=timezone.now())
    world.rollout(AUTOMATIC)
    assert experiment().settings["closing_share"] == kept


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
    assert newest.detail["totals"]["candidate"] == {"requests": 80, "errors": 4, "sessions": 80}


def test_snapshot_holds_what_it_was_decided_by(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**WORSE)
    judge(rollout)
    kept = Snapshot.objects.get()
    assert kept.detail["code_version"] == decision.CODE_VERSION
    assert kept.sentence == kept.detail["sentence"] == experiment().sentence
    assert kept.detail["settings"]["min_requests"] == 1000


def test_what_the_looks_on_the_way_have_missed_is_called_at_the_end_once(world: World) -> None:
    settings = {**MARGIN, "goals": [{"margin_points": 0.5}], "closing_share": 0.8, "max_seconds": 60}
    rollout = world.rollout({**settings, "auto_rollback": False})
    world.measure(stable=(20, 0), candidate=(20, 1), batches=10)
    assert judge(rollout, seconds=50).verdict == Verdict.INSUFFICIENT_DATA
    assert Snapshot.objects.get().verdict == "continue"
    told = judge(rollout, seconds=61)
    assert "10 of 200 sessions failed" in told.sentence
    assert "exact test at the end: p = 0.0011, at most 0.033 calls harm" in told.sentence
    assert told.sentence.endswith("A person must act on it.")
    # Until somebody does, more traffic takes nothing back: a test that may be tried again promises nothing.
    world.measure(stable=(900, 9), candidate=(900, 9), batches=4)
    assert "exact test at the end: p = 0.0011" in judge(rollout, seconds=70).sentence
    evidence = from_file(json.loads("".join(evidence_file.lines(experiment()))))
    found = replay(evidence)
    assert [one.verdict for one in found] == ["continue", "abort", "abort"]
    assert all(one.equal for one in found)


def test_end_that_changes_no_verdict_is_not_taken_again_with_later_numbers(world: World) -> None:
    """No look is kept of it; whoever computes again must know after which window it was taken."""
    usual: Json = {"stable": (10, 1), "candidate": (10, 1)}
    asked: Json = {"goals": [{"margin_points": 10}], "guardrails": [], "min_requests": 10, "alpha": 0.2}
    rollout = world.rollout({**asked, "closing_share": 0.8, "max_seconds": 60})
    world.measure(stable=(60, 2), candidate=(60, 2))
    assert "A person must act on it" in judge(rollout, seconds=50).sentence
    judge(rollout, seconds=61)
    assert Snapshot.objects.count() == 1
    world.measure(**usual)
    judge(rollout, seconds=65)
    closing = Snapshot.objects.latest("pk").detail["rows"][0]["closing_p"]
    assert closing == p_value(60, 2, 60, 2, 0.1, above=True) < 1
    found = replay(from_file(json.loads("".join(evidence_file.lines(experiment())))))
    assert [(one.verdict, one.differences) for one in found] == [("promote", ())] * 2

    Experiment.objects.update(progress={**experiment().progress, "code_version": "of-yesterday"})
    world.measure(**usual)
    judge(rollout, seconds=70)
    assert Snapshot.objects.latest("pk").detail["rows"][0]["closing_p"] == closing


def test_of_an_end_without_measurements_nothing_is_called(world: World) -> None:
    rollout = world.rollout({**MARGIN, "closing_share": 0.8, "max_seconds": 60})
    world.records_read(NOW)
    assert "no request has reached the candidate yet" in judge(rollout, seconds=61).sentence
    assert experiment().state is Status.INCONCLUSIVE


def test_settings_are_frozen_when_it_begins(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**TOO_LITTLE)
    judge(rollout)
    RolloutStep.objects.filter(rollout=rollout, index=1).update(settings={"min_requests": 1, "auto_promote": True})
    world.measure(**TOO_LITTLE)
    judge(Rollout.objects.get(pk=rollout.pk))
    assert experiment().settings == parse_settings({**AUTOMATIC, "closing_share": 0.0}).to_json()


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


# --- Evidence, several candidates, splits


def test_looks_one_by_one_equal_a_replay_of_all_windows(world: World) -> None:
    """And no look reads what an earlier one has read."""
    rollout = world.rollout({**AUTOMATIC, "min_requests": 100_000})
    for errors in (4, 6, 5):
        world.measure(stable=(400, 4), candidate=(400, errors), batches=2)
        judge(rollout)
    found = experiment()
    again = decision.advance(
        decision.start(parse_settings(found.settings)), windows_of(found, Rollout.objects.get(pk=rollout.pk))
    )
    assert json.loads(json.dumps(again.to_json())) == found.progress
    assert found.progress["looks"] == 6
    Experiment.objects.update(progress={"code_version": "of-yesterday"})
    world.measure(stable=(400, 4), candidate=(400, 4))
    judge(rollout)
    assert experiment().progress["looks"] == 7


def test_stored_evidence_gives_every_verdict_again(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    for _ in range(3):
        world.measure(**TOO_LITTLE)
        judge(rollout)
    world.measure(**WORSE)
    judge(rollout)
    stored = json.loads("".join(evidence_file.lines(experiment())))
    assert stored["experiment"]["versions"] == {"candidate": "textgen v2"}
    found = replay(from_file(stored))
    assert [one.verdict for one in found] == ["continue"] * 3 + ["abort"]
    assert all(one.equal for one in found), [one.differences for one in found]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"healthy": False, "health_message": "it does not answer."}, "it does not answer."),
        ({"healthy": None, "health_message": "it starts again."}, "it starts again."),
        ({"phase": "starting", "message": "it loads."}, "it loads."),
    ],
)
def test_while_the_stable_versions_server_is_away_nothing_is_decided(
    world: World, state: dict[str, Any], said: str
) -> None:
    """Its failures are no merit of the candidate."""
    rollout = world.rollout(AUTOMATIC)
    world.measure(stable=(400, 300), candidate=(400, 4), batches=30)
    Deployment.objects.filter(pk=world.stable.pk).update(**state)
    finding = judge(Rollout.objects.get(pk=rollout.pk))
    assert finding.verdict == Verdict.PROVIDER_ERROR
    assert finding.sentence == f"On hold: the stable version, textgen v1, is not ready and healthy: {said}"
    assert experiment().state is Status.RUNNING
    Deployment.objects.filter(pk=world.stable.pk).update(phase="ready", healthy=True)
    world.measure(**SAME)
    judge(Rollout.objects.get(pk=rollout.pk))
    found = replay(from_file(json.loads("".join(evidence_file.lines(experiment())))))
    assert [one.verdict for one in found] == ["continue", "promote"]
    assert all(one.equal for one in found)


def test_evidence_ends_with_the_last_look_whatever_its_versions_do_later(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**WORSE)
    judge(rollout)
    before = list(evidence_file.lines(experiment()))
    assert before[-1].strip() == "]}"
    world.measure(**SAME)
    assert list(evidence_file.lines(experiment())) == before


def test_end_by_time_alone_is_kept_as_a_look(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**TOO_LITTLE)
    judge(rollout)
    judge(rollout, seconds=1800)
    assert list(Snapshot.objects.order_by("pk").values_list("verdict", flat=True)) == ["continue", "inconclusive"]
    for one in replay(from_file(json.loads("".join(evidence_file.lines(experiment()))))):
        assert one.equal, one.differences


def test_split_that_was_not_promised_passes_and_fails_nothing(world: World) -> None:
    rollout = world.rollout(AUTOMATIC)
    world.measure(**SAME, assigned=(400, 100))
    finding = judge(rollout)
    assert finding.verdict == Verdict.PROVIDER_ERROR
    assert "should have" in finding.sentence
    assert (Snapshot.objects.get().verdict, experiment().status) == ("invalid", Status.RUNNING)


def test_of_several_candidates_the_one_that_fails_is_dropped_and_the_winner_is_named(world: World) -> None:
    third = world.another()
    rollout = world.comparison(third, AUTOMATIC)
    assert experiment().versions == {"candidate": world.candidate, "candidate-2": third}
    world.measure(stable=(400, 4), candidate=(400, 80), others={third: (400, 4)}, batches=2)
    finding = judge(rollout)
    assert [name for name, _ in finding.drop] == ["candidate"]
    assert finding.drop[0][1].startswith("Candidate 160 of 800 sessions failed (20 %)")
    world.measure(stable=(400, 4), candidate=(0, 0), others={third: (400, 4)}, batches=40, drop=True)
    finding = judge(rollout)
    assert finding.verdict == Verdict.PASS
    found = experiment()
    assert (found.status, found.winner) == (Status.PROMOTE, third)
    assert finding.sentence.startswith("Candidate-2 wins.")
    assert AuditEntry.objects.get(verb="experiment.decide_promote").after == {
        "status": "promote", "winner": "textgen v3",
    }  # fmt: skip


def test_arm_that_others_took_off_waits_for_nobody(world: World) -> None:
    third = world.another()
    rollout = world.comparison(third, AUTOMATIC)
    rollout_actions.drop_arm(rollout, "candidate-2", "Its server died.")
    world.measure(**SAME)
    finding = judge(Rollout.objects.get(pk=rollout.pk))
    assert finding.verdict == Verdict.PASS
    assert experiment().winner == world.candidate
    assert finding.sentence.endswith("Candidate-2 was taken off: Its server died.")


def test_look_at_an_interval_without_an_end_is_kept(world: World) -> None:
    """The first words of a latency: its ratio may still be anything."""
    rollout = world.rollout({"goals": [{"margin_points": 2}, {"metric": "latency", "margin_percent": 20}]})
    world.measure(**TOO_LITTLE)
    judge(rollout)
    row = Snapshot.objects.get().detail["rows"][1]
    assert (row["metric"], row["low"], row["high"]) == ("latency", -100.0, None)
