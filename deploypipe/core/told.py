"""Entries of the audit chain as people read them: "bo approved textgen v2"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from django.urls import NoReverseMatch, reverse

from deploypipe.core.audit import SYSTEM
from deploypipe.core.models import AuditEntry
from deploypipe.core.status import Tone

ADDRESSES: Final[Mapping[str, str]] = {
    "registry.modelversion": "version-detail",
    "registry.qapolicy": "policy-detail",
    "rollouts.rollout": "rollout-detail",
    "abtests.experiment": "experiment-detail",
}
"""Kind of object → name of its page, by primary key."""

PHRASES: Final[Mapping[str, str]] = {
    "model.created": "created the model",
    "version.examine": "asked for an examination of",
    "version.examined": "finished the examination of",
    "version.examination_failed": "could not examine",
    "policy.saved": "set",
    "strategy.saved": "saved the strategy",
    "rollout.promote_step": "moved past a step of",
    "rollout.promote_full": "promoted in full",
    "rollout.step_approved": "approved a step of",
    "rollout.step_done": "finished a step of",
    "rollout.step_skipped": "passed by a step of",
    "rollout.steps_done": "finished the steps of",
    "rollout.arm_dropped": "took a candidate off in",
    "rollout.weight": "changed the traffic of",
    "rollout.restore": "took the traffic back from",
    "rollout.qa_passed": "saw the examination passed for",
    "rollout.approved": "saw the approval for",
    "rollout.provisioned": "has the server running for",
    "rollout.rollback": "began to take back",
    "rollout.rolled_back": "rolled back",
    "rollout.cancel": "cancelled",
    "rollout.conclude": "concludes",
    "rollout.concluded": "concluded",
    "experiment.decide_promote": "decided to promote in the experiment",
    "experiment.decide_abort": "decided to abort in the experiment",
    "experiment.end_inconclusive": "ended without a decision the experiment",
    "experiment.requested": "requested the experiment",
    "experiment.started": "started the experiment",
    "experiment.stopped": "stopped the experiment",
    "deployment.restarted": "restarted",
    "deployment.stopped": "stopped",
}

TONES: Final[Mapping[str, Tone]] = {
    "version.approved": "ok",
    "version.refused": "bad",
    "version.examination_failed": "bad",
    "version.suspended": "warn",
    "policy.saved": "info",
    "rollout.promoted": "ok",
    "rollout.aborted": "bad",
    "rollout.rollback": "bad",
    "rollout.rolled_back": "bad",
    "rollout.restore": "warn",
    "rollout.paused": "hold",
    "rollout.arm_dropped": "warn",
    "rollout.weight": "info",
    "experiment.decide_promote": "ok",
    "experiment.decide_abort": "bad",
    "deployment.restarted": "warn",
}


@dataclass(frozen=True)
class Told:
    entry: AuditEntry
    words: str
    url: str
    tone: Tone
    by_person: bool

    @property
    def before(self) -> str:
        return _text(self.entry.before)

    @property
    def after(self) -> str:
        return _text(self.entry.after)


def tell(entries: Iterable[AuditEntry]) -> list[Told]:
    return [
        Told(entry, words(entry.verb), _address(entry), TONES.get(entry.verb, "idle"), entry.actor != SYSTEM)
        for entry in entries
    ]


def words(verb: str) -> str:
    return PHRASES.get(verb) or verb.rpartition(".")[2].replace("_", " ")


def _address(entry: AuditEntry) -> str:
    try:
        if entry.object_type == "registry.registeredmodel":
            return reverse("model-detail", args=[entry.object_label])
        name = ADDRESSES.get(entry.object_type)
        return reverse(name, args=[int(entry.object_id)]) if name else ""
    except (NoReverseMatch, ValueError):
        return ""


def _text(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) if value else ""
