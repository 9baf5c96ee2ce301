"""Loaded before Django is: tests write to a folder of their own and do not see what the person's shell has set."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

for name in [name for name in os.environ if name.startswith("DEPLOYPIPE_")]:
    del os.environ[name]
os.environ["DEPLOYPIPE_VAR"] = tempfile.mkdtemp(prefix="deploypipe-test-")
atexit.register(shutil.rmtree, os.environ["DEPLOYPIPE_VAR"], ignore_errors=True)
