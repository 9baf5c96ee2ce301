"""Metrics of other apps: `experiment_metrics.py` of each installed one. Plain Python.

Django's side calls `discover` with the installed apps; the command line with those that the environment names.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb

from deploypipe.metrics import definitions

MODULE = "experiment_metrics"


class MetricFileError(Exception):
    """An app's `experiment_metrics.py` cannot be used; the text says where and what to do."""


def discover(apps: Iterable[str]) -> None:
    """Raises MetricFileError: an experiment that silently lacked a metric could not be judged as it was asked."""
    for app in apps:
        if _has_metrics(app):
            _import(app)


def _has_metrics(app: str) -> bool:
    try:
        if find_spec(app) is None:
            raise ModuleNotFoundError(f"No module named {app!r}")
        return find_spec(f"{app}.{MODULE}") is not None
    except Exception as error:  # the app's own package is imported by this
        raise MetricFileError(f"The app {app!r} cannot be imported: {type(error).__name__}: {error}") from error


def _import(app: str) -> None:
    before = definitions.registered()
    try:
        import_module(f"{app}.{MODULE}")
    except (Exception, SystemExit) as error:
        definitions.restore(before)  # not half of a file's metrics
        raise MetricFileError(
            f"The metrics of the app {app!r} cannot be used: {_place_of(error, app)}: {type(error).__name__}: "
            f"{str(error).rstrip('.') or 'no text'}. Mend the file, or take {app!r} out of DEPLOYPIPE_APPS."
        ) from error


def _place_of(error: BaseException, app: str) -> str:
    ending = str(Path(*app.split("."), f"{MODULE}.py"))
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename.endswith(ending)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ending
