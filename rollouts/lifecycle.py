"""The phases of a rollout: one row from request to done."""

from __future__ import annotations

from enum import StrEnum

from deploypipe.core.lifecycle import Lifecycle


class Status(StrEnum):
    WAITING_QA = "waiting_qa"
    WAITING_APPROVAL = "waiting_approval"
    PROVISIONING = "provisioning"
    PROGRESSING = "progressing"
    PROMOTING = "promoting"
    CONCLUDING = "concluding"
    SUCCEEDED = "succeeded"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


class Purpose(StrEnum):
    PROMOTE = "promote"  # at the end of the steps the candidate becomes the stable version
    EXPERIMENT = "experiment"  # at the end traffic goes back to the stable version; the answer is what was wanted


def _forward(state: Status) -> dict[str, Status]:
    """What a person may do to a rollout that is under way: these do not change the phase by themselves."""
    return {"pause": state, "resume": state, "promote": state}


ROLLOUTS = Lifecycle(
    "rollout",
    {
        Status.WAITING_QA: {
            "qa_passed": Status.WAITING_APPROVAL,
            "abort": Status.CANCELLED,
            "cancel": Status.CANCELLED,
        },
        Status.WAITING_APPROVAL: {
            "approved": Status.PROVISIONING,
            "abort": Status.CANCELLED,
            "cancel": Status.CANCELLED,
        },
        Status.PROVISIONING: {
            "provisioned": Status.PROGRESSING,
            "abort": Status.ROLLING_BACK,
            "pause": Status.PROVISIONING,
            "resume": Status.PROVISIONING,
        },
        Status.PROGRESSING: {
            "steps_done": Status.PROMOTING,
            "conclude": Status.CONCLUDING,
            "abort": Status.ROLLING_BACK,
            **_forward(Status.PROGRESSING),
        },
        # From here the weight is on its way to 100 %: it can be aborted until the very write that promotes.
        Status.PROMOTING: {"promoted": Status.SUCCEEDED, "abort": Status.ROLLING_BACK},
        Status.CONCLUDING: {"concluded": Status.SUCCEEDED, "abort": Status.ROLLING_BACK},
        Status.SUCCEEDED: {"rollback": Status.ROLLING_BACK},
        # "keep": the promotion could not be taken back, because the version before it does not run any more.
        Status.ROLLING_BACK: {"rolled_back": Status.ROLLED_BACK, "keep": Status.SUCCEEDED},
        Status.ROLLED_BACK: {},
        Status.CANCELLED: {},
    },
)

ENDED = frozenset({Status.SUCCEEDED, Status.ROLLED_BACK, Status.CANCELLED})
ACTIVE = tuple(status for status in Status if status not in ENDED)
MOVES_TRAFFIC = frozenset({Status.PROGRESSING, Status.PROMOTING})


class StepStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Cause(StrEnum):
    """What made a rollout turn back."""

    PERSON = "person"
    HEALTH = "health"
    VERDICT = "verdict"
    DEADLINE = "deadline"
    APPROVAL = "approval"
