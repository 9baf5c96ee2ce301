"""Fetch the third-party files that the pages load and keep them in static/vendor/, byte for byte pinned.

    python scripts/vendor.py            fetch with `npm pack` and write
    python scripts/vendor.py --check    compare what is on disk with the pins, no network

A new version: change its number here, run, and copy the digest that the refusal names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "static" / "vendor"


@dataclass(frozen=True)
class Pin:
    package: str
    version: str
    member: str
    """Path inside the package."""
    target: str
    """Path below static/vendor/."""
    sha256: str
    """Of the file as written, after the source-map reference is taken off."""
    licence: str
    why: str


PINS = (
    Pin(
        package="@tabler/core",
        version="1.6.1",
        member="dist/css/tabler.min.css",
        target="tabler/tabler.min.css",
        sha256="09c0ad77d135f90fd8cbc583824b2fdbd247adbc001234d27a36f284bfecab5e",
        licence="MIT",
        why="layout, forms, tables, cards; none of its JavaScript",
    ),
    Pin(
        package="plotly.js-cartesian-dist-min",
        version="4.1.1",
        member="plotly-cartesian.min.js",
        target="plotly/plotly-cartesian.min.js",
        sha256="79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a",
        licence="MIT",
        why="charts",
    ),
    Pin(
        package="@fontsource-variable/inter",
        version="5.3.0",
        member="files/inter-latin-wght-normal.woff2",
        target="inter/inter-latin-wght-normal.woff2",
        sha256="3100e775e8616cd2611beecfa23a4263d7037586789b43f035236a2e6fbd4c62",
        licence="OFL-1.1",
        why="one typeface on every machine, with tabular numerals",
    ),
    Pin(
        package="@fontsource-variable/inter",
        version="5.3.0",
        member="LICENSE",
        target="inter/LICENSE",
        sha256="3b0a5fca3d17942cde889069889dedbbbd075e9b599968c82a95f4d944e9b345",
        licence="OFL-1.1",
        why="the font's licence asks to travel with it",
    ),
)

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

SOURCE_MAP = re.compile(rb"\s*(/\*#\s*sourceMappingURL=[^*]*\*/|//#\s*sourceMappingURL=\S+)\s*$")


class Refused(Exception):
    pass


def pack(package: str, version: str, into: Path) -> Path:
    """npm compares the archive with the registry's own digest; ours is checked after."""
    done = subprocess.run(
        ["npm", "pack", f"{package}@{version}", "--json", "--silent", "--pack-destination", str(into)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    answer = json.loads(done.stdout)
    rows = list(answer.values()) if isinstance(answer, dict) else answer
    name = str(rows[0]["filename"]).replace("@", "").replace("/", "-")
    return into / name


def member(archive: Path, path: str) -> bytes:
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(f"package/{path}")
        if stream is None:
            raise Refused(f"{archive.name} has no file {path}.")
        return stream.read()


def without_source_map(target: str, content: bytes) -> bytes:
    """The manifest storage would look for the map that we do not ship."""
    return SOURCE_MAP.sub(b"\n", content) if target.endswith((".css", ".js")) else content


def verify(pin: Pin, content: bytes) -> None:
    seen = hashlib.sha256(content).hexdigest()
    if seen != pin.sha256:
        raise Refused(f"{pin.target}: sha256 is {seen}, pinned is {pin.sha256 or 'nothing'}.")


def fetch() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        archives: dict[tuple[str, str], Path] = {}
        for pin in PINS:
            key = (pin.package, pin.version)
            if key not in archives:
                archives[key] = pack(pin.package, pin.version, Path(folder))
            content = without_source_map(pin.target, member(archives[key], pin.member))
            verify(pin, content)
            target = VENDOR / pin.target
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            yield f"{pin.target}  {len(content)} bytes"
    (VENDOR / "VENDORED.md").write_text(listing())


def check() -> Iterator[str]:
    for pin in PINS:
        path = VENDOR / pin.target
        if not path.exists():
            raise Refused(f"{pin.target} is missing; run python scripts/vendor.py.")
        verify(pin, path.read_bytes())
        yield f"{pin.target}  as pinned"
    if (VENDOR / "VENDORED.md").read_text() != listing():
        raise Refused("VENDORED.md differs from the pins; run python scripts/vendor.py.")


def listing() -> str:
    rows = "\n".join(
        f"| `{pin.target}` | {pin.package} {pin.version} | {pin.licence} | `{pin.sha256}` | {pin.why} |" for pin in PINS
    )
    return f"""# Third-party files

Written by `scripts/vendor.py` from the npm packages named here; `python scripts/vendor.py --check` compares digests.
htmx is not here: it comes with the Python package django-htmx.

| file | package | licence | sha256 | for |
|---|---|---|---|---|
{rows}

Copyright: Tabler 2018-2026 The Tabler Authors, codecalm.net Paweł Kuna. Plotly.js 2012-2026 Plotly, Inc.
Inter 2016 The Inter Project Authors (the SIL Open Font License is in `inter/LICENSE`).

## MIT

{MIT}"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch or check the third-party files of the pages.")
    parser.add_argument("--check", action="store_true", help="only compare what is on disk with the pins")
    try:
        for line in check() if parser.parse_args().check else fetch():
            sys.stdout.write(line + "\n")
    except (Refused, subprocess.SubprocessError, OSError) as error:
        sys.stderr.write(f"vendor: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
