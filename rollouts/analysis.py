"""Judge the candidate against the stable version: pass, fail, not enough data, or no measurements.

Two questions run side by side. "Is it worse than was allowed?" gathers evidence over the whole rollout, each session
once, so that a good candidate is failed by chance with probability at most alpha per rollout, however many looks and
steps there are. "Is it surely not worse?" counts this step's windows alone, so that what was seen at ten percent of the
traffic does not vouch for fifty. Both hold at every look.

Errors must be proven to keep their margin before a step passes. Latency is only watched, unless the settings ask for
its proof, too: a slow model with little traffic may never prove its P95 within 20 %, and would hold every rollout up;
when it surely is slower than allowed, the rollout fails all the same.

A judgement is a function of the windows, the settings and the time in the step alone: the same windows give the same
judgement, to the last bit. Keep the settings of one rollout the same in all its steps: alpha is spent per rollout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from deploypipe.metrics import criteria
from deploypipe.metrics.criteria import Row, State
from rollouts.analysis_questions import (
    CODE_VERSION,
    ArmTotals,
    Inquiry,
    Totals,
    advance,
    inquiry,
    replay,
    rollout_plan,
    step_plan,
    title,
)
from rollouts.analysis_settings import (
    ALPHA,
    REQUEST,
    REQUESTS,
    SECONDS,
    SESSION,
    AnalysisSettings,
    Reader,
    SettingsError,
    number,
    parse_settings,
    read_fields,
)
from rollouts.analysis_words import capitalised, failed, further_requests, in_sight, passed, undecided

__all__ = [
    "ALPHA", "CODE_VERSION", "REQUEST", "REQUESTS", "SECONDS", "SESSION", "AnalysisSettings", "ArmTotals",
    "Inquiry", "Judgement", "Reader", "SettingsError", "Totals", "Verdict", "advance", "capitalised", "guard",
    "in_sight", "inquiry", "judge", "number", "parse_settings", "read_fields", "replay", "rollout_plan",
    "step_plan", "title",
]  # fmt: skip


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 -- a verdict, not a password
    FAIL = "fail"
    INSUFFICIENT_DATA = "insufficient_data"
    PROVIDER_ERROR = "provider_error"


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    sentence: str
    decided_by: str
    """Metric and kind of the criterion that decided, such as `error_rate_increase`, or an empty string."""
    timed_out: bool
    """The time is over without a decision; what that means is the plan's to say."""
    step: Totals
    rollout: Totals
    against: tuple[Row, ...]
    """What would fail the rollout, over all of it."""
    needed: tuple[Row, ...]
    """What must hold before the step passes, over this step."""
    further_requests: int | None
    """Of both arms, about, until a decision if things go on as they are; None when no decision is in sight."""
    further_seconds: float | None
    """The same at the rate of this step."""
    step_windows: int
    rollout_windows: int
    seconds_in_step: float
    provider_problem: str | None
    compare: bool
    settings: AnalysisSettings
    code_version: str = CODE_VERSION

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "verdict": self.verdict.value,
            "step": asdict(self.step),
            "rollout": asdict(self.rollout),
            "against": [row.to_json() for row in self.against],
            "needed": [row.to_json() for row in self.needed],
            "settings": self.settings.to_json(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Judgement:
        return cls(
            **{
                **stored,
                "verdict": Verdict(stored["verdict"]),
                "step": Totals.from_json(stored["step"]),
                "rollout": Totals.from_json(stored["rollout"]),
                "against": tuple(Row.from_json(row) for row in stored["against"]),
                "needed": tuple(Row.from_json(row) for row in stored["needed"]),
                "settings": AnalysisSettings(**stored["settings"]),
            }
        )


_PLAIN = (
    "sentence", "decided_by", "timed_out", "further_requests", "further_seconds", "step_windows", "rollout_windows",
    "seconds_in_step", "provider_problem", "compare", "code_version",
)  # fmt: skip


def judge(
    step: Inquiry,
    rollout: Inquiry,
    settings: AnalysisSettings,
    *,
    provider_problem: str | None,
    seconds_in_step: float,
    compare: bool,
) -> Judgement:
    """`step` has asked `step_plan` of this step's windows, `rollout` `rollout_plan` of all of them, this step's too."""
    against = _rows(rollout)
    needed = _rows(step)
    broken = next((row for row in against if row.state is State.BROKEN), None)
    further = further_requests(step.totals, settings, needed, against)
    seconds = further / step.totals.requests * seconds_in_step if further is not None and step.totals.requests else None
    missing = max(settings.min_requests - step.totals.candidate.requests, 0)
    unmet = [row for row in needed if row.state is not State.MET]

    verdict, decided_by, timed_out = Verdict.INSUFFICIENT_DATA, "", False
    if provider_problem is not None:
        verdict = Verdict.PROVIDER_ERROR
        sentence = f"No judgement, because the measurements could not be read: {provider_problem}"
    elif broken is not None:
        verdict, decided_by = Verdict.FAIL, _id(broken)
        sentence = failed(broken)
    elif needed and not unmet and not missing:
        verdict, decided_by = Verdict.PASS, _id(_least(needed))
        sentence = passed(needed, against)
    else:
        timed_out = seconds_in_step >= settings.max_seconds
        sentence = undecided(step.totals, settings, needed, missing, further, seconds, seconds_in_step, timed_out)
    decided = verdict in (Verdict.PASS, Verdict.FAIL)
    return Judgement(
        verdict=verdict,
        sentence=sentence,
        decided_by=decided_by,
        timed_out=timed_out,
        step=step.totals,
        rollout=rollout.totals,
        against=against,
        needed=needed,
        further_requests=None if decided else further,
        further_seconds=None if decided else seconds,
        step_windows=step.windows,
        rollout_windows=rollout.windows,
        seconds_in_step=seconds_in_step,
        provider_problem=provider_problem,
        compare=compare,
        settings=settings,
    )


def guard(rollout: Inquiry, settings: AnalysisSettings, *, provider_problem: str | None) -> Judgement:
    """The watch that never sleeps, between analysis steps too: it can fail a rollout, and never passes anything."""
    judgement = judge(
        Inquiry(None), rollout, settings, provider_problem=provider_problem, seconds_in_step=0.0, compare=False
    )
    if judgement.verdict is not Verdict.INSUFFICIENT_DATA:
        return judgement
    seen = judgement.against[0].measured
    return replace(judgement, sentence=f"No sign of harm so far: {seen}.")


def _rows(known: Inquiry) -> tuple[Row, ...]:
    return criteria.rows(known.evaluation) if known.evaluation else ()


def _id(row: Row) -> str:
    return f"{row.metric}_{row.kind.value}"


def _least(rows: Iterable[Row]) -> Row:
    """The proven one that was nearest to not being."""
    return min((row for row in rows if row.proves), key=lambda row: row.log_evidence)
