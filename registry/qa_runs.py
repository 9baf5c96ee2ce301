"""Carries out one examination: claim it, run the checks, keep each result as it comes, score, move the version on.

Safe to call twice or after a crash: a start raises the attempt's number, and every write names it, so that a worker
that was given up for dead cannot write any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseFault
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from deploypipe.core import audit, events
from deploypipe.core.errors import ConcurrentChange
from deploypipe.core.plain import text
from deploypipe.core.secrets import hide
from registry import artifacts, hooks
from registry.events import QAProgressed, VersionChanged
from registry.lifecycle import RunStatus
from registry.models import QAResult, QARun
from registry.qa.base import Check, Context
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.runner import Result, StartServer, examine
from registry.qa.warming import warm_up
from registry.report import scored
from registry.scoring import needs_override

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=20)
HEARTBEAT_SECONDS = 5.0
"""A check may take minutes (the digest of a large artifact): the lease is renewed beside it, not by it."""
MOST_ATTEMPTS = 3


def due(now: datetime) -> list[int]:
    """Queued, or left behind by a worker that died; as many as there is room for, those that wait longest first."""
    return list(_unclaimed(now).order_by("pk").values_list("pk", flat=True)[: _room(now)])


def run(run_id: int, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> bool:
    """Whether this call examined anything; False where another worker does, or where enough are under way."""
    current = _claim(run_id)
    if current is None:
        return False
    if current.attempt > MOST_ATTEMPTS:
        _give_up(current, f"The examination was begun {MOST_ATTEMPTS} times and never ended; see the worker's log.")
        return True
    try:
        QAResult.objects.filter(run=current).delete()
        events.announce(QAProgressed(current.pk, current.version_id))
        with _heartbeat(current, heartbeat_seconds):
            results = _examine(current)
        _finish(current, results)
    except ConcurrentChange:
        logger.warning("%s was taken over by another worker", current)
    except DatabaseFault:
        # It says nothing of the version. The lease runs out, and the examination is begun again.
        logger.exception("what was found in %s could not be kept", current)
    except Exception as error:
        logger.exception("%s could not be carried out", current)
        _give_up(current, f"The examination could not be carried out: {type(error).__name__}: {error}")
    return True


def _unclaimed(now: datetime) -> QuerySet[QARun]:
    return QARun.objects.filter(Q(status=RunStatus.QUEUED) | Q(status=RunStatus.RUNNING, lease_until__lt=now))


def _room(now: datetime) -> int:
    running = QARun.objects.filter(status=RunStatus.RUNNING, lease_until__gte=now).count()
    return max(0, settings.EXAMINATIONS_AT_ONCE - running)


@transaction.atomic
def _claim(run_id: int) -> QARun | None:
    now = timezone.now()
    if not _room(now):
        return None
    claimed = (
        _unclaimed(now)
        .filter(pk=run_id)
        .update(
            status=RunStatus.RUNNING,
            attempt=F("attempt") + 1,
            started_at=now,
            lease_until=now + LEASE,
            planned_checks=len(all_checks()),
            under_way=[],
        )
    )
    return QARun.objects.select_related("version__model").get(pk=run_id) if claimed else None


@contextmanager
def _heartbeat(run: QARun, seconds: float) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            try:
                _still_ours(run)
            except DatabaseFault:
                logger.warning("the lease of %s was not renewed", run, exc_info=True)
            finally:
                connection.close()

    thread = threading.Thread(target=beat, name=f"heartbeat of {run}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _still_ours(run: QARun, **changes: Any) -> bool:
    """Renews the lease; False when another worker has taken over."""
    mine = QARun.objects.filter(pk=run.pk, attempt=run.attempt, status=RunStatus.RUNNING)
    return bool(mine.update(lease_until=timezone.now() + LEASE, **changes))


def _examine(run: QARun) -> list[Result]:
    version = run.version
    context = Context(
        artifact=artifacts.local_path(version.artifact_uri),
        manifest=artifacts.parse(version.manifest),
        engine=version.engine,
        policy=Policy.from_json(run.policy),
        server_problem="No target is set up to run the version on.",
        engine_arguments=tuple(version.engine_arguments),
        files=settings.QA_FILES_DIR,
    )
    start_server: StartServer | None = None
    start_live: StartServer | None = None
    if host := hooks.host():
        start_server = partial(host.candidate, version, run)
        context = replace(context, hardware=host.hardware(version, run))
        if (live := host.live(version, run)) is not None:
            start_live = lambda: live  # noqa: E731
    results = examine(
        context,
        all_checks(),
        on_result=lambda found: _keep(run, _shown(found)),
        on_start=lambda check: _begin(run, check),
        start_server=start_server,
        start_live=start_live,
        warm_up=warm_up,
    )
    return [_shown(result) for result in results]


def _shown(result: Result) -> Result:
    """A server that did not start may have written its key into its log, whose end is the reason."""
    outcome = result.outcome
    findings = tuple(replace(f, sentence=hide(f.sentence), action=hide(f.action)) for f in outcome.findings)
    shown = replace(outcome, reason=hide(outcome.reason), evidence=hide(outcome.evidence), findings=findings)
    return replace(result, outcome=shown)


@transaction.atomic
def _begin(run: QARun, check: type[Check]) -> None:
    now = timezone.now().isoformat()
    _tell_under_way(run, [*run.under_way, {"name": check.name, "label": check.label, "at": now}])
    events.announce(QAProgressed(run.pk, run.version_id))


def _tell_under_way(run: QARun, under_way: list[dict[str, str]]) -> None:
    run.under_way = under_way
    if not _still_ours(run, under_way=under_way):
        raise ConcurrentChange(f"{run} is not ours any more.")


@transaction.atomic
def _keep(run: QARun, result: Result) -> None:
    _tell_under_way(run, [one for one in run.under_way if one["name"] != result.name])
    outcome = result.outcome
    QAResult.objects.update_or_create(
        run=run,
        name=result.name,
        defaults={
            "attempt": run.attempt,
            "label": result.label,
            "category": result.category,
            "status": outcome.status,
            "required": result.required,
            "weight": result.weight,
            "value": outcome.value,
            "limit": outcome.limit,
            "unit": outcome.unit,
            "reason": outcome.reason,
            "evidence": dict(outcome.evidence),
            "findings": [finding.to_json() for finding in outcome.findings],
            "seconds": result.seconds,
        },
    )
    events.announce(QAProgressed(run.pk, run.version_id))


@transaction.atomic
def _finish(run: QARun, results: list[Result]) -> None:
    policy = Policy.from_json(run.policy)
    found = scored(results, policy)
    run.advance(
        "finish",
        where={"attempt": run.attempt},
        finished_at=timezone.now(),
        score=found.points,
        band=found.band,
        blocked=found.blocked,
        sentence=found.sentence,
        categories=found.categories,
        under_way=[],
    )
    version = run.version
    before = version.stage
    version.advance(
        "block" if found.blocked else "qualify",
        score=found.points,
        band=found.band,
        needs_override=needs_override(found.points, policy.minimum_score),
        qa_sentence=found.sentence,
    )
    audit.record(
        None,
        "version.examined",
        version,
        before={"stage": before},
        after={"stage": version.stage, "score": found.points, "qa_run": run.pk, "digest": run.digest},
        reason=found.sentence,
    )
    events.announce(QAProgressed(run.pk, version.pk))
    events.announce(VersionChanged(version.pk, version.stage))


def _give_up(run: QARun, sentence: str) -> None:
    try:
        _end_without_finding(run, text(hide(sentence)))
    except ConcurrentChange:
        logger.warning("%s was taken over by another worker", run)


@transaction.atomic
def _end_without_finding(run: QARun, sentence: str) -> None:
    run.advance("give_up", where={"attempt": run.attempt}, finished_at=timezone.now(), sentence=sentence, under_way=[])
    before = run.version.stage
    run.version.advance("give_up", qa_sentence=sentence)
    audit.record(
        None,
        "version.examination_failed",
        run.version,
        before={"stage": before},
        after={"stage": run.version.stage},
        reason=sentence,
    )
    events.announce(QAProgressed(run.pk, run.version_id))
    events.announce(VersionChanged(run.version_id, run.version.stage))
