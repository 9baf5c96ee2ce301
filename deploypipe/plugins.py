"""Files with which other apps add to the product: `qa_checks.py`, `experiment_metrics.py`. Plain Python.

Django's side asks with the installed apps; the command line with those that the environment names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb

from deploypipe import env


def named_apps() -> list[str]:
    """Those that DEPLOYPIPE_APPS names, where they can be imported from."""
    apps = env.words("APPS", "")
    if apps and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m deploypipe` has it; the installed script has not
    return apps


def discover(
    apps: Iterable[str],
    module: str,
    *,
    named: str,
    keep: Callable[[], Callable[[], None]],
    error: type[Exception],
) -> None:
    """Import that module of each app that has one.

    `named`: what such a file holds. `keep` is called before each, and what it gives if the file is wrong: not half of
    what it holds shall stay. Raises `error`, which says where and what to do.
    """
    for app in apps:
        if _has(app, module, error):
            _import(app, module, named, keep, error)


def _has(app: str, module: str, error: type[Exception]) -> bool:
    try:
        if find_spec(app) is None:
            raise ModuleNotFoundError(f"No module named {app!r}")
        return find_spec(f"{app}.{module}") is not None
    except Exception as fault:  # the app's own package is imported by this
        raise error(f"The app {app!r} cannot be imported: {type(fault).__name__}: {fault}") from fault


def _import(app: str, module: str, named: str, keep: Callable[[], Callable[[], None]], error: type[Exception]) -> None:
    undo = keep()
    try:
        import_module(f"{app}.{module}")
    except (Exception, SystemExit) as fault:
        undo()
        raise error(
            f"The {named} of the app {app!r} cannot be used: {_place_of(fault, app, module)}: {type(fault).__name__}: "
            f"{str(fault).rstrip('.') or 'no text'}. Mend the file, or take {app!r} out of DEPLOYPIPE_APPS."
        ) from fault


def _place_of(fault: BaseException, app: str, module: str) -> str:
    """The file and the line in it, also where the fault itself came from further in."""
    ending = str(Path(*app.split("."), f"{module}.py"))
    if isinstance(fault, SyntaxError) and fault.filename:
        return f"{fault.filename}, line {fault.lineno}"
    frames = [frame for frame in extract_tb(fault.__traceback__) if frame.filename.endswith(ending)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ending
