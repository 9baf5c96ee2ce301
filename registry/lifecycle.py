"""The stages of a model version. There is no "live" stage: where a version serves is known by rollouts."""

from __future__ import annotations

from enum import StrEnum

from deploypipe.core.lifecycle import Lifecycle


class Stage(StrEnum):
    REGISTERED = "registered"
    EXAMINING = "examining"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    REFUSED = "refused"
    BLOCKED = "blocked"
    SUSPENDED = "suspended"
    RETIRED = "retired"


DECIDED = (Stage.APPROVED, Stage.RETIRED)
"""No examination can follow; refused and suspended versions may be examined again."""

_AGAIN = {"examine": Stage.EXAMINING, "retire": Stage.RETIRED}

STAGES = Lifecycle(
    "version",
    {
        Stage.REGISTERED: _AGAIN,
        Stage.EXAMINING: {
            "qualify": Stage.AWAITING_APPROVAL,
            "block": Stage.BLOCKED,
            # The examination itself failed (no server could be started for want of a machine, say): nothing was learnt.
            "give_up": Stage.REGISTERED,
        },
        Stage.AWAITING_APPROVAL: {"approve": Stage.APPROVED, "refuse": Stage.REFUSED, **_AGAIN},
        Stage.APPROVED: {"suspend": Stage.SUSPENDED, "refuse": Stage.REFUSED, "retire": Stage.RETIRED},
        Stage.REFUSED: _AGAIN,
        Stage.BLOCKED: _AGAIN,
        Stage.SUSPENDED: _AGAIN,
        Stage.RETIRED: {},
    },
)


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    ERROR = "error"


RUNS = Lifecycle(
    "examination",
    {
        RunStatus.QUEUED: {"start": RunStatus.RUNNING, "give_up": RunStatus.ERROR},
        RunStatus.RUNNING: {
            # A worker that died left it running: another one begins it again.
            "start": RunStatus.RUNNING,
            "finish": RunStatus.FINISHED,
            "give_up": RunStatus.ERROR,
        },
        RunStatus.FINISHED: {},
        RunStatus.ERROR: {},
    },
)
