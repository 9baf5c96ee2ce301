"""The values of a policy as people set them: a part of `Policy.to_json`, checked, and laid over each other. Pure.

Only one thing differs from the policy's own form: `advisory` may also be a mapping (category → true or false), which
says something of these categories and leaves the others as they are inherited; a list says it of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from registry.qa.base import Check
from registry.qa.parameters import Parameter, Value
from registry.qa.places import Path, dotted
from registry.qa.policy import DTE_COMPONENTS, Policy
from registry.qa.shapes import Fault, Leaf, Mix, Section, Several, Shape, Written
from registry.scoring import CATEGORY_WEIGHTS

Values = Mapping[str, Any]
Checks = Sequence[type[Check]]

DEFAULTS: Final[Mapping[str, Any]] = Policy().to_json()
MOST_FAULTS: Final = 100
_LOAD: Final[Mapping[str, Any]] = DEFAULTS["load"]


def _number(name: str, unit: str, *, lowest: float = 0, highest: float, of: Values = DEFAULTS) -> Leaf:
    """Whole where the default of it, in `of`, is."""
    default = of[name]
    return Leaf(Parameter(name, type(default), default, "", unit=unit, lowest=lowest, highest=highest))


def _flag(name: str) -> Leaf:
    return Leaf(Parameter(name, bool, DEFAULTS[name], ""))


LIMITS: Final[Mapping[str, Shape]] = {
    "minimum_score": _number("minimum_score", "points", highest=100),
    "max_latency_ms": _number("max_latency_ms", "milliseconds", lowest=0.1, highest=600_000),
    "min_throughput_tokens_sec": _number("min_throughput_tokens_sec", "tokens per second", highest=999_999),
    "max_memory_gb": _number("max_memory_gb", "gigabytes of 10^9 bytes", lowest=0.01, highest=99_999),
    "max_error_rate_percent": _number("max_error_rate_percent", "percent", highest=100),
}
FLAGS: Final[Mapping[str, Shape]] = {
    name: _flag(name)
    for name in (
        "require_authentication",
        "require_rate_limiting",
        "require_input_validation",
        "deep_tree_echo",
        "compare_with_live",
    )
}
COMPONENTS: Final = Several(DTE_COMPONENTS)
_SHARE: Final = Parameter("share", float, 1.0, "", lowest=0.001, highest=999_999)
_FILE: Final = re.compile(r"(?!\.)[\w .+-]{1,100}(/(?!\.)[\w .+-]{1,100}){0,9}|")
LOAD: Final = Section(
    {
        "requests_per_second": _number(
            "requests_per_second", "requests per second", lowest=0.1, highest=10_000, of=_LOAD
        ),
        "seconds": _number("seconds", "seconds", lowest=0.5, highest=120, of=_LOAD),
        "warm_up_requests": _number("warm_up_requests", "requests", highest=1_000, of=_LOAD),
        "max_tokens": _number("max_tokens", "tokens", lowest=1, highest=8_192, of=_LOAD),
        "concurrency": _number("concurrency", "requests under way; 0 for an open loop", highest=1_000, of=_LOAD),
        "prompt_words": Mix(Parameter("words", int, 1, "", unit="words", lowest=1, highest=100_000), _SHARE),
        "output_tokens": Mix(Parameter("tokens", int, 1, "", unit="tokens", lowest=1, highest=8_192), _SHARE),
        "prompts_file": Written(_FILE, "a file's name relative to the folder for such files, without leading dots"),
    },
)


@dataclass(frozen=True)
class _Advisory:
    """All of them as a list, or some of them as a mapping."""

    categories: tuple[str, ...]
    unit: str = ""

    def faults(self, value: object, path: Path) -> Iterator[Fault]:
        if isinstance(value, Mapping):
            each: dict[str, Shape] = {name: Leaf(Parameter(name, bool, False, "")) for name in self.categories}
            return Section(each, what="categories").faults(value, path)
        return Several(self.categories).faults(value, path)


def categories(checks: Checks) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*CATEGORY_WEIGHTS, *(check.category for check in checks)]))


def weight(category: str) -> Shape:
    unit = "a share, relative to the other categories"
    return Leaf(Parameter(category, float, 0.0, "", unit=unit, lowest=0, highest=1_000))


def advisory(checks: Checks) -> Shape:
    return _Advisory(categories(checks))


def parameters(checks: Checks) -> Section:
    by_check: dict[str, Shape] = {
        check.name: Section({one.name: Leaf(one) for one in check.parameters}, what="parameters") for check in checks
    }
    return Section(by_check, what="checks")


def parameter_defaults(checks: Checks) -> dict[str, dict[str, Value]]:
    """What holds where no policy says anything; not part of `DEFAULTS`, as it comes with the checks."""
    return {check.name: {one.name: one.default for one in check.parameters} for check in checks if check.parameters}


def shape(checks: Checks) -> Section:
    names = categories(checks)
    return Section(
        {
            **LIMITS,
            **FLAGS,
            "deep_tree_echo_components": COMPONENTS,
            "weights": Section({name: weight(name) for name in names}, what="weights"),
            "advisory": advisory(checks),
            "load": LOAD,
            "parameters": parameters(checks),
        },
        what="values",
    )


def validate(values: object, checks: Checks, *, inherited: Values = DEFAULTS) -> dict[str, str]:
    """What is wrong: dotted path → a sentence to stand after it. Empty where the values may be kept.

    `inherited` is what they will be laid over, in the policy's own form.
    """
    wrong: dict[str, str] = {}
    for fault in islice(shape(checks).faults(values, ()), MOST_FAULTS):
        place = dotted(fault.path) or "values"
        wrong[place] = f"{wrong[place]}; {fault.message}" if place in wrong else fault.message
    if not wrong and isinstance(values, Mapping):
        wrong = weightless(merge(inherited, values))
    return wrong


def weightless(whole: Values) -> dict[str, str]:
    """A policy by which nothing counts would approve nothing, or whatever there is."""
    if any(share > 0 for share in whole["weights"].values()):
        return {}
    return {"weights": "are all 0: give at least one category a share above 0"}


# --- One over the other -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolved:
    policy: Policy
    values: Mapping[str, Any]
    """By dotted path, as `settings` gives them."""
    origins: Mapping[str, int | None]
    """Of each of them: which layer has set it last; None where it is the product's default."""


def resolve(layers: Sequence[Values], defaults: Values = DEFAULTS) -> Resolved:
    """Layers from general to particular, over the product's defaults."""
    whole = defaults
    origins: dict[str, int | None] = {path: None for path, _ in settings(defaults)}
    for index, layer in enumerate(layers):
        whole = merge(whole, layer)
        origins |= dict.fromkeys((path for path, _ in settings(layer, whole["weights"])), index)
    policy = Policy.from_json(whole)
    spoken_of = [path.partition(".")[2] for path in origins if path.startswith("advisory.")]
    values = dict(settings(policy.to_json(), [*CATEGORY_WEIGHTS, *spoken_of]))
    return Resolved(policy, values, {path: origins.get(path) for path in values})


def merge(base: Values, over: Values) -> dict[str, Any]:
    """The whole policy that `over` makes of `base`; what it does not name stays, also inside of a part."""
    found = {**base, **over}
    for part in ("weights", "load"):
        found[part] = {**base[part], **over.get(part, {})}
    ours = over.get("parameters", {})
    found["parameters"] = {
        name: {**base["parameters"].get(name, {}), **ours.get(name, {})} for name in [*base["parameters"], *ours]
    }
    found["advisory"] = _advisory(base["advisory"], over.get("advisory"))
    return found


def _advisory(base: Iterable[str], over: object) -> list[str]:
    if over is None:
        return list(base)
    if isinstance(over, Mapping):
        said = {**dict.fromkeys(base, True), **over}
        return [name for name, is_advisory in said.items() if is_advisory]
    return [str(name) for name in over] if isinstance(over, Sequence) else list(base)


def settings(values: Values, known: Iterable[str] = CATEGORY_WEIGHTS) -> Iterator[tuple[str, Any]]:
    """Each single value with its dotted path. A list of advisory categories says something of every category."""
    known = list(dict.fromkeys([*known, *values.get("weights", {})]))
    for name, value in values.items():
        if name == "advisory" and not isinstance(value, Mapping):
            value = {category: category in value for category in [*known, *(one for one in value if one not in known)]}
        if name == "parameters":
            yield from (
                (f"{name}.{check}.{key}", item) for check, given in value.items() for key, item in given.items()
            )
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{key}", plain(item)) for key, item in value.items())
        else:
            yield name, plain(value)


def plain(value: Any) -> Any:
    """Lists and dicts, as JSON gives them back."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Change:
    name: str
    """The dotted path."""
    before: Any
    """None where it was not said."""
    after: Any

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "before": self.before, "after": self.after}


def changes(before: Values, after: Values) -> list[Change]:
    """Of two mappings from dotted path to value."""
    names = [*before, *(name for name in after if name not in before)]
    found = [Change(name, before.get(name), after.get(name)) for name in names]
    # True is 1 to Python, and not to a person.
    return [
        one for one in found if one.before != one.after or isinstance(one.before, bool) != isinstance(one.after, bool)
    ]


def paths(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each single value of any nested mapping with its dotted path."""
    if not isinstance(value, Mapping) or not value:
        if path:
            yield path, value
        return
    for name, item in value.items():
        yield from paths(item, f"{path}.{name}" if path else str(name))
