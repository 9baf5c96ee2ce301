"""Samplers are judged by their effect on the text, beside a control that shows what it would be without them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.answers import Answer
from registry.qa.builtin.exchange import listed
from registry.qa.builtin.sampling import SEEDS, WARM, Asking, SamplingCheck
from registry.qa.catalogue import check

HOT = 2.0
ALIKE = 0.5
"""Texts are the same but for a rounding error or a tie if this share of their words is; independent ones are not."""


class Effect(StrEnum):
    GREEDY = "greedy"
    """At a high temperature it leaves the likeliest word only: the text is that of temperature 0."""
    CHANGES = "changes"
    """With the same seed it makes another text."""
    NO_REPEATS = "no repeats"
    """At temperature 0 it changes a text that repeats itself."""


@dataclass(frozen=True)
class Sampler:
    name: str
    fields: Mapping[str, Any]
    effect: Effect

    @property
    def shown(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self.fields.items())


STANDARD = (Sampler("top_p", {"top_p": 1e-6}, Effect.GREEDY),)
COMMON = (
    *STANDARD,
    Sampler("top_k", {"top_k": 1}, Effect.GREEDY),
    Sampler("min_p", {"min_p": 1.0}, Effect.GREEDY),
)
SAMPLERS: Mapping[str, tuple[Sampler, ...]] = {
    "textgen": COMMON,
    "vllm": COMMON,
    "llamacpp": COMMON,
    "aphrodite": (
        *COMMON,
        Sampler("nsigma", {"nsigma": 1e-4}, Effect.GREEDY),
        Sampler("top_a", {"top_a": 0.9}, Effect.CHANGES),
        Sampler("xtc", {"xtc_probability": 1.0, "xtc_threshold": 0.05}, Effect.CHANGES),
        Sampler("no_repeat_ngram_size", {"no_repeat_ngram_size": 1}, Effect.NO_REPEATS),
        Sampler("dry", {"dry_multiplier": 5.0, "dry_base": 1.75, "dry_allowed_length": 1}, Effect.NO_REPEATS),
    ),
}
"""What each engine is expected to do; of any other server only what the OpenAI interface defines."""
REPETITIVE = "one two three one two three one two three one two three one two"


class Sight(StrEnum):
    WORKS = "works"
    IGNORED = "ignored"
    REFUSED = "refused"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class Verdict:
    sampler: Sampler
    sight: Sight
    why: str = ""
    """Why it is not seen to work, to stand in brackets."""

    @property
    def sentence(self) -> str:
        return f"{self.sampler.shown} ({self.why})"


@check
class Samplers(SamplingCheck):
    name = "compatibility.samplers"
    label = "Samplers have their effect"
    weight = 1.0
    alone = True  # what is computed beside other requests has other rounding errors

    def judge(self, context: Context, asking: Asking) -> Outcome:
        trial = Trial(asking)
        verdicts: list[Verdict] = []
        for sampler in SAMPLERS.get(context.engine, STANDARD):
            verdicts.append(trial.of(sampler))
            if asking.silent:
                last = asking.answers[-1]
                return Outcome.failed(
                    f"{asking.route} with {last.exchange.sent}: {last.problem}.", evidence=asking.evidence
                )
        return _summed_up(verdicts, asking.evidence)


def _summed_up(verdicts: Sequence[Verdict], evidence: Mapping[str, Any]) -> Outcome:
    wrong = [v for v in verdicts if v.sight in (Sight.IGNORED, Sight.REFUSED)]
    works = [v.sampler.shown for v in verdicts if v.sight is Sight.WORKS]
    unseen = [v for v in verdicts if v.sight is Sight.UNSEEN]
    figures: dict[str, Any] = {"value": float(len(wrong)), "limit": 0.0, "unit": "samplers", "evidence": evidence}
    if wrong:
        findings = tuple(
            Finding(
                Severity.MEDIUM,
                f"The sampler {v.sampler.name} does not do its work: {v.why}.",
                f"Serve the model with an engine that has {v.sampler.name}, or do without it in requests.",
            )
            for v in wrong
        )
        said = listed([v.sentence for v in wrong])
        return Outcome.failed(
            f"Of {len(verdicts)} samplers {len(wrong)} did not work: {said}.", findings=findings, **figures
        )
    if not works:
        return Outcome.not_checked(
            f"No sampler's effect can be seen: {listed([v.sentence for v in unseen])}.", evidence=evidence
        )
    left = f" Not to be seen: {listed([v.sentence for v in unseen])}." if unseen else ""
    return Outcome.passed(f"The samplers have their effect: {listed(works, 10)}.{left}", **figures)


class Trial:
    """Each sampler beside a control that shows what the text would be without it."""

    def __init__(self, asking: Asking) -> None:
        self._ask = asking
        self._known: dict[tuple[Any, ...], Answer] = {}

    def of(self, sampler: Sampler) -> Verdict:
        judge = {
            Effect.GREEDY: self._greedy,
            Effect.CHANGES: self._changes,
            Effect.NO_REPEATS: self._no_repeats,
        }[sampler.effect]
        return judge(sampler)

    def _greedy(self, sampler: Sampler) -> Verdict:
        coldest = self._text(0.0)
        controls = [self._text(HOT, seed) for seed in SEEDS[:2]]
        if bad := _first_problem([coldest, *controls]):
            return Verdict(sampler, Sight.UNSEEN, f"without it {bad}")
        if _likeness(controls, coldest) >= ALIKE:
            why = f"without it the text at temperature {HOT:g} is much like that of temperature 0, too"
            return Verdict(sampler, Sight.UNSEEN, why)
        tried: list[Answer] = []
        for seed in SEEDS[:2]:
            tried.append(self._with(sampler, HOT, seed))
            if verdict := _unsound(sampler, tried[-1]):
                return verdict
            if tried[-1].text == coldest.text:
                return Verdict(sampler, Sight.WORKS)
        if _likeness(tried, coldest) >= ALIKE:  # of two words that are equally likely either may come
            return Verdict(sampler, Sight.WORKS)
        same = [a.text for a in tried] == [a.text for a in controls]
        why = "it makes no difference" if same else f"at temperature {HOT:g} the text is not that of temperature 0"
        return Verdict(sampler, Sight.IGNORED, why)

    def _changes(self, sampler: Sampler) -> Verdict:
        controls = [self._text(WARM, seed) for seed in SEEDS[:2]]
        again = self._text(WARM, SEEDS[0], again="again")
        if bad := _first_problem([*controls, again]):
            return Verdict(sampler, Sight.UNSEEN, f"without it {bad}")
        if again.text != controls[0].text:
            return Verdict(sampler, Sight.UNSEEN, "without it a seed does not repeat its text, either")
        return self._differs(sampler, controls, WARM, SEEDS[:2])

    def _no_repeats(self, sampler: Sampler) -> Verdict:
        control, again = (self._text(0.0, None, REPETITIVE, again) for again in ("", "again"))
        if bad := _first_problem([control, again]):
            return Verdict(sampler, Sight.UNSEEN, f"without it {bad}")
        words = REPETITIVE.split() + control.text.split()
        if len(set(words)) == len(set(REPETITIVE.split())) + len(control.text.split()):
            return Verdict(sampler, Sight.UNSEEN, "without it the text repeats nothing")
        if control.text != again.text:
            return Verdict(sampler, Sight.UNSEEN, "without it the text is another each time")
        return self._differs(sampler, [control], 0.0, [None], REPETITIVE)

    def _differs(
        self,
        sampler: Sampler,
        controls: Sequence[Answer],
        temperature: float,
        seeds: Sequence[int | None],
        prompt: str = "",
    ) -> Verdict:
        for control, seed in zip(controls, seeds, strict=True):
            tried = self._with(sampler, temperature, seed, prompt)
            if verdict := _unsound(sampler, tried):
                return verdict
            if tried.text != control.text:
                return Verdict(sampler, Sight.WORKS)
        return Verdict(sampler, Sight.IGNORED, "it makes no difference")

    def _text(self, temperature: float, seed: int | None = None, prompt: str = "", again: str = "") -> Answer:
        """Without any sampler; each asked once."""
        key = (temperature, seed, prompt, again)
        if key not in self._known:
            more = {} if seed is None else {"seed": seed}
            sent = f"temperature {temperature:g}{'' if seed is None else f', seed {seed}'}"
            self._known[key] = self._ask(sent, prompt, temperature=temperature, **more)
        return self._known[key]

    def _with(self, sampler: Sampler, temperature: float, seed: int | None, prompt: str = "") -> Answer:
        more = {} if seed is None else {"seed": seed}
        sent = f"temperature {temperature:g}{'' if seed is None else f', seed {seed}'}, {sampler.shown}"
        return self._ask(sent, prompt, temperature=temperature, **more, **sampler.fields)


def _first_problem(answers: Sequence[Answer]) -> str:
    return next((answer.problem for answer in answers if answer.problem), "")


def _unsound(sampler: Sampler, answer: Answer) -> Verdict | None:
    return Verdict(sampler, Sight.REFUSED, answer.problem) if answer.problem else None


def _likeness(answers: Sequence[Answer], to: Answer) -> float:
    """The mean share of words that stand in the same order in both texts (Ratcliff and Obershelp's measure)."""
    wanted = _words(to.text)
    ratios = [SequenceMatcher(None, _words(answer.text), wanted, autojunk=False).ratio() for answer in answers]
    return sum(ratios) / len(ratios)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)
