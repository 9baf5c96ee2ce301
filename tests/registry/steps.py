"""How a version comes to where a test begins."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from registry import actions
from registry.lifecycle import RunStatus
from registry.models import ModelVersion, QARun
from registry.scoring import band_of


def examined(version: ModelVersion, points: float = 97.0, *, needs_override: bool | None = None) -> QARun:
    """Examined with that many points; awaits its approval, or is blocked below 65."""
    run = actions.examine(version, actor=None)
    run.advance("start", attempt=1)
    finish(run, points, needs_override=needs_override)
    return run


def finish(run: QARun, points: float, *, needs_override: bool | None = None) -> None:
    band = band_of(points)
    run.advance("finish", score=points, band=band, finished_at=timezone.now())
    needs = points < 80 if needs_override is None else needs_override
    run.version.advance("block" if points < 65 else "qualify", score=points, band=band, needs_override=needs)


def active_run(version: ModelVersion) -> QARun:
    return version.qa_runs.get(status__in=[RunStatus.QUEUED, RunStatus.RUNNING])


def fresh(version: ModelVersion) -> Any:
    return ModelVersion.objects.get(pk=version.pk)
