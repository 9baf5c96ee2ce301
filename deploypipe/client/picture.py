"""What became of simulated experiments over time, as an SVG of its own: no script, no font, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Scale = Callable[[float], float]

WIDTH, HEIGHT = 900, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 290, 84, 60
_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
_LINE = 16
_BETWEEN = 8

_STYLE = """
  svg { color-scheme: light dark; --paper: #fff; --text: #182433; --soft: #5b6878; --grid: #d9dee5;
        --promoted: #2b7a4b; --aborted: #c2323a; --open: #b9c2cd; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #151d28; --text: #e6ebf1; --soft: #9fadbd; --grid: #2c3948;
          --promoted: #4aa872; --aborted: #e2686e; --open: #465362; } }
  text { font: 13px system-ui, sans-serif; fill: var(--text); }
  .title { font-size: 17px; font-weight: 600; } .soft { fill: var(--soft); } .strong { font-weight: 600; }
  .paper { fill: var(--paper); } .grid { stroke: var(--grid); }
  .promoted { fill: var(--promoted); } .aborted { fill: var(--aborted); } .open { fill: var(--open); }
"""


@dataclass(frozen=True)
class Band:
    """One of the areas that lie on each other and fill the whole."""

    name: str
    kind: str
    """promoted, aborted or open."""
    notes: Sequence[str]
    """Lines below its name."""
    shares: Sequence[float]
    """Of all runs, at each of the picture's minutes."""


def draw(title: str, lines: Sequence[str], minutes: Sequence[float], bands: Sequence[Band]) -> str:
    """`lines`: what stands below the title. `bands`: from the bottom up; at each minute their shares add up to 1."""
    longest = max(minutes[-1], 1e-9)

    def x(minute: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * minute / longest

    def y(share: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share

    told = "; ".join(f"{band.name}: {', '.join(band.notes)}" for band in bands)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img"'
        ' aria-labelledby="t d">',
        f'<title id="t">{escape(title)}</title><desc id="d">{escape(told)}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{_LEFT}" y="30">{escape(title)}</text>',
        *(
            f'<text class="soft" x="{_LEFT}" y="{50 + 17 * n}">{escape(line)}</text>'
            for n, line in enumerate(lines[:2])
        ),
    ]
    below = [0.0] * len(minutes)
    middles = []
    for band in bands:
        above = [low + share for low, share in zip(below, band.shares, strict=True)]
        parts.append(f'<path class="{band.kind}" d="{_area(minutes, below, above, x, y)}"/>')
        middles.append(y((below[-1] + above[-1]) / 2))
        below = above
    parts += _axes(longest, x, y)
    heights = [_LINE * (1 + len(band.notes)) + _BETWEEN for band in bands]
    for band, place in zip(bands, _apart(middles, heights), strict=True):
        parts += _label(band, place)
    return "\n".join([*parts, "</svg>", ""])


def _area(minutes: Sequence[float], below: Sequence[float], above: Sequence[float], x: Scale, y: Scale) -> str:
    there = [f"{x(m):.1f},{y(s):.1f}" for m, s in zip(minutes, above, strict=True)]
    back = [f"{x(m):.1f},{y(s):.1f}" for m, s in zip(reversed(minutes), reversed(below), strict=True)]
    return f"M{' L'.join([*there, *back])}Z"


def _axes(longest: float, x: Scale, y: Scale) -> list[str]:
    right = WIDTH - _RIGHT
    parts = []
    for share in _GRID:
        parts.append(f'<path class="grid" d="M{_LEFT} {y(share):.1f}H{right}"/>')
        parts.append(
            f'<text class="soft" x="{_LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>'
        )
    for minute in ticks(longest):
        parts.append(
            f'<text class="soft" x="{x(minute):.1f}" y="{HEIGHT - _BOTTOM + 20}" text-anchor="middle">{minute:g}</text>'
        )
    middle, under = (_LEFT + right) / 2, HEIGHT - _BOTTOM + 42
    parts.append(f'<text class="soft" x="{middle}" y="{under}" text-anchor="middle">Minutes since the start</text>')
    return parts


def _label(band: Band, place: float) -> list[str]:
    left = WIDTH - _RIGHT + 14
    return [
        f'<rect class="{band.kind}" x="{left}" y="{place - 11:.1f}" width="12" height="12" rx="2"/>',
        f'<text class="strong" x="{left + 18}" y="{place:.1f}">{escape(band.name)}</text>',
        *(
            f'<text class="soft" x="{left + 18}" y="{place + _LINE * line:.1f}">{escape(note)}</text>'
            for line, note in enumerate(band.notes, 1)
        ),
    ]


def _apart(places: Sequence[float], heights: Sequence[float]) -> list[float]:
    """First lines of the labels, from the bottom up, moved until no label covers the next or leaves the picture."""
    kept: list[float] = []
    lowest: float = HEIGHT - _BOTTOM + _LINE
    for place, height in zip(places, heights, strict=True):
        kept.append(min(place, lowest - height))
        lowest = kept[-1]
    lift = max(0.0, _TOP + _LINE - kept[-1]) if kept else 0.0
    return [place + lift for place in kept]


def ticks(longest: float) -> list[float]:
    """About six round numbers from 0 to the longest."""
    rough = longest / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
    return [round(step * n, 10) for n in range(int(longest / step + 1e-9) + 1)]
