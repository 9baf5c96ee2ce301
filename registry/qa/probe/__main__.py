"""`python -m registry.qa.probe < spec.json > measured.json`. The key comes with the spec, so that no `ps` shows it."""

from __future__ import annotations

import asyncio
import json
import sys

from registry.qa.probe.measured import Spec
from registry.qa.probe.press import press


def main() -> int:
    try:
        spec = Spec.from_json(json.load(sys.stdin))
    except (ValueError, TypeError, LookupError) as error:
        sys.stderr.write(f"The load cannot be used: {error}\n")
        return 2
    json.dump(asyncio.run(press(spec)).to_json(), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
