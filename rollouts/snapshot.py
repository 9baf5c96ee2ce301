"""What the plan looks at: a rollout, its servers and what its judges say, read in one moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deploypipe.metrics.windows import CANDIDATE
from rollouts.lifecycle import Purpose, Status
from rollouts.strategy import Step


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
    drop: tuple[tuple[str, str], ...] = ()
    """Arms that are to leave the experiment while the others go on, each with the sentence that says why. Those that
    left already, and names that are no arm, mean nothing."""


@dataclass(frozen=True)
class ArmView:
    """One candidate of several, as last observed."""

    name: str
    server: ServerView
    stage: str = "approved"
    """The version's stage in the registry."""
    stage_sentence: str = ""
    must_be_watched: bool = False
    """The version's score lets it in only by steps that judge it."""
    examined_elsewhere: str = ""
    """Why its examination says nothing of this environment, where it was made by another one's policy."""
    on: bool = True
    """False once it was taken off."""


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
    arms: tuple[ArmView, ...] = ()
    """Of an experiment that compares several candidates: all of them, the rollout's own version first. `weight` is
    then what they share."""
    split_differs: bool = False
    """The data plane divides the weight otherwise among the arms."""
    answer: str = ""
    """What the last gate that has ended said."""
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

    @property
    def candidates(self) -> tuple[ArmView, ...]:
        """Those that take part: of a rollout of one version, that one; never none."""
        own = ArmView(
            CANDIDATE, self.candidate, self.stage, self.stage_sentence, self.must_be_watched, self.examined_elsewhere
        )
        return tuple(arm for arm in self.arms if arm.on) or (own,)
