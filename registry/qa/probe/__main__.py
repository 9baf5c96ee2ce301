"""`python -m registry.qa.probe TASK < spec.json > measured.json`, TASK being press or alternate.

The keys come with the spec, so that no `ps` shows them.
"""

from __future__ import annotations

import asyncio
import json
import sys

from registry.qa.probe.measured import Alternated, Alternation, Measured, Spec
from registry.qa.probe.press import alternate, press


def main() -> int:
    try:
        given = json.load(sys.stdin)
        spec = Alternation.from_json(given) if sys.argv[1:] == ["alternate"] else Spec.from_json(given)
    except (ValueError, TypeError, LookupError) as error:
        sys.stderr.write(f"The load cannot be used: {error}\n")
        return 2
    json.dump(asyncio.run(_measured(spec)).to_json(), sys.stdout)
    return 0


async def _measured(spec: Spec | Alternation) -> Measured | Alternated:
    return await (alternate(spec) if isinstance(spec, Alternation) else press(spec))


if __name__ == "__main__":
    sys.exit(main())
