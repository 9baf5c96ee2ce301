"""Celery's side of the registry: ids only; what is due stands in the database."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from registry import qa_runs

STALE_SECONDS = 2
"""A message that waited longer is one too many: the next beat asks again."""


@shared_task
def qa_due() -> None:
    for pk in qa_runs.due(timezone.now()):
        run_qa.apply_async((pk,), expires=STALE_SECONDS)


@shared_task
def run_qa(run_id: int) -> None:
    qa_runs.run(run_id)
