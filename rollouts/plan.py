"""What to do next with a rollout: `decide(snapshot) → Action`. Pure, so that every case can be a row of a table test.

The order of the questions is the order of safety: is it ending, is the candidate well, what does the judge say, may we
go on, and only then: what does the step want. Nothing here raises the candidate's weight while anything is bad or
unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rollouts.lifecycle import MOVES_TRAFFIC, Cause, Purpose, Status
from rollouts.strategy import ANALYSIS, APPROVAL, PAUSE, SET_WEIGHT, Step, is_watched
from rollouts.traffic.base import TOTAL_WEIGHT

ROUTE_DEADLINE = 30.0
"""Seconds that the data plane may take to confirm a weight before the rollout turns back."""


@dataclass(frozen=True)
class ServerView:
    """A deployment as last observed."""

    ready: bool
    failed: bool
    healthy: bool | None
    """None: not known yet."""
    message: str
    name: str = "the candidate"

    @property
    def well(self) -> bool:
        return self.ready and self.healthy is True

    @property
    def bad(self) -> bool:
        return self.failed or self.healthy is False


@dataclass(frozen=True)
class Finding:
    """What a judge or a gate says now. `verdict` is one of pass, fail, insufficient_data, provider_error."""

    verdict: str
    sentence: str
    timed_out: bool = False


@dataclass(frozen=True)
class Snapshot:
    status: Status
    steps: tuple[Step, ...]
    step_index: int
    step_seconds: float
    """Since the step began, without the time paused."""
    phase_seconds: float
    candidate: ServerView
    stage: str
    """The version's stage in the registry."""
    stage_sentence: str
    weight: int
    """Of the candidate, as set."""
    installed_weight: int | None
    """Of the candidate, as the data plane says; None when it does not answer."""
    purpose: Purpose = Purpose.PROMOTE
    route_seconds: float = 0.0
    """Since the wanted weight was last changed."""
    write_problem: str = ""
    """Why the wanted weight could not be written to the data plane just now."""
    paused: bool = False
    needs_approval: bool = True
    """The environment is protected: only an approved version may enter."""
    must_be_watched: bool = False
    """The version's score lets it in only by steps that judge it."""
    examined_elsewhere: str = ""
    """Why its examination says nothing of this environment, where it was made by another one's policy."""
    previous: ServerView | None = None
    """The version to go back to."""
    candidate_is_stable: bool = False
    """It was promoted before; what goes on now takes that back."""
    route_restored: bool = False
    """The route names the previous version as stable and gives the candidate nothing."""
    guard: Finding | None = None
    """The judge's word on the whole rollout so far; only "fail" counts here."""
    step_finding: Finding | None = None
    """The judge's or gate's word on the current step."""
    step_approved: bool = False
    promote: str = ""
    """What a person asked for: "step" (go on past this step), "full" (past all steps), or nothing."""
    rollback_on_failure: bool = True
    ready_timeout: float = 600.0


@dataclass(frozen=True)
class Action:
    sentence: str


@dataclass(frozen=True)
class Hold(Action):
    """Nothing to do now. `problem` marks a hold that a person should look at."""

    problem: bool = False


@dataclass(frozen=True)
class Move(Action):
    """Take the lifecycle's verb."""

    verb: str


@dataclass(frozen=True)
class SetWeight(Action):
    weight: int


@dataclass(frozen=True)
class NextStep(Action):
    skipped: bool = False


@dataclass(frozen=True)
class Abort(Action):
    cause: Cause


@dataclass(frozen=True)
class Promote(Action):
    """The candidate becomes the stable version: one compare-and-swap on the route."""


@dataclass(frozen=True)
class Restore(Action):
    """The route goes back to the previous version, in one write."""


def decide(s: Snapshot) -> Action:
    return _PHASES[s.status](s)


def _waiting_qa(s: Snapshot) -> Action:
    if trouble := _never(s):
        return trouble
    if s.stage in ("awaiting_approval", "approved"):
        if s.examined_elsewhere:
            return Hold(s.examined_elsewhere, problem=True)
        return Move(s.stage_sentence, "qa_passed")
    if s.stage == "registered":
        # It was asked for together with the rollout, so it was given up since.
        return Hold(f"{s.stage_sentence} Ask for another examination of the version, or abort.", problem=True)
    return Hold("Waiting for the examination of the version to end.")


def _waiting_approval(s: Snapshot) -> Action:
    if trouble := _never(s):
        return trouble
    if s.stage in ("awaiting_approval", "approved") and s.examined_elsewhere:
        return Hold(s.examined_elsewhere, problem=True)  # it was examined again since
    if s.stage == "approved":
        return Move("The version is approved.", "approved")
    if s.stage == "awaiting_approval" and not s.needs_approval:
        return Move("The examination is passed; this environment asks for no approval.", "approved")
    if s.stage != "awaiting_approval":
        return Hold("Waiting for the examination of the version to end, and then for an approver.")
    return Hold("Waiting for an approver to say yes to the version.")


def _never(s: Snapshot) -> Action | None:
    """Why the rollout will not begin at all."""
    if s.stage in _WITHDRAWN:
        return Move(s.stage_sentence, "cancel")
    if s.stage in ("awaiting_approval", "approved") and s.must_be_watched and not is_watched(s.steps):
        return Move(
            f"{s.stage_sentence} With this score the version may be deployed only by a rollout with an analysis step.",
            "cancel",
        )
    return None


def _provisioning(s: Snapshot) -> Action:
    if trouble := _withdrawn(s):
        return trouble
    if s.candidate.failed:
        return Abort(f"The server did not start: {s.candidate.message}", Cause.HEALTH)
    if s.candidate.well:
        return Hold("Paused by a person.") if s.paused else Move("The server is ready and healthy.", "provisioned")
    if s.phase_seconds > s.ready_timeout:
        return Abort(
            f"The server was not ready and healthy within {s.ready_timeout:g} s: {s.candidate.message}", Cause.DEADLINE
        )
    return Hold(f"Waiting for the server to be ready: {s.candidate.message}")


def _progressing(s: Snapshot) -> Action:
    if trouble := _withdrawn(s) or _unwell(s) or _failed_verdict(s):
        return trouble
    if s.paused:
        return Hold("Paused by a person.")
    if waiting := _unsure(s):
        return waiting
    if s.promote == "full":
        return _steps_done(s, "A person asked to go to the end of the steps.")
    if s.previous is not None and not s.previous.ready:
        return Hold(f"Waiting until the stable version is ready again: {s.previous.message}", problem=True)
    if s.step_index >= len(s.steps):
        return _steps_done(s, "All steps are done.")
    step = s.steps[s.step_index]
    if s.promote == "step" and step.kind != SET_WEIGHT:
        return NextStep("A person asked to go on.", skipped=True)
    return _STEPS.get(step.kind, _gate)(s, step)


def _steps_done(s: Snapshot, sentence: str) -> Action:
    return Move(sentence, "conclude" if s.purpose is Purpose.EXPERIMENT else "steps_done")


def _set_weight(s: Snapshot, step: Step) -> Action:
    return _reach(s, step.weight) or NextStep(f"{step.weight * 100 / TOTAL_WEIGHT:g} % is in force at the gateway.")


def _pause(s: Snapshot, step: Step) -> Action:
    seconds = step.settings.get("seconds")
    if seconds is None:
        return Hold("Waiting for a person to go on.")
    if s.step_seconds >= seconds:
        return NextStep(f"Waited {seconds:g} s.")
    return Hold(f"Waiting {seconds:g} s.")


def _approval(s: Snapshot, step: Step) -> Action:
    return NextStep("Approved to go on.") if s.step_approved else Hold("Waiting for an approver to let this step pass.")


def _gate(s: Snapshot, step: Step) -> Action:
    """An analysis, or a gate that another app registered: an experiment."""
    finding = s.step_finding
    if finding is None:
        return Hold("Waiting for the first measurements.")
    if finding.verdict == "pass":
        return NextStep(finding.sentence)
    if finding.verdict == "provider_error":
        return Hold(finding.sentence, problem=True)
    if finding.timed_out:
        if step.settings.get("on_timeout", "rollback") == "hold":
            return Hold(f"{finding.sentence} A person must decide.", problem=True)
        return _turn_back(s, finding.sentence, Cause.DEADLINE)
    return Hold(finding.sentence)


def _promoting(s: Snapshot) -> Action:
    if trouble := _withdrawn(s) or _unwell(s) or _failed_verdict(s):
        return trouble
    if waiting := _unsure(s):
        return waiting
    return _reach(s, TOTAL_WEIGHT) or Promote("All traffic is on the candidate: it becomes the stable version.")


def _concluding(s: Snapshot) -> Action:
    if s.weight and (waiting := _only_candidate_well(s)):
        return waiting
    return _reach(s, 0) or Move("The experiment ended; all traffic is on the stable version.", "concluded")


def _rolling_back(s: Snapshot) -> Action:
    if not s.route_restored:
        if waiting := _only_candidate_well(s):
            return _given_up(s) or waiting
        return Restore(
            "All traffic goes back to the previous version." if s.previous else "The version gets no traffic any more."
        )
    if s.write_problem:
        return Hold(s.write_problem, problem=True)
    if s.installed_weight is None:
        return Hold("The gateway does not answer: waiting to see the route restored.", problem=True)
    if s.installed_weight != 0:
        late = s.route_seconds > ROUTE_DEADLINE
        return Hold("The restored route is written; waiting for the gateway to take it.", problem=late)
    return Move("The restored route is in force at the gateway.", "rolled_back")


def _only_candidate_well(s: Snapshot) -> Action | None:
    """The only healthy copy keeps the traffic, even if a judge called it bad, until the other one can take it."""
    if s.previous is None or s.previous.well or not s.candidate.well:
        return None
    return Hold(f"Waiting for the previous version to be ready and healthy: {s.previous.message}", problem=True)


def _given_up(s: Snapshot) -> Action | None:
    if not s.candidate_is_stable or s.previous is None or s.phase_seconds <= s.ready_timeout:
        return None
    return Move(
        f"The rollback was given up: the previous version was not ready and healthy within {s.ready_timeout:g} s "
        f"({s.previous.message}). All traffic stays where it is.",
        "keep",
    )


def _ended(s: Snapshot) -> Action:
    return Hold("")


def _reach(s: Snapshot, weight: int) -> Action | None:
    """The action that brings the weight about; None once the data plane says that it is in force."""
    percent = f"{weight * 100 / TOTAL_WEIGHT:g} %"
    if s.weight != weight:
        if weight > s.weight and s.installed_weight is None:
            return Hold(f"Waiting with {percent}: the gateway does not answer.", problem=True)
        return SetWeight(f"{percent} of traffic goes to the candidate.", weight)
    if s.installed_weight == weight:
        return None
    if s.write_problem:
        return Hold(s.write_problem, problem=True)
    late = s.route_seconds > ROUTE_DEADLINE
    if late and s.installed_weight is not None and s.status in MOVES_TRAFFIC:
        return _turn_back(
            s, f"The gateway did not put {percent} into force within {ROUTE_DEADLINE:g} s.", Cause.DEADLINE
        )
    return Hold(
        f"{percent} is written; waiting for the gateway to put it into force.",
        problem=late or s.installed_weight is None,
    )


def _withdrawn(s: Snapshot) -> Action | None:
    if s.stage in _WITHDRAWN:
        return Abort(f"The version may not be deployed any more. {s.stage_sentence}", Cause.APPROVAL)
    return None


def _unwell(s: Snapshot) -> Action | None:
    if s.candidate.bad:
        return _turn_back(s, f"The candidate is not healthy: {s.candidate.message}", Cause.HEALTH)
    return None


def _unsure(s: Snapshot) -> Action | None:
    """Not known to be bad, and not known to be well: its server starts again, or was not asked yet."""
    if s.candidate.well:
        return None
    return Hold(
        f"Waiting until the candidate is known to be healthy: {s.candidate.message}", problem=not s.candidate.ready
    )


def _failed_verdict(s: Snapshot) -> Action | None:
    for finding in (s.guard, s.step_finding):
        if finding is not None and finding.verdict == "fail":
            return _turn_back(s, finding.sentence, Cause.VERDICT)
    return None


def _turn_back(s: Snapshot, sentence: str, cause: Cause) -> Action:
    if s.rollback_on_failure:
        return Abort(sentence, cause)
    return Hold(f"{sentence} Automatic rollback is off for this rollout: a person must decide.", problem=True)


_WITHDRAWN = ("suspended", "refused", "retired", "blocked")
_PHASES: dict[Status, Callable[[Snapshot], Action]] = {
    Status.WAITING_QA: _waiting_qa,
    Status.WAITING_APPROVAL: _waiting_approval,
    Status.PROVISIONING: _provisioning,
    Status.PROGRESSING: _progressing,
    Status.PROMOTING: _promoting,
    Status.CONCLUDING: _concluding,
    Status.ROLLING_BACK: _rolling_back,
    Status.SUCCEEDED: _ended,
    Status.ROLLED_BACK: _ended,
    Status.CANCELLED: _ended,
}
_STEPS: dict[str, Callable[[Snapshot, Step], Action]] = {
    SET_WEIGHT: _set_weight,
    PAUSE: _pause,
    APPROVAL: _approval,
    ANALYSIS: _gate,
}
