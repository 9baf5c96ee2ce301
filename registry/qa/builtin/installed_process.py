"""What is done in the process that imports an engine: it may be one of another Python, so nothing of ours is used.

Argument: the module. What it found is the last line of its output that begins with the mark.
"""

import importlib
import json
import sys
import traceback
from typing import Any

MARK = "deploypipe-found:"
RIGHT: list[dict[str, Any]] = [
    {},
    {"temperature": 0, "max_tokens": 8},
    {"n": 2, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 1, "stop": ["."]},
]
WRONG: list[dict[str, Any]] = [
    {"temperature": -1},
    {"top_p": 0},
    {"top_p": 1.5},
    {"top_k": -2},
    {"min_p": 2},
    {"presence_penalty": 3},
    {"frequency_penalty": -3},
    {"repetition_penalty": 0},
    {"max_tokens": 0},
    {"n": 0},
]


def shown(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "nothing set"


def look(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"python": sys.version.split()[0], "step": f"import {name}"}
    try:
        module: Any = importlib.import_module(name)
        found["version"] = str(getattr(module, "__version__", ""))
        found["step"] = f"{name}.SamplingParams"
        kind: Any = module.SamplingParams
        for settings in RIGHT:
            found["step"] = f"SamplingParams with {shown(settings)}"
            kind(**settings)
    except BaseException as error:  # also SystemExit
        found["error"] = "".join(traceback.format_exception_only(type(error), error)).strip()[-300:]
        return found
    found["tried"] = len(WRONG)
    found["accepted"] = [shown(settings) for settings in WRONG if accepts(kind, settings)]
    return found


def accepts(kind: Any, settings: dict[str, Any]) -> bool:
    try:
        kind(**settings)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    sys.stdout.write(f"\n{MARK}{json.dumps(look(sys.argv[1]))}\n")
    sys.stdout.flush()
