"""Metrics of other apps: `experiment_metrics.py` of each installed one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from deploypipe import plugins
from deploypipe.metrics import definitions


class MetricFileError(Exception):
    """An app's `experiment_metrics.py` cannot be used; the text says where and what to do."""


def discover(apps: Iterable[str]) -> None:
    """Raises MetricFileError: an experiment that silently lacked a metric could not be judged as it was asked."""
    plugins.discover(
        apps,
        "experiment_metrics",
        named="metrics",
        keep=lambda: partial(definitions.restore, definitions.registered()),
        error=MetricFileError,
    )
