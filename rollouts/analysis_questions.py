"""What a rollout's judge asks, and all that it must remember of the answers between two looks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from deploypipe.metrics import criteria
from deploypipe.metrics.criteria import Criterion, Evaluation, Kind, Plan, Scope, Unit
from deploypipe.metrics.windows import CANDIDATE, STABLE, Measured
from deploypipe.stats import words
from rollouts.analysis_settings import AnalysisSettings, SettingsError, parse_settings

CODE_VERSION = "rollout-3"
"""Changes whenever the same windows could give another judgement."""

ERROR_RATE, LATENCY = "error_rate", "latency"


def rollout_plan(settings: AnalysisSettings, *, arms: int = 1) -> Plan:
    """What fails the rollout. Its windows are all since the candidate first got traffic. `arms`: candidates that share
    alpha."""
    asked = [
        _errors_rise(settings),
        *([_error_limit(settings)] if settings.max_error_rate_percent is not None else []),
        *([_latency_rises(settings)] if settings.max_latency_increase_percent is not None else []),
        *([_latency_limit(settings)] if settings.max_latency_ms is not None else []),
    ]
    watched = [replace(criterion, proves=False) for criterion in asked]
    return replace(_plan(watched, settings, Scope.FRESH), arms=arms)


def step_plan(settings: AnalysisSettings, *, compare: bool) -> Plan | None:
    """What must hold before the step passes, proven or as measured; None where nothing could ever decide it.

    `compare`: the stable version serves traffic in this step. Without it the absolute limits decide.
    """
    asked = []
    if compare:
        asked.append(_errors_rise(settings))
    if settings.max_error_rate_percent is not None:
        asked.append(replace(_error_limit(settings), proves=not compare))
    if not any(criterion.proves for criterion in asked):
        return None
    if compare and settings.prove_latency and settings.max_latency_increase_percent is not None:
        asked.append(_latency_rises(settings))
    if settings.max_latency_ms is not None:
        asked.append(replace(_latency_limit(settings), proves=settings.prove_latency))
    return _plan([replace(criterion, aborts=False) for criterion in asked], settings, Scope.ALL)


def _plan(asked: Iterable[Criterion], settings: AnalysisSettings, scope: Scope) -> Plan:
    return Plan(tuple(asked), alpha=settings.alpha, unit=Unit(settings.unit), scope=scope)


def _errors_rise(settings: AnalysisSettings) -> Criterion:
    return Criterion(ERROR_RATE, Kind.INCREASE, settings.max_error_increase_points)


def _error_limit(settings: AnalysisSettings) -> Criterion:
    return Criterion(ERROR_RATE, Kind.LIMIT, settings.max_error_rate_percent or 0.0)


def _latency_rises(settings: AnalysisSettings) -> Criterion:
    percent = settings.max_latency_increase_percent or 0.0
    return Criterion(
        LATENCY,
        Kind.INCREASE,
        percent,
        relative=True,
        level=settings.latency_level,
        slack=settings.latency_slack_ms,
    )


def _latency_limit(settings: AnalysisSettings) -> Criterion:
    return Criterion(LATENCY, Kind.LIMIT, settings.max_latency_ms or 0.0, level=settings.latency_level)


def title(given: Mapping[str, Any]) -> str:
    """Of an analysis step: what must be proven, and what is watched."""
    try:
        settings = parse_settings({name: value for name, value in given.items() if name != "on_timeout"})
    except SettingsError:
        return "Judge"
    said = f"Judge: error rate at most {words.points(settings.max_error_increase_points)} worse"
    if not settings.has_latency:
        return said
    bounds = []
    if settings.max_latency_increase_percent is not None:
        slack = f" or {settings.latency_slack_ms:g} ms" if settings.latency_slack_ms else ""
        bounds.append(f"at most {words.limit(settings.max_latency_increase_percent)}{slack} worse")
    if settings.max_latency_ms is not None:
        bounds.append(f"at most {settings.max_latency_ms:g} ms")
    watched = "" if settings.prove_latency else " watched,"
    return f"{said}; P{100 * settings.latency_level:g} latency{watched} {' and '.join(bounds)}"


@dataclass(frozen=True, slots=True)
class ArmTotals:
    requests: int = 0
    failed: int = 0
    sessions: int = 0
    """Those that the question counts, with their first request answered."""

    @property
    def rate(self) -> float | None:
        return self.failed / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Totals:
    stable: ArmTotals = ArmTotals()
    candidate: ArmTotals = ArmTotals()

    @property
    def requests(self) -> int:
        return self.stable.requests + self.candidate.requests

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Totals:
        return cls(ArmTotals(**stored["stable"]), ArmTotals(**stored["candidate"]))


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One question and all that is known of its answer: what is kept between two looks."""

    evaluation: Evaluation | None
    """None where nothing could ever decide it."""
    totals: Totals = Totals()
    windows: int = 0

    @property
    def plan(self) -> Plan | None:
        return self.evaluation.plan if self.evaluation else None

    def to_json(self) -> dict[str, Any]:
        return {
            "evaluation": self.evaluation.to_json() if self.evaluation else None,
            "totals": asdict(self.totals),
            "windows": self.windows,
            "code_version": CODE_VERSION,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Inquiry:
        """ValueError where another version of the judge has written it."""
        if stored.get("code_version") != CODE_VERSION:
            raise ValueError(f"written by the judge {stored.get('code_version')!r}, this one is {CODE_VERSION!r}")
        evaluation = stored["evaluation"]
        return cls(
            Evaluation.from_json(evaluation) if evaluation else None,
            Totals.from_json(stored["totals"]),
            int(stored["windows"]),
        )


def inquiry(plan: Plan | None) -> Inquiry:
    return Inquiry(criteria.start(plan) if plan else None)


def advance(known: Inquiry, windows: Sequence[Measured]) -> Inquiry:
    """With the windows that are new. Any batching gives the same bits."""
    if not windows:
        return known
    returning = known.plan is None or known.plan.scope is Scope.ALL
    return Inquiry(
        criteria.advance(known.evaluation, windows) if known.evaluation else None,
        Totals(
            _counted(known.totals.stable, windows, STABLE, returning),
            _counted(known.totals.candidate, windows, CANDIDATE, returning),
        ),
        known.windows + len(windows),
    )


def replay(windows: Sequence[Measured], plan: Plan | None) -> Inquiry:
    return advance(inquiry(plan), windows)


def _counted(before: ArmTotals, windows: Iterable[Measured], name: str, returning: bool) -> ArmTotals:
    requests, failed, sessions = before.requests, before.failed, before.sessions
    for window in windows:
        arm = window.arm(name)
        requests += arm.requests
        failed += arm.failed
        sessions += arm.fresh.first[0] + (arm.returning.first[0] if returning else 0)
    return ArmTotals(requests, failed, sessions)
