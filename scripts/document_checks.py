"""Write docs/checks.md from the checks themselves; with --check, fail when it is not what they say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry.qa.base import Check
from registry.qa.catalogue import all_checks
from registry.qa.parameters import Parameter
from registry.scoring import CATEGORY_WEIGHTS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "checks.md"
HEAD = """\
# The checks

Written by `make checks-page` from the code. A check's weight counts inside its category; a category's weight is what
the default policy gives it. A *required* check that does not pass blocks, unless the policy calls its category advisory
(by default: integration and quality). What a check found is one of passed, failed, error (the check could not do its
work), not applicable (there is nothing to look at; its weight is shared among the rest) and not checked (it should have
been looked at and could not be). Only passed scores.

When: *files* needs no server; *together* runs beside others; *alone* by itself; *compared* with a copy of the live
version; *last* may bring the server down.
"""


def page() -> str:
    return HEAD + "".join(_category(name, list(found)) for name, found in groupby(all_checks(), lambda c: c.category))


def _category(name: str, checks: list[type[Check]]) -> str:
    rows = "".join(
        f"| `{c.name}` | {c.label} | {'required' if c.required else ''} | {c.weight:g} | {_when(c)} |\n" for c in checks
    )
    head = "| check | what it says | | weight | when |\n|---|---|---|---|---|\n"
    return f"\n## {name.capitalize()} ({CATEGORY_WEIGHTS.get(name, 0):g} %)\n\n{head}{rows}{_parameters(checks)}"


def _when(check: type[Check]) -> str:
    if not check.needs_server:
        return "files"
    if check.needs_live:
        return "compared"
    return "last" if check.last else "alone" if check.alone else "together"


def _parameters(checks: list[type[Check]]) -> str:
    rows = list(_rows(checks))
    if not rows:
        return ""
    return "\n| parameter | default | may be | what it does |\n|---|---|---|---|\n" + "".join(rows)


def _rows(checks: list[type[Check]]) -> Iterator[str]:
    for check in checks:
        for one in check.parameters:
            wanted = one.wanted.replace("|", "\\|")
            yield f"| `{check.name}.{one.name}` | {_default(one)} | {wanted} | {one.help} |\n"


def _default(parameter: Parameter) -> str:
    if isinstance(parameter.default, bool):
        return str(parameter.default).lower()
    return f"{parameter.default:g}" if isinstance(parameter.default, int | float) else parameter.default or "none"


def main() -> int:
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print("docs/checks.md is not what the checks say: make checks-page")
    return 1


if __name__ == "__main__":
    sys.exit(main())
