"""`python -m registry.qa.probe TASK < spec.json > measured.json`, TASK being press or alternate.

The keys come with the spec, so that no `ps` shows them.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from contextlib import suppress

from registry.qa.probe.measured import Alternated, Alternation, Measured, Spec
from registry.qa.probe.press import OutOfFiles, alternate, press


def main() -> int:
    try:
        given = json.load(sys.stdin)
        spec = Alternation.from_json(given) if sys.argv[1:] == ["alternate"] else Spec.from_json(given)
    except (ValueError, TypeError, LookupError) as error:
        sys.stderr.write(f"The load cannot be used: {error}\n")
        return 2
    most = _open_as_many_files_as_allowed()
    try:
        found = asyncio.run(_measured(spec))
    except* OutOfFiles:
        found = None
    if found is None:
        sys.stderr.write(f"More connections were needed than the {most:,} files that a process may open here.\n")
        return 2
    json.dump(found.to_json(), sys.stdout)
    return 0


def _open_as_many_files_as_allowed() -> int:
    """A slow server leaves hundreds of connections open at once; often 1,024 are allowed until one asks for more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _measured(spec: Spec | Alternation) -> Measured | Alternated:
    return await (alternate(spec) if isinstance(spec, Alternation) else press(spec))


if __name__ == "__main__":
    sys.exit(main())
