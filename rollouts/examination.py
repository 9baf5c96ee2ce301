"""Somewhere to run a version while registry examines it: a server of its own on a target, gone afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from deploypipe.core.errors import TargetError
from registry.models import ModelVersion, QARun
from registry.qa.base import RunningServer
from rollouts.backends import targets
from rollouts.servers import examination_name, spec_of
from rollouts.targets.base import Observation, Phase, Target

logger = logging.getLogger(__name__)

TARGET = "local"
POLL_SECONDS = 0.1


@contextmanager
def host(version: ModelVersion, run: QARun) -> Iterator[RunningServer]:
    target = targets[TARGET]
    name = examination_name(run.pk, run.attempt)
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
