"""The evidence of a stored experiment, written piece by piece: an hour of looks is more than memory should hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from django.db.models import Max

from abtests.evidence import Look, head
from abtests.gates import candidates, windows_of
from abtests.models import Experiment, Snapshot
from deploypipe.metrics.windows import to_json

_CHUNK = 200


def lines(experiment: Experiment) -> Iterator[str]:
    begun = head(_about(experiment), experiment.settings, candidates(experiment.rollout))
    yield json.dumps(begun)[:-1]
    yield ', "windows": ['
    # What its versions do later belongs to other questions: no look was taken at it.
    last = Snapshot.objects.filter(experiment=experiment).aggregate(last=Max("last_window"))["last"] or 0
    windows = windows_of(experiment, experiment.rollout, until=last)
    yield from _listed(json.dumps(to_json(window)) for window in windows)
    yield '], "looks": ['
    snapshots = Snapshot.objects.filter(experiment=experiment).order_by("pk").iterator(chunk_size=_CHUNK)
    yield from _listed(json.dumps(look_of(snapshot).to_json()) for snapshot in snapshots)
    yield "]}\n"


def look_of(snapshot: Snapshot) -> Look:
    detail = snapshot.detail
    return Look(
        last_window=snapshot.last_window,
        at=snapshot.at.isoformat(),
        verdict=snapshot.verdict,
        sentence=snapshot.sentence,
        seconds=float(detail.get("seconds", 0.0)),
        provider_problem=detail.get("provider_problem"),
        gone=detail.get("gone", {}),
        detail=detail,
        code_version=snapshot.code_version or str(detail.get("code_version", "")),
        digest=snapshot.digest,
    )


def _about(experiment: Experiment) -> dict[str, object]:
    return {
        "id": experiment.pk,
        "name": experiment.name,
        "environment": experiment.environment.name,
        "model": experiment.candidate.model.name,
        "stable": str(experiment.stable) if experiment.stable else None,
        "versions": {arm: str(version) for arm, version in experiment.versions.items()},
        "status": experiment.status,
        "started_at": experiment.started_at.isoformat() if experiment.started_at else None,
        "ended_at": experiment.ended_at.isoformat() if experiment.ended_at else None,
    }


def _listed(items: Iterable[str]) -> Iterator[str]:
    for place, item in enumerate(items):
        yield item if place == 0 else f",\n{item}"
