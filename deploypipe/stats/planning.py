"""How many requests, and minutes, until a decision: said before a test starts, so that nobody waits in vain.

With known rates the evidence grows by g nats per request, so it needs about log(1/alpha)/g of them (Wald 1945), where
g = (1 - share) KL(q_A || p_A*) + share KL(q_B || p_B*) with p* the projection of `two_arms`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deploypipe.stats.two_arms import project

SPLITS = (0.01, 0.05, 0.1, 0.25, 0.5)
_RAREST = 1e-6


@dataclass(frozen=True, slots=True)
class Plan:
    base_rate: float
    margin: float
    share: float
    alpha: float
    requests_to_pass: float
    """Of both arms together, until a version with the same error rate passes."""
    requests_to_abort_doubled: float | None
    """Until a version with twice the error rate is aborted; None when twice is still within the margin."""


def plan(base_rate: float, margin: float, share: float, alpha: float) -> Plan:
    doubled = min(2 * base_rate, 1 - _RAREST)
    return Plan(
        base_rate,
        margin,
        share,
        alpha,
        requests_to_decide(base_rate, base_rate, margin, share, alpha),
        requests_to_decide(base_rate, doubled, margin, share, alpha) if doubled - base_rate > margin else None,
    )


def requests_to_decide(stable_rate: float, candidate_rate: float, margin: float, share: float, alpha: float) -> float:
    """Total requests until the candidate passes (difference below margin) or is aborted (above); inf at the margin."""
    growth = growth_per_request(stable_rate, candidate_rate, margin, share)
    return -math.log(alpha) / growth if growth > 0 else math.inf


def growth_per_request(stable_rate: float, candidate_rate: float, margin: float, share: float) -> float:
    """Nats of evidence per request of both arms together."""
    if not 0 < share < 1:
        return 0.0
    q_a = min(max(stable_rate, _RAREST), 1 - _RAREST)
    q_b = min(max(candidate_rate, _RAREST), 1 - _RAREST)
    if math.isclose(q_b - q_a, margin, rel_tol=1e-9, abs_tol=1e-12):
        return 0.0
    weights = np.array([1 - share]), np.array([share])
    p_a, p_b = project(*weights, np.array([q_a]), np.array([q_b]), np.array(margin))
    return (1 - share) * divergence(q_a, p_a.item()) + share * divergence(q_b, p_b.item())


def one_arm_requests(rate: float, limit: float, alpha: float) -> float:
    """Requests of one arm until its rate is known to be on its side of the limit; inf at the limit."""
    growth = divergence(min(max(rate, _RAREST), 1 - _RAREST), limit)
    return -math.log(alpha) / growth if growth > 0 else math.inf


def minutes(requests: float, requests_per_minute: float) -> float:
    return requests / requests_per_minute if requests_per_minute > 0 else math.inf


def divergence(q: float, p: float) -> float:
    """KL(q || p) of two Bernoulli rates, both inside (0, 1)."""
    return q * math.log(q / p) + (1 - q) * (math.log1p(-q) - math.log1p(-p))
