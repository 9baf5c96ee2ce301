"""Somewhere to run a version while registry examines it: a server of its own on a target, gone afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from django.conf import settings

from deploypipe.core.errors import TargetError
from registry.models import ModelVersion, QARun
from registry.qa.base import Hardware, RunningServer
from rollouts.backends import targets
from rollouts.models import Route
from rollouts.servers import examination_name, live_copy_name, spec_of
from rollouts.targets.base import Observation, Phase, Target

logger = logging.getLogger(__name__)

TARGET = "local"
POLL_SECONDS = 0.1


class ExaminationHost:
    """What `registry.hooks.Host` asks for."""

    def candidate(self, version: ModelVersion, run: QARun) -> AbstractContextManager[RunningServer]:
        return _serving(version, examination_name(run.pk, run.attempt))

    def live(self, version: ModelVersion, run: QARun) -> AbstractContextManager[RunningServer] | None:
        live = _live_version(version, run.environment)
        return _serving(live, live_copy_name(run.pk, run.attempt)) if live else None

    def hardware(self, version: ModelVersion, run: QARun) -> Hardware | None:
        return targets[TARGET].hardware()


def _live_version(version: ModelVersion, environment: str) -> ModelVersion | None:
    """Where no environment is named, the one of the last in line: production, that is."""
    routes = Route.objects.filter(model_id=version.model_id, stable__isnull=False)
    if environment:
        routes = routes.filter(environment__name=environment)
    route = routes.select_related("stable__version__model").order_by("-environment__position").first()
    found = route.stable.version if route and route.stable else None
    return found if found and found.pk != version.pk else None


@contextmanager
def _serving(version: ModelVersion, name: str) -> Iterator[RunningServer]:
    target = targets[TARGET]
    try:
        target.restart(spec_of(version, name))
        seen = _wait_ready(target, name)
        yield RunningServer(f"http://{seen.address}", version.model.name, settings.ENGINE_API_KEY, seen.pid)
    finally:
        try:
            target.stop(name)
        except TargetError as error:  # must not hide what the examination found; it is stopped as a stray later
            logger.warning("%s: %s", name, error.message)


def _wait_ready(target: Target, name: str) -> Observation:
    deadline = time.monotonic() + settings.READY_TIMEOUT
    while True:
        seen = target.observe(name)
        if seen.phase is Phase.READY and seen.address:
            return seen
        if seen.phase in (Phase.FAILED, Phase.ABSENT, Phase.STOPPING):
            raise TargetError(f"The server did not start: {seen.message}")
        if time.monotonic() > deadline:
            raise TargetError(f"The server was not ready within {settings.READY_TIMEOUT:g} s: {seen.message}")
        time.sleep(POLL_SECONDS)
