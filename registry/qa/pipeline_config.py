"""The mission's `pipeline-config.yaml`: every key of it, and what the gate has besides under `quality_gate`.

Read strictly: all that is wrong is told at once, with line, column, the dotted path, and the nearest known key.
What is about the gate becomes a policy's values; the other sections are checked too and kept for an export.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import yaml

from registry.qa import policy_values
from registry.qa.parameters import Parameter
from registry.qa.places import UNUSABLE, Path, Problem, Read, dotted, read, reads_as_text
from registry.qa.policy import Policy
from registry.qa.policy_values import COMPONENTS, FLAGS, LIMITS, LOAD, Checks, Values, plain
from registry.qa.shapes import Leaf, Named, Section, Several, Shape, Unknown, Written

GATE: Final = ("quality_thresholds", "test_categories", "deep_tree_echo", "quality_gate")
"""The sections that a policy is made of; the others are kept as they are."""
_PERFORMANCE = ("max_latency_ms", "min_throughput_tokens_sec", "max_memory_gb", "max_error_rate_percent")
_SECURITY = ("require_authentication", "require_rate_limiting", "require_input_validation")
PLACES: Final[Mapping[Path, str]] = {
    ("quality_thresholds", "minimum_score"): "minimum_score",
    **{("quality_thresholds", "performance", name): name for name in _PERFORMANCE},
    **{("quality_thresholds", "security", name): name for name in _SECURITY},
    ("deep_tree_echo", "enabled"): "deep_tree_echo",
    ("deep_tree_echo", "components"): "deep_tree_echo_components",
    ("quality_gate", "compare_with_live"): "compare_with_live",
    ("quality_gate", "load"): "load",
    ("quality_gate", "parameters"): "parameters",
    ("quality_gate", "advisory"): "advisory",
}
"""Where the file has what the policy calls so. The categories' weights are in `test_categories`."""

MOST_PROBLEMS: Final = 100

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_DURATION = Written(
    re.compile(r"(?=.*[1-9])([0-9]{1,9}(ms|s|m|h|d)){1,5}"), 'a time with its unit, as "15s" or "1m30s"'
)
_CPU = Written(
    re.compile(r"(?=.*[1-9])([0-9]{1,9}m|[0-9]{1,6}(\.[0-9]{1,3})?)"), 'cores, as "4" or "500m"', also_number=True
)
_MEMORY = Written(
    re.compile(r"(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,3})?([KMGT]i|[kMGT])"), 'an amount with its unit, as "8Gi" or "512Mi"'
)
_ADDRESS = Written(re.compile(r"[^\s@]{1,500}"), "an address without spaces, a user or a password")


class ConfigError(Exception):
    """All that is wrong with a file, as far as a person will read; `str()` has a problem per line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda one: (one.line, one.column))[:MOST_PROBLEMS]
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Config:
    values: dict[str, Any] = field(default_factory=dict)
    """Part of a policy, as `policy_values` has it."""
    pipeline: dict[str, Any] = field(default_factory=dict)
    """The sections that are not about the gate."""


def load_policy(text: str | bytes, checks: Checks) -> Policy:
    """The whole policy: what the file does not say has its default. Raises ConfigError with every problem."""
    return policy_values.resolve([load_config(text, checks).values]).policy


def load_config(text: str | bytes, checks: Checks, *, inherited: Values = policy_values.DEFAULTS) -> Config:
    """Raises ConfigError with every problem. `inherited` is what the values will be laid over."""
    found = read(text)
    _check(found, checks)
    if found.problems or not isinstance(found.value, Mapping):
        raise ConfigError(found.problems)
    config = to_config(found.value)
    for message in policy_values.weightless(policy_values.merge(inherited, config.values)).values():
        found.tell(("test_categories",), f"has weights that {message}")
    if found.problems:
        raise ConfigError(found.problems)
    return config


def _check(found: Read, checks: Checks) -> None:
    whole = shape(checks)
    known = list(_keys(whole, ()))
    for fault in islice(whole.faults(found.value, ()), MOST_PROBLEMS):
        place = _home(fault.path, known) if isinstance(fault, Unknown) else ""
        found.tell(fault.path, f"is not known here; it belongs under {place}" if place else fault.message)
    if isinstance(found.value, Mapping):
        _told_once(found, found.value)


def _told_once(found: Read, value: Mapping[str, Any]) -> None:
    """Which categories are advisory can be said in two places."""
    categories, gate = value.get("test_categories"), value.get("quality_gate")
    if not isinstance(categories, Mapping) or not isinstance(gate, Mapping) or "advisory" not in gate:
        return
    for name, category in categories.items():
        if isinstance(category, Mapping) and "required" in category:
            found.tell(("quality_gate", "advisory"), f"is also said by test_categories.{name}.required: keep one")
            return


def _home(path: Path, known: list[Path]) -> str:
    """The section where a key of this name is known, the one nearest to where it was written."""
    homes = [one[:-1] for one in known if one[-1] == path[-1] and one[:-1] != path[:-1] and len(one) > 1]
    return dotted(max(homes, key=lambda home: _shared(home, path))) if homes else ""


def _shared(one: Path, other: Path) -> int:
    return next((index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


def _keys(section: Section, path: Path) -> Iterator[Path]:
    for name, below in section.keys.items():
        yield (*path, name)
        if isinstance(below, Section) and name != "parameters":
            yield from _keys(below, (*path, name))


# --- The file's shape -------------------------------------------------------------------------------------------------


def _whole(name: str, unit: str, *, lowest: float = 0, highest: float = 999_999) -> Leaf:
    return Leaf(Parameter(name, int, int(lowest), "", unit=unit, lowest=lowest, highest=highest))


def _number(name: str, unit: str, *, lowest: float = 0, highest: float = 999_999) -> Leaf:
    return Leaf(Parameter(name, float, lowest, "", unit=unit, lowest=lowest, highest=highest))


def _percent(name: str) -> Leaf:
    return _number(name, "percent", highest=100)


def _flag(name: str) -> Leaf:
    return Leaf(Parameter(name, bool, True, ""))


AB_TESTING: Final = Section(
    {
        "default_traffic_split_percent": _percent("default_traffic_split_percent"),
        "default_duration_minutes": _number("default_duration_minutes", "minutes", lowest=0.1, highest=10_080),
        "auto_promote": _flag("auto_promote"),
        "auto_rollback": _flag("auto_rollback"),
        "success_criteria": Section(
            {
                "max_error_rate_increase": _number("max_error_rate_increase", "percentage points", highest=100),
                "max_latency_increase_percent": _number("max_latency_increase_percent", "percent", highest=10_000),
                "min_user_satisfaction": _number("min_user_satisfaction", "points", lowest=1, highest=5),
                "min_requests_sample_size": _whole("min_requests_sample_size", "requests", lowest=1),
            }
        ),
        "failure_criteria": Section(
            {
                "max_error_rate": _percent("max_error_rate"),
                "max_latency_ms": _number("max_latency_ms", "milliseconds", lowest=0.1, highest=600_000),
                "min_success_rate": _percent("min_success_rate"),
            }
        ),
    }
)
ENVIRONMENTS: Final = Named(
    _NAME,
    "an environment's name of lower-case letters, digits and dashes, as staging, canary or production",
    Section(
        {
            "replicas": _whole("replicas", "copies", lowest=1, highest=1_000),
            "resources": Section({"cpu": _CPU, "memory": _MEMORY}),
            "monitoring": Section(
                {
                    "enabled": _flag("enabled"),
                    "retention_days": _whole("retention_days", "days", lowest=1, highest=3_650),
                    "alerting": _flag("alerting"),
                }
            ),
        }
    ),
)
MODEL_REGISTRY: Final = Section(
    {
        "url": _ADDRESS,
        "retention_policy": Section(
            {
                name: _whole(name, "versions", highest=10_000)
                for name in ("stable_versions", "canary_versions", "failed_deployments")
            }
        ),
    }
)
MONITORING: Final = Section(
    {
        "prometheus": Section({"enabled": _flag("enabled"), "scrape_interval": _DURATION}),
        "grafana": Section({"enabled": _flag("enabled"), "dashboard_refresh": _DURATION}),
        "alerting": Section(
            {
                "channels": Several(("slack", "email", "webhook")),
                "thresholds": Section(
                    {
                        "error_rate": _percent("error_rate"),
                        "latency_p95": _number("latency_p95", "milliseconds", lowest=0.1, highest=600_000),
                        "resource_usage": _percent("resource_usage"),
                    }
                ),
            }
        ),
    }
)


def shape(checks: Checks) -> Section:
    categories: dict[str, Shape] = {
        name: Section({"weight": policy_values.weight(name), "required": _flag("required")})
        for name in policy_values.categories(checks)
    }
    return Section(
        {
            "quality_thresholds": Section(
                {
                    "minimum_score": LIMITS["minimum_score"],
                    "performance": Section({name: LIMITS[name] for name in _PERFORMANCE}),
                    "security": Section({name: FLAGS[name] for name in _SECURITY}),
                }
            ),
            "test_categories": Section(categories, what="categories"),
            "ab_testing": AB_TESTING,
            "deep_tree_echo": Section({"enabled": FLAGS["deep_tree_echo"], "components": COMPONENTS}),
            "environments": ENVIRONMENTS,
            "model_registry": MODEL_REGISTRY,
            "monitoring": MONITORING,
            "quality_gate": Section(
                {
                    "compare_with_live": FLAGS["compare_with_live"],
                    "advisory": Several(policy_values.categories(checks)),
                    "load": LOAD,
                    "parameters": policy_values.parameters(checks),
                }
            ),
        },
        what="sections",
    )


# --- To and fro -------------------------------------------------------------------------------------------------------


def to_config(value: Mapping[str, Any]) -> Config:
    """Of a file without problems."""
    values: dict[str, Any] = {}
    for path, name in PLACES.items():
        if (given := _at(value, path)) is not UNUSABLE:
            values[name] = given
    categories = value.get("test_categories", {})
    weights = {name: given["weight"] for name, given in categories.items() if "weight" in given}
    advisory = {name: not given["required"] for name, given in categories.items() if "required" in given}
    values |= {"weights": weights} if weights else {}
    values |= {"advisory": advisory} if advisory else {}
    return Config(values, {name: given for name, given in value.items() if name not in GATE})


def to_pipeline(config: Config) -> dict[str, Any]:
    """The file's own form of it, in the mission's order."""
    found: dict[str, Any] = {}
    for path, name in PLACES.items():
        if name in config.values and not (name == "advisory" and isinstance(config.values[name], Mapping)):
            _put(found, path, plain(config.values[name]))
    for name, share in config.values.get("weights", {}).items():
        _put(found, ("test_categories", name, "weight"), share)
    if isinstance(advisory := config.values.get("advisory"), Mapping):
        for name, is_advisory in advisory.items():
            _put(found, ("test_categories", name, "required"), not is_advisory)
    found |= plain(config.pipeline)
    order = list(shape(()).keys)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def to_yaml(config: Config, heading: str = "") -> str:
    """`heading` becomes comments at the top."""
    comments = "".join(f"# {line}\n" for line in heading.splitlines())
    body = yaml.dump(to_pipeline(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return comments + body


class _Dumper(yaml.SafeDumper):
    """Writes a list of plain values in one line, and no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _list(dumper: _Dumper, items: list[Any]) -> yaml.Node:
    in_one_line = not any(isinstance(item, dict) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=in_one_line)


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    # PyYAML writes for YAML 1.1, where 1e3 is a text; we read it as a number.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if reads_as_text(text) else '"')


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)


def _at(value: Any, path: Path) -> Any:
    for step in path:
        if not isinstance(value, Mapping) or step not in value:
            return UNUSABLE
        value = value[step]
    return value


def _put(found: dict[str, Any], path: Path, value: Any) -> None:
    for step in path[:-1]:
        found = found.setdefault(str(step), {})
    found[str(path[-1])] = value
