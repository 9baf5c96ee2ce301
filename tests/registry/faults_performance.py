"""Ways to be slow or to fail under load, each with the one check that must see it and words of its reason."""

from __future__ import annotations

FAULTS: list[tuple[str, str, str]] = [
    ("very slow under load", "performance.first_token", "the limit is 1500 ms"),
    ("short answers under load", "performance.throughput", "at least 130 tokens/s are demanded"),
    ("one stream in five fails", "performance.error_rate", "ended with an error event inside a 200 answer"),
]
