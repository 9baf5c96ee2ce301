"""What the pages of policies show, put together from the rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Max, QuerySet
from django.urls import reverse

from deploypipe.core.status import readable
from registry import hooks, policies, policy_actions
from registry.models import QAPolicy, RegisteredModel
from registry.policies import Effective
from registry.qa import policy_values
from registry.qa.base import Check
from registry.qa.catalogue import all_checks
from registry.qa.parameters import Parameter
from registry.qa.pipeline_config import Config, to_yaml
from registry.qa.policy_values import Change
from registry.qa.shapes import Leaf, Section, Shape

LABELS: Mapping[str, str] = {
    "minimum_score": "Least score without an override",
    "max_latency_ms": "First token, 95th percentile, at most",
    "min_throughput_tokens_sec": "Throughput, at least",
    "max_memory_gb": "Memory after the load, at most",
    "max_error_rate_percent": "Failed requests, at most",
    "require_authentication": "A key must be required",
    "require_rate_limiting": "Requests must be limited",
    "require_input_validation": "Wrong input must be refused",
    "deep_tree_echo": "Deep Tree Echo is examined",
    "deep_tree_echo_components": "Components of Deep Tree Echo",
    "compare_with_live": "Compared with the live version",
    "load.requests_per_second": "Requests in a second",
    "load.seconds": "How long it is pressed",
    "load.warm_up_requests": "Before it is measured",
    "load.max_tokens": "Length of an answer, at most",
    "load.concurrency": "Always under way, 0 for an open loop",
    "load.prompt_words": "Mix of prompt lengths: words, share",
    "load.output_tokens": "Mix of answer lengths: tokens, share",
    "load.prompts_file": "File with prompts of your own",
}
UNITS: Mapping[str, str] = {
    "milliseconds": "ms",
    "percent": "%",
    "gigabytes of 10^9 bytes": "GB",
    "seconds": "s",
    "tokens per second": "tokens/s",
    "requests per second": "requests/s",
}
GROUPS: tuple[tuple[str, str], ...] = (
    ("weights.", "What a category counts"),
    ("advisory.", "Categories that only cost points"),
    ("load.", "The load"),
    ("parameters.", "Parameters of checks"),
)
GENERAL = "Limits and demands"


@dataclass(frozen=True)
class Scope:
    """A model or all, an environment or all; as text in addresses."""

    model: RegisteredModel | None
    environment: str

    @property
    def title(self) -> str:
        where = f"in {self.environment}" if self.environment else "in all environments"
        return f"{self.model or 'All models'} {where}"

    @property
    def query(self) -> str:
        return urlencode({"model": self.model.name if self.model else "", "environment": self.environment})

    def address(self, name: str) -> str:
        return f"{reverse(name)}?{self.query}"


@dataclass(frozen=True)
class Row:
    name: str
    label: str
    value: str
    unit: str
    origin: QAPolicy | None
    help: str = ""


@dataclass(frozen=True)
class Group:
    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Step:
    """One number of the history, with what it changed in what was said before."""

    policy: QAPolicy
    changes: list[Change]
    sections: bool
    """The sections that are not about the gate changed."""


def scope(asked: Mapping[str, Any]) -> Scope:
    return Scope(*policies.asked_for(asked))


def choices() -> dict[str, Any]:
    return {
        "models": list(RegisteredModel.objects.values_list("name", flat=True)),
        "environments": hooks.environments(),
    }


def groups(found: Effective) -> list[Group]:
    """What holds besides the parameters of checks, with the origin of each value."""
    values = [(name, value) for name, value in found.resolved.values.items() if not name.startswith("parameters.")]
    return _grouped(_rows(values, found.origin))


def of_policy(values: policy_values.Values) -> list[Group]:
    """All of a policy that an examination keeps, as it judged by it."""
    return _grouped(_rows(policy_values.settings(values), lambda name: None))


def _grouped(rows: Iterable[Row]) -> list[Group]:
    by_title: dict[str, list[Row]] = {}
    for row in rows:
        title = next((title for prefix, title in GROUPS if row.name.startswith(prefix)), GENERAL)
        by_title.setdefault(title, []).append(row)
    order = [GENERAL, *(title for _, title in GROUPS)]
    return [Group(title, by_title[title]) for title in order if title in by_title]


def _rows(values: Iterable[tuple[str, object]], origin: Callable[[str], QAPolicy | None]) -> list[Row]:
    units = dict(_units(policy_values.shape(all_checks()), ""))
    return [Row(name, label(name), shown(value), units.get(name, ""), origin(name)) for name, value in values]


def parameters(found: Effective) -> list[Group]:
    """What each installed check may be told, and what holds."""
    return [
        Group(f"{check.label} ({check.name})", [_parameter(found, check, one) for one in check.parameters])
        for check in all_checks()
        if check.parameters
    ]


def _parameter(found: Effective, check: type[Check], one: Parameter) -> Row:
    name = f"parameters.{check.name}.{one.name}"
    value = found.resolved.values.get(name, one.default)
    return Row(one.name, readable(one.name), shown(value), one.unit, found.origin(name), one.help)


def everything(below: Effective) -> str:
    """A file with every value that can be set, as it is inherited."""
    config = below.config
    defaults = {"parameters": policy_values.parameter_defaults(all_checks())}
    parameters = policy_values.merge({**policy_values.DEFAULTS, **defaults}, config.values)["parameters"]
    return to_yaml(Config({**config.values, "parameters": parameters}, config.pipeline))


def label(name: str) -> str:
    if known := LABELS.get(name):
        return known
    part, _, rest = name.partition(".")
    check, _, word = rest.rpartition(".")
    match part:
        case "parameters":
            return f"{readable(word)} of {check}"
        case "weights":
            return f"Weight of {readable(rest).lower()}"
        case "advisory":
            return f"{readable(rest)} never blocks"
    return readable(rest or part)


def shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,.10g}"
    if isinstance(value, str):
        return value or "none"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value) or "none"
    return json.dumps(value, ensure_ascii=False)


def own_rows(policy: QAPolicy) -> list[Row]:
    """What one number says itself."""
    return _rows(policy_values.settings(policy.values), lambda name: policy)


def told(changes: Iterable[Change], not_said: str = "as inherited") -> list[dict[str, str]]:
    """Without a `before` where there was none."""
    return [
        {
            "name": one.name,
            "label": label(one.name),
            "before": "" if one.before is None else shown(one.before),
            "after": not_said if one.after is None else shown(one.after),
        }
        for one in changes
    ]


def owners() -> list[tuple[QAPolicy, int]]:
    """The newest of each model and environment, from general to particular, with how many values it sets."""
    rows = sorted(
        policies.newest(),
        key=lambda row: (row.model is not None, row.model.name if row.model else "", row.environment),
    )
    return [(row, len(list(policy_values.settings(row.values)))) for row in rows]


def history(asked: Scope) -> QuerySet[QAPolicy]:
    return policies.of_scope(asked.model, asked.environment)


def steps(rows: Sequence[QAPolicy]) -> list[Step]:
    """Of neighbouring numbers of one model and environment, newest first."""
    if not rows:
        return []
    last = rows[-1]
    before = policies.of_scope(last.model, last.environment).filter(number=last.number - 1).first()
    return [
        Step(newer, policy_actions.own_changes(older, newer.values), newer.pipeline != _pipeline(older))
        for newer, older in zip(rows, [*rows[1:], before], strict=True)
    ]


def _pipeline(policy: QAPolicy | None) -> dict[str, Any]:
    return dict(policy.pipeline) if policy else {}


def newest_number(asked: Scope) -> int:
    return int(history(asked).aggregate(last=Max("number"))["last"] or 0)


def _units(shape: Shape, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(shape, Section):
        for key, below in shape.keys.items():
            yield from _units(below, f"{name}.{key}" if name else key)
    elif isinstance(shape, Leaf) and not name.startswith(("weights.", "load.concurrency")):
        yield name, UNITS.get(shape.unit, shape.unit)
