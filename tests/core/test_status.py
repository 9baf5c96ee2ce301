import re
from enum import StrEnum
from pathlib import Path

import pytest

from deploypipe.core.status import STATUSES, TONES, Status, readable, status_of

ROOT = Path(__file__).resolve().parents[2]
SYMBOLS = set(re.findall(r'<symbol id="([a-z-]+)"', (ROOT / "static" / "icons.svg").read_text()))
EVERY = [(kind, value, status) for kind, table in STATUSES.items() for value, status in table.items()]


@pytest.mark.parametrize(("kind", "value", "status"), EVERY, ids=[f"{kind}-{value}" for kind, value, _ in EVERY])
def test_every_status_has_a_tone_a_drawn_icon_and_a_word(kind: str, value: str, status: Status) -> None:
    assert status.tone in TONES
    assert status.icon in SYMBOLS
    assert status.label[0].isupper()
    assert "_" not in status.label
    assert status_of(kind, value) is status


@pytest.mark.parametrize("kind", ["version", "rollout"])
def test_waiting_for_a_person_has_a_tone_of_its_own(kind: str) -> None:
    waiting = [value for value, status in STATUSES[kind].items() if status.tone == "hold"]
    assert any("approval" in value for value in waiting)


def test_what_is_not_checked_never_looks_passed() -> None:
    for value in ("not_checked", "not_applicable", "error", "failed"):
        assert status_of("qa_result", value).tone != "ok"
    for value in ("insufficient_data", "provider_error", "fail"):
        assert status_of("verdict", value).tone != "ok"


@pytest.mark.parametrize("value", ["half_open", "half-open"])
def test_an_unknown_value_is_shown_in_plain_words(value: str) -> None:
    assert status_of("rollout", value) == Status("idle", "circle", "Half open")


def test_an_unknown_kind_and_no_value_are_no_error() -> None:
    assert status_of("weather", "sunny").label == "Sunny"
    assert status_of("rollout", None).label == "Unknown"
    assert status_of("rollout", "").label == "Unknown"
    assert readable("  ") == "Unknown"


def test_a_str_enum_member_is_found_by_its_value() -> None:
    class Phase(StrEnum):
        PAUSED = "paused"

    assert status_of("rollout", Phase.PAUSED).label == "Paused"


def test_every_tone_is_defined_in_the_stylesheets() -> None:
    tokens = (ROOT / "static" / "css" / "tokens.css").read_text()
    components = (ROOT / "static" / "css" / "components.css").read_text()
    for tone in TONES:
        assert f"--tone-{tone}: light-dark(" in tokens
        assert f"--tint-{tone}: light-dark(" in tokens
        assert f".chip-{tone} {{" in components
        assert f".callout-{tone} {{" in components


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, definition of contrast ratio."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_published() -> None:
    assert _contrast("#ffffff", "#000000") == pytest.approx(21)
    assert _contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("tone", TONES)
def test_text_of_every_tone_is_readable_on_its_tint_and_on_panels(tone: str, theme: int) -> None:
    tokens = (ROOT / "static" / "css" / "tokens.css").read_text()

    def token(name: str) -> str:
        found = re.search(rf"--{name}: light-dark\((#[0-9a-f]{{6}}), (#[0-9a-f]{{6}})\)", tokens)
        assert found, name
        return found.group(theme + 1)

    for ground in (f"tint-{tone}", "surface", "canvas"):
        assert _contrast(token(f"tone-{tone}"), token(ground)) >= 4.5
    assert _contrast(token("text"), token(f"tint-{tone}")) >= 7
