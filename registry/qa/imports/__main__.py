"""Arguments: the component, the journal's file, seconds, and the folders to import from."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from registry.qa.imports.components import LOOK
from registry.qa.imports.journal import Journal


def main() -> None:
    component, path, seconds, *folders = sys.argv[1:]
    journal = Journal(Path(path))
    signal.setitimer(signal.ITIMER_REAL, float(seconds) + 5)  # where whoever started this is gone and cannot end it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _silence()
    sys.argv[1:] = []
    sys.path[:0] = folders
    try:
        LOOK[component](journal)
    except BaseException as error:  # also SystemExit
        journal.failed(error)
    else:
        journal.done()
    sys.stdout.flush()
    os._exit(0)  # what the component left running, or does at exit, is not waited for


def _silence() -> None:
    """A component's prints are nobody's."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


if __name__ == "__main__":
    main()
