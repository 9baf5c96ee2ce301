"""Answers questions by the packages of requirements.txt; run by their Python, in a process of its own.

Reads a list of [name of a function below, its arguments] as JSON, writes the list of answers.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import cvxpy  # type: ignore[import-not-found]
import numpy as np
import ville  # type: ignore[import-not-found]
from savvi import multinomial  # type: ignore[import-not-found]


def bernoulli_test(values: list[int], limit: float, prior: list[float]) -> list[float]:
    return ville.BernoulliTest(limit, prior=prior).fit(values).log_e_values_.tolist()  # type: ignore[no-any-return]


def bernoulli_interval(values: list[int], alpha: float, prior: list[float]) -> list[float]:
    return list(ville.BernoulliCS(alpha=alpha, prior=prior).fit(values).interval())


def betting_test(values: list[float], limit: float, alternative: str, alpha: float) -> int | None:
    """After how many values it is called."""
    test = ville.BettingTest(limit, alternative=alternative, alpha=alpha).fit(values)
    return test.stopping_time()  # type: ignore[no-any-return]


def betting_interval(values: list[float], alpha: float) -> list[float]:
    return list(ville.BettingCS(alpha=alpha).fit(values).interval())


def half_normal_boundary(variance: list[float], alpha: float, precision: float) -> list[float]:
    return ville.normal_mixture(np.array(variance), alpha, precision, one_sided=True).tolist()  # type: ignore[no-any-return]


def mixture_test(values: list[float], spread: float) -> list[float]:
    """Of a mean of 0, standard deviation 1."""
    return ville.MSPRT(tau=spread).fit(values).log_e_values_.tolist()  # type: ignore[no-any-return]


def asymptotic_difference(values: list[float], treated: list[int], share: float, alpha: float) -> list[float]:
    test = ville.AsymptoticABTest(alpha=alpha, propensity=share, t_opt=len(values))
    return list(test.fit(values, treated).interval())


def betting_difference(values: list[float], treated: list[int], share: float, alpha: float) -> list[float]:
    return list(ville.BettingABTest(alpha=alpha, propensity=share).fit(values, treated).interval())


def quantile_interval(values: list[float], level: float, alpha: float) -> list[float]:
    return list(ville.QuantileCS(q=level, alpha=alpha, t_opt=len(values)).fit(values).interval())


def split_test(shares: list[float], counts: list[list[int]]) -> list[float]:
    """log odds after each row of counts."""
    test, found = multinomial.Multinomial(0.05, np.array(shares)), []
    for row in counts:
        test.update(np.array(row))
        found.append(float(np.log(test.odds)))
    return found


def poisson_test(shares: list[float], counts: list[int], alpha: float) -> dict[str, Any]:
    """Of all events at once: p-value and interval of the log of the second arm's rate over the first's."""
    test = multinomial.InhomogeneousPoissonProcess(alpha, np.array(shares), np.array([[-1, 1]]))
    test.update(np.array(counts))
    test.infer(solver=cvxpy.CLARABEL)
    return {"p_value": float(test.p_value[0]), "interval": test.conf_int[0].tolist()}


def poisson_stop(shares: list[float], events: list[list[int]], alpha: float) -> int | None:
    """After how many events it is called."""
    test = multinomial.InhomogeneousPoissonProcess(alpha, np.array(shares), np.array([[-1, 1]]))
    for number, event in enumerate(events, 1):
        test.update(np.array(event))
        if test.odds >= 1 / alpha:
            return number
    return None


def one_sided_rates(shares: list[float], counts: list[int]) -> float:
    """log odds against "the second arm has no higher rate than the first", of all successes at once."""
    test = multinomial.InhomogeneousBernoulliProcess(
        0.05, np.array(shares), lambda delta: [delta[1] <= delta[0]], np.array([[-1, 1]])
    )
    test.counts += np.array(counts)
    return float(np.log(test.update_odds(np.array(counts), solver=cvxpy.CLARABEL)))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # theirs: cvxpy's about accuracy, numpy's about a log of zero
    json.dump([globals()[name](**given) for name, given in json.load(sys.stdin)], sys.stdout)
