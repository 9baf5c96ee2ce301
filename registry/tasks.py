"""Celery's side of the registry: ids only; what is due stands in the database."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from registry import qa_runs


@shared_task
def qa_due() -> None:
    for pk in qa_runs.due(timezone.now()):
        run_qa.apply_async((pk,))


@shared_task
def run_qa(run_id: int) -> None:
    qa_runs.run(run_id)
