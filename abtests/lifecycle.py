"""The states of an experiment."""

from __future__ import annotations

from enum import StrEnum

from deploypipe.core.lifecycle import Lifecycle


class Status(StrEnum):
    DRAFT = "draft"  # asked for; its rollout has not reached it yet
    RUNNING = "running"
    PROMOTE = "promote"
    ABORT = "abort"
    INCONCLUSIVE = "inconclusive"
    STOPPED = "stopped"


EXPERIMENTS = Lifecycle(
    "experiment",
    {
        Status.DRAFT: {"start": Status.RUNNING, "stop": Status.STOPPED},
        Status.RUNNING: {
            "decide_promote": Status.PROMOTE,
            "decide_abort": Status.ABORT,
            "end_inconclusive": Status.INCONCLUSIVE,
            "stop": Status.STOPPED,
        },
        Status.PROMOTE: {},
        Status.ABORT: {},
        Status.INCONCLUSIVE: {},
        Status.STOPPED: {},
    },
)
