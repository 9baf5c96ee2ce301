"""The pair on the line candidate = ratio * stable + difference that is nearest to a pair of rates.

Nearest by n_A KL(q_A || p_A) + n_B KL(q_B || p_B), the reverse information projection of Turner, Ly, Grünwald (2024);
along the line that sum is convex, and its derivative has the sign of a polynomial without poles.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_TINY = 1e-15
_STEPS = 60
_CLOSE = 1e-14


def project(
    stable_n: npt.ArrayLike,
    candidate_n: npt.ArrayLike,
    q_stable: npt.ArrayLike,
    q_candidate: npt.ArrayLike,
    difference: npt.ArrayLike,
    ratio: npt.ArrayLike = 1.0,
) -> tuple[Floats, Floats]:
    """p of both arms, inside (0, 1); of difference and ratio one must say nothing (0 or 1).

    Arrays of any shapes that broadcast. Each element's bits are its own: they do not depend on its neighbours.
    """
    arrays = np.broadcast_arrays(stable_n, candidate_n, q_stable, q_candidate, difference, ratio)
    shape = arrays[0].shape
    n_a, n_b, q_a, q_b, d, r = (np.ascontiguousarray(values, dtype=np.float64).ravel() for values in arrays)
    share = n_a / np.maximum(n_a + n_b, np.finfo(float).tiny)
    on_ratio = d == 0
    if on_ratio.all():
        p_a, p_b = _on_ratio(share, q_a, q_b, r)
    elif on_ratio.any():
        p_a, p_b = np.empty_like(share), np.empty_like(share)
        for chosen, line in ((on_ratio, _on_ratio), (~on_ratio, _on_difference)):
            third = r if line is _on_ratio else d
            p_a[chosen], p_b[chosen] = line(share[chosen], q_a[chosen], q_b[chosen], third[chosen])
    else:
        p_a, p_b = _on_difference(share, q_a, q_b, d)
    return p_a.reshape(shape), p_b.reshape(shape)


def approach(
    n_a: Floats, n_b: Floats, q_a: Floats, q_b: Floats, difference: Floats, ratio: Floats
) -> tuple[Floats, Floats]:
    """A point on the line near the projection, far cheaper: two steps of iteratively reweighted least squares."""
    d, r = np.broadcast_arrays(difference, ratio)
    # candidate = b + r u, stable = a + u
    a, b = np.maximum(0.0, -d / r), np.maximum(0.0, d)
    top = np.minimum(1 - a, (1 - b) / r)
    v_a, v_b = q_a * (1 - q_a), q_b * (1 - q_b)
    for _ in range(2):
        w_a, w_b = n_a * v_b, r * n_b * v_a
        u = (w_a * (q_a - a) + w_b * (q_b - b)) / np.maximum(w_a + r * w_b, np.finfo(float).tiny)
        u = np.clip(u, 1e-9 * top, top * (1 - 1e-9))
        p_a, p_b = u + a, b + r * u
        v_a, v_b = p_a * (1 - p_a), p_b * (1 - p_b)
    return p_a, p_b


def _on_ratio(share: Floats, q_a: Floats, q_b: Floats, r: Floats) -> tuple[Floats, Floats]:
    """r u^2 - (share (1 + r q_A) + (1 - share) (r + q_B)) u + share q_A + (1 - share) q_B = 0, its smaller root.

    For ratio 1 that is the pooled rate.
    """
    pooled = share * q_a + (1 - share) * q_b
    linear = share * (1 + r * q_a) + (1 - share) * (r + q_b)
    root = 2 * pooled / (linear + np.sqrt(np.maximum(linear * linear - 4 * r * pooled, 0.0)))
    top = np.minimum(1.0, 1 / r)
    u = np.clip(root, _TINY * top, top * (1 - _TINY))
    return u, np.minimum(r * u, 1 - _TINY)


def _on_difference(share: Floats, q_a: Floats, q_b: Floats, d: Floats) -> tuple[Floats, Floats]:
    """Newton's method, with bisection where it leaves its bracket; the root lies between q_A and q_B - difference."""
    # p_A = u + a and p_B = u + b, 0 < u < 1 - |d|: no small rate is ever the difference of two large ones
    a, b, top = np.maximum(0.0, -d), np.maximum(0.0, d), 1 - np.abs(d)
    left = np.clip(np.minimum(q_a - a, q_b - b), 0.0, top)
    right = np.clip(np.maximum(q_a - a, q_b - b), 0.0, top)
    u = _root(share, q_a, q_b, left, right, a, b)
    u = np.clip(u, _TINY, top - _TINY)
    return u + a, u + b


def _root(share: Floats, q_a: Floats, q_b: Floats, left: Floats, right: Floats, a: Floats, b: Floats) -> Floats:
    """("rtsafe", Numerical Recipes 9.4). An element that has converged stands still while others go on."""
    rest = 1 - share
    u = np.clip(share * (q_a - a) + rest * (q_b - b), left, right)
    u = np.where((u > left) & (u < right), u, 0.5 * (left + right))
    result = u.copy()
    active = np.arange(len(result))
    last_step = right - left
    for _ in range(_STEPS):
        p, r = u + a, u + b
        v_p, v_r = p * (1 - p), r * (1 - r)
        above_p, above_r = share * (p - q_a), rest * (r - q_b)
        value = above_p * v_r + above_r * v_p
        slope = share * v_r + above_p * (1 - 2 * r) + rest * v_p + above_r * (1 - 2 * p)
        left = np.where(value < 0, u, left)
        right = np.where(value > 0, u, right)
        newton = u - value / np.where(slope > 0, slope, 1.0)
        safe = (slope > 0) & (newton > left) & (newton < right) & (2 * np.abs(value) < np.abs(last_step) * slope)
        # Asked first: at the root u is an end of its bracket, which Newton's step leaves, and bisection goes far away.
        close = np.abs(value) <= _CLOSE * u * slope
        following = np.where(close, u, np.where(safe, newton, 0.5 * (left + right)))
        last_step = following - u
        u = following
        result[active] = u
        going = np.abs(last_step) > _CLOSE * u
        if not going.any():
            break
        if not going.all():
            active = active[going]
            u, last_step, left, right, share, rest, q_a, q_b, a, b = (
                values[going] for values in (u, last_step, left, right, share, rest, q_a, q_b, a, b)
            )
    return result
