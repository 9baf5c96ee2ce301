"""What programs read of an examination: `qa_report.json`. Pure; docs/report.md explains it, a schema is beside that."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from deploypipe.core.plain import plain
from deploypipe.core.status import readable
from registry.qa.base import Finding, Severity
from registry.qa.policy import Policy
from registry.qa.runner import Result, to_scored
from registry.scoring import Score, Status, needs_override, score

SCHEMA_VERSION = 1
DIGEST_CHECK = "compatibility.digest"
WORST_FIRST = (Status.FAILED, Status.ERROR, Status.NOT_CHECKED, Status.PASSED, Status.NOT_APPLICABLE)


@dataclass(frozen=True)
class Examination:
    """One that has ended, with all that a report tells of it."""

    model_name: str
    engine: str
    results: Sequence[Result]
    score: Score
    policy: Mapping[str, Any]
    """As JSON, exactly as it was judged by."""
    seconds: float
    at: datetime
    """Its end."""
    digest: str = ""
    """Of the artifact's bytes; empty where only a server was given."""
    endpoint: str = ""
    """Of the server, where somebody named one."""
    version: str = ""
    number: int | None = None
    environment: str = ""
    policy_sources: Sequence[Any] = ()
    left_out: Sequence[str] = ()
    """Names of the checks that whoever examined did not want to be made."""
    approval: Mapping[str, Any] | None = None
    """What a person said to it; the registry's side only."""

    @property
    def minimum_score(self) -> float:
        return float(self.policy.get("minimum_score", Policy.minimum_score))

    @property
    def approved(self) -> bool:
        """The machine's verdict: no override is needed. A person's approval is another matter."""
        return not self.score.blocked and not needs_override(self.score.points, self.minimum_score)

    @property
    def categories(self) -> list[Category]:
        weights: Mapping[str, float] = self.policy.get("weights") or {}
        names = dict.fromkeys([*weights, *(result.category for result in self.results)])
        counting = {n: w for n, w in weights.items() if w > 0 and self.score.categories.get(n) is not None}
        whole = math.fsum(counting.values())
        shares = {name: 100 * weight / whole for name, weight in counting.items()}
        found = [self._category(name, float(weights.get(name, 0)), shares.get(name, 0.0)) for name in names]
        return [category for category in found if category.results]

    @property
    def findings(self) -> list[tuple[Finding, Result]]:
        """The gravest first."""
        grave = list(Severity)
        found = [(finding, result) for result in self.results for finding in result.outcome.findings]
        return sorted(found, key=lambda pair: grave.index(pair[0].severity))

    def _category(self, name: str, weight: float, share: float) -> Category:
        results = [result for result in self.results if result.category == name]
        results.sort(key=lambda result: WORST_FIRST.index(result.outcome.status))
        lost = {loss.name: loss.points for loss in self.score.lost}
        cost = math.fsum(lost.get(result.name, 0.0) for result in results)
        return Category(name, readable(name), weight, share, self.score.categories.get(name), results, round(cost, 1))


@dataclass(frozen=True)
class Category:
    name: str
    label: str
    weight: float
    share: float
    """Points of the whole's 100 that it could give, now that others may not be applicable."""
    points: float | None
    """Out of 100; None where nothing in it is applicable."""
    results: Sequence[Result]
    """The worst first."""
    lost: float = 0.0
    """What it cost of the 100 of the whole."""
    counts: Mapping[Status, int] = field(init=False)

    def __post_init__(self) -> None:
        found = [result.outcome.status for result in self.results]
        object.__setattr__(self, "counts", {status: found.count(status) for status in WORST_FIRST if status in found})

    @property
    def status(self) -> Status:
        """The worst one in it."""
        return next(iter(self.counts), Status.NOT_APPLICABLE)


def scored(results: Sequence[Result], policy: Policy) -> Score:
    return score([to_scored(result) for result in results], policy.weights, policy.minimum_score)


def digest_found(results: Sequence[Result]) -> str:
    """Of the bytes as the check that reads them found them; empty where it did not."""
    evidence = next((r.outcome.evidence for r in results if r.name == DIGEST_CHECK), {})
    return str(evidence.get("digest", ""))


def measured(value: float | None, unit: str) -> str:
    """ "1,235 tokens/s"; a dash where nothing was measured."""
    if value is None:
        return "–"
    return f"{value:,.0f} {unit}".strip() if abs(value) >= 1000 else f"{value:.3g} {unit}".strip()


def to_json(examination: Examination) -> dict[str, Any]:
    found = examination.score
    timestamp = examination.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    whole = {
        "schema_version": SCHEMA_VERSION,
        "qa_report": {
            "model_name": examination.model_name,
            "execution_time_seconds": round(examination.seconds, 3),
            "timestamp": timestamp,
            "overall_quality_score": found.points,
            "deployment_approved": examination.approved,
            "deployment_hash": "",
            "minimum_score": examination.minimum_score,
            "band": found.band.value,
            "blocked": found.blocked,
            "sentence": examination.score.sentence,
            "lost": [{"check": loss.name, "label": loss.label, "points": loss.points} for loss in found.lost],
            "engine": examination.engine,
            "endpoint": examination.endpoint,
            "artifact_digest": examination.digest,
            "version": examination.version,
            "examination": examination.number,
            "environment": examination.environment,
            "left_out": list(examination.left_out),
            "approval": None if examination.approval is None else dict(examination.approval),
        },
        "test_results": {
            category.name: _category_json(category, examination, timestamp) for category in examination.categories
        },
        "policy": dict(examination.policy),
        "policy_sources": list(examination.policy_sources),
    }
    report: dict[str, Any] = plain(whole)  # what is hashed is what is read again
    report["qa_report"]["deployment_hash"] = deployment_hash(report)
    return report


def deployment_hash(report: Mapping[str, Any]) -> str:
    """SHA-256 of what may be deployed and why: the bytes, the policy, each result and the verdict.

    Of the report as it is read from its file, so that anybody can compute it again. Time and duration are not in it.
    """
    summary = report["qa_report"]
    about = ("model_name", "engine", "endpoint", "artifact_digest", "environment", "overall_quality_score", "blocked",
             "deployment_approved")  # fmt: skip
    of_check = ("name", "status", "required", "weight", "value", "limit", "unit", "reason", "findings")
    content = {
        "schema_version": report["schema_version"],
        **{name: summary[name] for name in about},
        "policy": report["policy"],
        "checks": sorted(
            (
                {name: check[name] for name in of_check}
                for c in report["test_results"].values()
                for check in c["checks"]
            ),
            key=lambda check: str(check["name"]),
        ),
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _category_json(category: Category, examination: Examination, timestamp: str) -> dict[str, Any]:
    lost = {loss.name: loss.points for loss in examination.score.lost}
    told: dict[str, Any] = {
        "test_name": category.name,
        "model_name": examination.model_name,
        "timestamp": timestamp,
        "overall_status": category.status.value,
        "score": None if category.points is None else round(category.points, 1),
        "weight": category.weight,
        "points_lost": category.lost,
        "checks": [_check_json(result, lost.get(result.name, 0.0)) for result in category.results],
    }
    if category.status in (Status.FAILED, Status.ERROR):
        told["error"] = category.results[0].outcome.reason
    # One word a check, as a reader of the mission's report expects it: "sampling_params": "passed".
    words = {result.name.partition(".")[2]: _word(result) for result in category.results}
    return {**{name: word for name, word in words.items() if name not in (*told, "error")}, **told}


def _word(result: Result) -> str:
    status = result.outcome.status
    return status.value if status is Status.PASSED else f"{status.value}: {result.outcome.reason}"


def _check_json(result: Result, lost: float) -> dict[str, Any]:
    outcome = result.outcome
    return {
        "name": result.name,
        "label": result.label,
        "status": outcome.status.value,
        "required": result.required,
        "weight": result.weight,
        "points_lost": lost,
        "value": outcome.value,
        "limit": outcome.limit,
        "unit": outcome.unit,
        "reason": outcome.reason,
        "findings": [finding.to_json() for finding in outcome.findings],
        "evidence": outcome.evidence,
        "seconds": round(result.seconds, 3),
    }
