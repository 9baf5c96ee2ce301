"""Correlated traffic: users who come with many requests, and whose requests fail together.

Sizes are heavy-tailed: a discrete Pareto law with P(size >= k) = k^-1.5, cut at 200 (mean about 2.5, the largest
session in a thousand about 100 requests). Each user has a propensity of their own to meet an error, a Beta law around
the arm's rate with concentration 2: most users never see an error, a few see little else, and the requests of one
session have a correlation of one third. The size does not depend on the propensity, so that the rate of errors is the
same by request and by session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

TAIL = 1.5
LARGEST = 200
CONCENTRATION = 2.0
THINK_SECONDS = 20.0
"""Mean pause between two requests of one session."""
SESSION_SECONDS = 300.0
"""How long a session is observed at most."""
MOST_REQUESTS = 10
"""Of a session that count."""

_TAILS = np.arange(1, LARGEST + 1) ** -TAIL
_SIZES = _TAILS - np.append(_TAILS[1:], 0.0)
MEAN_SIZE = float((np.arange(1, LARGEST + 1) * _SIZES).sum())

SHARES = sorted({failed / size for size in range(1, MOST_REQUESTS + 1) for failed in range(size + 1)})
"""Every share of failed requests that a session can have."""
_PLACE = {share: place for place, share in enumerate(SHARES)}
_PLACES = np.array(
    [
        [_PLACE[min(failed, max(size, 1)) / max(size, 1)] for failed in range(MOST_REQUESTS + 1)]
        for size in range(MOST_REQUESTS + 1)
    ]
)


@dataclass(frozen=True, slots=True)
class Readings:
    """Of one arm's sessions, shape (runs, windows): each counted once in each reading."""

    first: Ints
    first_failed: Ints
    whole: Ints
    """Shape (runs, windows, sizes, failed): sessions whose observation ended with so many requests and failures."""

    @property
    def shares(self) -> Ints:
        """Shape (runs, windows, SHARES)."""
        runs, windows = self.whole.shape[:2]
        flat = self.whole.reshape(runs, windows, -1)
        result = np.zeros((runs, windows, len(SHARES)), dtype=np.int64)
        for code, place in enumerate(_PLACES.ravel()):
            result[..., place] += flat[..., code]
        return result


def draw(
    arrivals: Ints, rates: Floats, effect: float, window_seconds: int, measured: Bools, random: np.random.Generator
) -> tuple[Ints, Ints, Readings]:
    """Requests and errors per window, and the readings by session, of the sessions that begin in each window.

    `rates` and `measured` are per window; a request's chance to fail is that of the window its session began in.
    """
    runs, windows = arrivals.shape
    run, window = np.divmod(np.repeat(np.arange(arrivals.size), arrivals.ravel()), windows)
    sizes = np.minimum(random.random(len(run)) ** (-1 / TAIL), LARGEST).astype(np.int64)
    rate = rates[window] + effect
    propensity = random.beta(CONCENTRATION * rate, CONCENTRATION * (1 - rate))
    begins = (window + random.random(len(run))) * window_seconds

    session = np.repeat(np.arange(len(run)), sizes)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(session)) - starts[session]
    pauses = random.exponential(THINK_SECONDS, size=len(session)) * (place > 0)
    elapsed = np.cumsum(pauses)
    elapsed -= elapsed[starts][session]
    failed = random.random(len(session)) < propensity[session]
    at = ((begins[session] + elapsed) // window_seconds).astype(np.int64)
    inside = at < windows
    inside &= measured[np.minimum(at, windows - 1)]

    cell = run[session] * windows + at
    requests = np.bincount(cell[inside], minlength=runs * windows)
    errors = np.bincount(cell[inside & failed], minlength=runs * windows)

    first = place == 0
    counted = first & inside
    first_n = np.bincount(cell[counted], minlength=runs * windows)
    first_s = np.bincount(cell[counted & failed], minlength=runs * windows)

    kept = (place < MOST_REQUESTS) & (elapsed < SESSION_SECONDS)
    size_kept = np.bincount(session[kept], minlength=len(run))
    failed_kept = np.bincount(session[kept & failed], minlength=len(run))
    # However soon its requests were complete: counted at a fixed age, those that leave early are not the last ones.
    ended = begins + SESSION_SECONDS
    close = (ended // window_seconds).astype(np.int64)
    seen = close < windows
    seen &= measured[np.minimum(close, windows - 1)]
    codes = (MOST_REQUESTS + 1) ** 2
    index = (run * windows + close) * codes + size_kept * (MOST_REQUESTS + 1) + failed_kept
    whole = np.bincount(index[seen], minlength=runs * windows * codes).astype(np.int32)

    shape = (runs, windows)
    readings = Readings(
        first_n.reshape(shape),
        first_s.reshape(shape),
        whole.reshape(*shape, MOST_REQUESTS + 1, MOST_REQUESTS + 1),
    )
    return requests.reshape(shape), errors.reshape(shape), readings
