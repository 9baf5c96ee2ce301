"""The `deploypipe` command line. It needs no server, no database and no Django.

Each command is a module with `add`, which says its arguments and what to call with them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from deploypipe.client import experiment, qa

DESCRIPTION = "Decide whether a new version of a machine-learning model may serve real users."
EPILOG = "“deploypipe COMMAND --help” says what a command takes. The web application is started with “make run”."
COMMANDS = (qa, experiment)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    code: int = options.run(options)
    return code


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser("deploypipe", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    root.add_argument("--version", action="version", version=f"deploypipe {_version()}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return root


def _version() -> str:
    try:
        return version("deploypipe")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"
