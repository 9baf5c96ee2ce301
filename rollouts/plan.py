"""What to do next with a rollout: `decide(snapshot) → Action`. Pure, so that every case can be a row of a table test.

The order of the questions is the order of safety: is it ending, is the candidate well, what does the judge say, may we
go on, and only then: what does the step want. Nothing here raises the candidate's weight while anything is bad or
unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploypipe.metrics.windows import CANDIDATE
from rollouts.lifecycle import MOVES_TRAFFIC, Cause, Purpose, Status
from rollouts.snapshot import ArmView as ArmView
from rollouts.snapshot import Finding as Finding
from rollouts.snapshot import ServerView as ServerView
from rollouts.snapshot import Snapshot as Snapshot
from rollouts.strategy import ANALYSIS, APPROVAL, PAUSE, SET_WEIGHT, Step, is_watched
from rollouts.traffic.base import TOTAL_WEIGHT

ROUTE_DEADLINE = 30.0
"""Seconds that the data plane may take to confirm a weight before the rollout turns back."""


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
class DropArm(Action):
    """One arm leaves alone: its share goes to the stable version, and the others go on."""

    arm: str
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
    for arm in s.candidates:
        if arm.stage in _EXAMINED and arm.examined_elsewhere:
            return Hold(arm.examined_elsewhere, problem=True)
        if arm.stage == "registered":
            # It was asked for together with the rollout, so it was given up since.
            return Hold(f"{arm.stage_sentence} Ask for another examination of the version, or abort.", problem=True)
    waiting = [arm for arm in s.candidates if arm.stage not in _EXAMINED]
    if waiting:
        return Hold(f"Waiting for the examination of the version{_which(s, waiting)} to end.")
    return Move(" ".join(arm.stage_sentence for arm in s.candidates), "qa_passed")


def _waiting_approval(s: Snapshot) -> Action:
    if trouble := _never(s):
        return trouble
    examining = [arm for arm in s.candidates if arm.stage not in _EXAMINED]
    asked = [arm for arm in s.candidates if arm.stage == "awaiting_approval" and s.needs_approval]
    for arm in s.candidates:
        if arm.stage in _EXAMINED and arm.examined_elsewhere:
            return Hold(arm.examined_elsewhere, problem=True)  # it was examined again since
    if examining:
        which = _which(s, examining)
        return Hold(f"Waiting for the examination of the version{which} to end, and then for an approver.")
    if asked:
        return Hold(f"Waiting for an approver to say yes to the version{_which(s, asked)}.")
    if all(arm.stage == "approved" for arm in s.candidates):
        return Move("Every version is approved." if s.arms else "The version is approved.", "approved")
    return Move("The examination is passed; this environment asks for no approval.", "approved")


def _which(s: Snapshot, arms: Sequence[ArmView]) -> str:
    """Said only where there are several."""
    return f" ({', '.join(arm.name for arm in arms)})" if s.arms else ""


def _never(s: Snapshot) -> Action | None:
    """Why the rollout, or one arm of it, will not begin at all."""
    for arm in s.candidates:
        sentence = ""
        if arm.stage in _WITHDRAWN:
            sentence = arm.stage_sentence
        elif arm.stage in _EXAMINED and arm.must_be_watched and not is_watched(s.steps):
            sentence = (
                f"{arm.stage_sentence} With this score the version may be deployed only by a rollout with an analysis "
                "step."
            )
        if sentence and (arm.name == CANDIDATE or len(s.candidates) == 1):
            return Move(sentence, "cancel")
        if sentence:
            return DropArm(sentence, arm.name, Cause.APPROVAL)
    return None


def _provisioning(s: Snapshot) -> Action:
    if trouble := _withdrawn(s):
        return trouble
    for arm in s.candidates:
        if arm.server.failed:
            return _leave(s, arm, f"The server did not start: {arm.server.message}", Cause.HEALTH)
    unready = next((arm for arm in s.candidates if not arm.server.well), None)
    if unready is None:
        return Hold("Paused by a person.") if s.paused else Move("The server is ready and healthy.", "provisioned")
    if s.phase_seconds > s.ready_timeout:
        sentence = f"The server was not ready and healthy within {s.ready_timeout:g} s: {unready.server.message}"
        return _leave(s, unready, sentence, Cause.DEADLINE)
    return Hold(f"Waiting for the server{_which(s, [unready])} to be ready: {unready.server.message}")


def _progressing(s: Snapshot) -> Action:
    if trouble := _withdrawn(s) or _unwell(s) or _failed_verdict(s):
        return trouble
    if s.paused:
        return Hold("Paused by a person.")
    if waiting := _unsure(s):
        return waiting
    if s.arms and s.split_differs and s.write_problem:
        return Hold(s.write_problem, problem=True)  # an arm that was taken off has its share still
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
    ended = f"The experiment ended; all traffic is on the stable version. {s.answer}".rstrip()
    return _reach(s, 0) or Move(ended, "concluded")


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
    if s.previous is None or s.previous.well or not any(arm.server.well for arm in s.candidates):
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
    whom = "the candidates" if s.arms else "the candidate"
    if s.weight != weight:
        if weight > s.weight and s.installed_weight is None:
            return Hold(f"Waiting with {percent}: the gateway does not answer.", problem=True)
        return SetWeight(f"{percent} of traffic goes to {whom}.", weight)
    if s.installed_weight == weight and not s.split_differs:
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
    for arm in s.candidates:
        if arm.stage in _WITHDRAWN:
            sentence = f"The version may not be deployed any more. {arm.stage_sentence}"
            return _leave(s, arm, sentence, Cause.APPROVAL)
    return None


def _unwell(s: Snapshot) -> Action | None:
    for arm in s.candidates:
        if arm.server.bad:
            which = "The candidate" if not s.arms else arm.name
            return _turn_back(s, f"{which} is not healthy: {arm.server.message}", Cause.HEALTH, arm)
    return None


def _unsure(s: Snapshot) -> Action | None:
    """Not known to be bad, and not known to be well: its server starts again, or was not asked yet."""
    arm = next((arm for arm in s.candidates if not arm.server.well), None)
    if arm is None:
        return None
    which = "the candidate" if not s.arms else arm.name
    return Hold(f"Waiting until {which} is known to be healthy: {arm.server.message}", problem=not arm.server.ready)


def _failed_verdict(s: Snapshot) -> Action | None:
    """A "fail" is about all candidates; of several, those that are to leave alone are named."""
    findings = [finding for finding in (s.guard, s.step_finding) if finding is not None]
    for finding in findings:
        if finding.verdict == "fail":
            return _turn_back(s, finding.sentence, Cause.VERDICT)
    for finding in findings:
        for name, sentence in finding.drop:
            arm = next((arm for arm in s.candidates if arm.name == name), None)
            if arm is not None:
                return _turn_back(s, sentence, Cause.VERDICT, arm)
    return None


def _turn_back(s: Snapshot, sentence: str, cause: Cause, arm: ArmView | None = None) -> Action:
    """With the arm alone where there is another one to go on with."""
    if not s.rollback_on_failure:
        return Hold(f"{sentence} Automatic rollback is off for this rollout: a person must decide.", problem=True)
    return Abort(sentence, cause) if arm is None else _leave(s, arm, sentence, cause)


def _leave(s: Snapshot, arm: ArmView, sentence: str, cause: Cause) -> Action:
    others = [other for other in s.candidates if other.name != arm.name]
    if not others:
        return Abort(sentence, cause)
    able = any(other.server.well for other in others) or s.previous is None or s.previous.well
    if s.weight and arm.server.well and not able:
        return Hold(f"{sentence} It keeps its traffic until another version can take it.", problem=True)
    return DropArm(sentence, arm.name, cause)


_EXAMINED = ("awaiting_approval", "approved")
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
