"""The mission's pipeline-config.yaml: every key there and back, and all that can be wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry.qa import pipeline_config, policy_values
from registry.qa.base import Check, Context, Outcome
from registry.qa.parameters import Parameter
from registry.qa.pipeline_config import ConfigError, load_config, load_policy, to_pipeline, to_yaml
from registry.qa.places import LARGEST, read
from registry.qa.policy import Policy

MISSION = Path(__file__).parent / "pipeline-config.yaml"


class Custom(Check):
    """As an installed app's own."""

    name: ClassVar[str] = "custom.colour"
    label: ClassVar[str] = "Colour"
    category: ClassVar[str] = "custom"
    weight: ClassVar[float] = 1.0
    required: ClassVar[bool] = False
    timeout: ClassVar[float] = 1.0
    parameters = (
        Parameter("shade", str, "blue", "Which.", choices=("blue", "green")),
        Parameter("wait_ms", int, 100, "How long.", unit="ms", lowest=1, highest=60_000),
    )

    def run(self, context: Context) -> Outcome:
        return Outcome.passed("Blue.")


CHECKS: list[type[Check]] = [Custom]


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(text, CHECKS)
    return str(caught.value).splitlines()


def problem(text: str | bytes) -> str:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


# The mission's own file


def test_the_missions_file_is_the_default_policy() -> None:
    assert load_policy(MISSION.read_text(), CHECKS) == Policy()


def test_every_key_of_the_missions_file_comes_back() -> None:
    text = MISSION.read_text()
    config = load_config(text, CHECKS)
    assert to_pipeline(config) == yaml.safe_load(text)
    assert yaml.safe_load(to_yaml(config)) == yaml.safe_load(text)
    assert sorted(config.pipeline) == ["ab_testing", "environments", "model_registry", "monitoring"]


def test_whole_policy_goes_through_a_file_unchanged() -> None:
    values = policy_values.plain(Policy().to_json())
    text = to_yaml(pipeline_config.Config(values), heading="What holds.\nFrom the defaults.")
    assert text.startswith("# What holds.\n# From the defaults.\nquality_thresholds:\n  minimum_score: 80.0\n")
    assert load_config(text, CHECKS).values == values
    assert load_policy(text, CHECKS) == Policy()


def test_part_of_a_file_leaves_its_siblings_at_their_defaults() -> None:
    policy = load_policy("quality_thresholds: {performance: {max_latency_ms: 350}}", CHECKS)
    assert policy == Policy(max_latency_ms=350)


def test_gates_extras_are_read() -> None:
    policy = load_policy(
        """
        quality_gate:
          compare_with_live: false
          load: {requests_per_second: 5, prompt_words: [[8, 0.7], [200, 0.3]], prompts_file: team/prompts.jsonl}
          parameters:
            custom.colour: {shade: green}
        test_categories:
          security: {required: false}
          custom: {weight: 10}
        deep_tree_echo: {enabled: false, components: []}
        """,
        CHECKS,
    )
    assert policy.compare_with_live is False
    assert (policy.load.requests_per_second, policy.load.seconds) == (5, 5.0)
    assert policy.load.prompt_words == ((8, 0.7), (200, 0.3))
    assert policy.parameters == {"custom.colour": {"shade": "green"}}
    assert policy.advisory == ("integration", "quality", "security")
    assert policy.weights["custom"] == 10
    assert policy.weights["performance"] == 30
    assert (policy.deep_tree_echo, policy.deep_tree_echo_components) == (False, ())


def test_list_of_advisory_categories_says_all_of_them() -> None:
    assert load_policy("quality_gate: {advisory: [security]}", CHECKS).advisory == ("security",)


# What is wrong, and where


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quality_thresholds:\n  performance:\n    max_latency_s: 1\n",
         "line 3, column 5: quality_thresholds.performance.max_latency_s is not known here; the nearest is "
         "max_latency_ms (milliseconds)."),
        ("quality_thresholds: {performance: {max_memory_mb: 9}}",
         "the nearest is max_memory_gb (gigabytes of 10^9 bytes)"),
        ("quality_threshold: {}",
         "line 1, column 1: quality_threshold is not known here; the nearest is quality_thresholds."),
        ("colour: blue", "there are: quality_thresholds, test_categories, ab_testing, deep_tree_echo, environments, "
         "model_registry, monitoring, quality_gate"),
        ("quality_thresholds: {max_latency_ms: 3}",
         "quality_thresholds.max_latency_ms is not known here; it belongs under quality_thresholds.performance"),
        ("ab_testing: {max_latency_ms: 3}", "it belongs under ab_testing.failure_criteria"),
        ("quality_thresholds: {performance: {max_latency_ms: 200ms}}",
         'is "200ms": give a number (milliseconds) from 0.1 to 600,000, the number alone, in milliseconds'),
        ("quality_thresholds: {performance: {max_error_rate_percent: 1%}}",
         'is "1%": give a number (percent) from 0 to 100, the number alone, in percent'),
        ("quality_thresholds: {performance: {max_latency_ms: '200'}}", ", without quotes."),
        ("quality_thresholds: {performance: {max_latency_ms: true}}", "is true: give a number (milliseconds)"),
        ("quality_thresholds: {performance: {max_latency_ms: }}", "is empty: give a number (milliseconds)"),
        ("quality_thresholds: {performance: {max_error_rate_percent: 101}}",
         "is 101: give a number (percent) from 0 to 100"),
        ("quality_thresholds: {minimum_score: 1e999}", "minimum_score is Infinity: give a number"),
        ("quality_thresholds: {minimum_score: .nan}", 'minimum_score is ".nan": give a number'),
        ("quality_thresholds: {security: {require_authentication: yes}}", 'is "yes": give true or false'),
        ("quality_thresholds: {security: {require_authentication: 1}}", "is 1: give true or false"),
        ("quality_thresholds: [1]", "quality_thresholds is [1]: give its keys, minimum_score, performance, security"),
        ("quality_thresholds:", "quality_thresholds is empty: give its keys"),
        ("test_categories: {securty: {weight: 3}}",
         "test_categories.securty is not known here; the nearest is security"),
        ("test_categories: {security: {weight: -1}}", "security.weight is -1: give a number (a share,"),
        ("test_categories: {compatibility: {weight: 0}, performance: {weight: 0}, security: {weight: 0},\n"
         "  integration: {weight: 0}}", "has weights that are all 0: give at least one category a share above 0"),
        ("deep_tree_echo: {components: [dtsen]}", 'deep_tree_echo.components[0] is "dtsen": the nearest is dtesn'),
        ("deep_tree_echo: {components: dtesn}", "give a list of dtesn, aar_core, echo_self"),
        ("quality_gate: {advisory: [security, security]}", 'advisory[1] is "security" again: give it once'),
        ("quality_gate: {advisory: [security]}\ntest_categories: {quality: {required: true}}",
         "line 1, column 16: quality_gate.advisory is also said by test_categories.quality.required: keep one"),
        ("quality_gate: {load: {seconds: 900}}", "is 900: give a number (seconds) from 0.5 to 120"),
        ("quality_gate: {load: {max_tokens: 2.5}}", "is 2.5: give a whole number (tokens) from 1 to 8,192"),
        ("quality_gate: {load: {prompt_words: [[8]]}}", "prompt_words[0] is [8]: give a pair, [words, share]"),
        ("quality_gate: {load: {prompts_file: ../../etc/passwd}}", "give a file's name relative to the folder"),
        ("quality_gate: {load: {prompts_file: /etc/passwd}}", "give a file's name relative to the folder"),
        ("quality_gate: {parameters: {custom.color: {}}}",
         "quality_gate.parameters.custom.color is not known here; the nearest is custom.colour"),
        ("quality_gate: {parameters: {custom.colour: {wait_s: 1}}}",
         "custom.colour.wait_s is not known here; the nearest is wait_ms (ms)"),
        ("quality_gate: {parameters: {custom.colour: {shade: red}}}", 'is "red": give one of blue, green'),
        ("environments: {Staging: {replicas: 2}}",
         "environments.Staging is not usable as a name: give an environment's name"),
        ("environments: {qa: {replicas: 0}}", "is 0: give a whole number (copies) from 1 to 1,000"),
        ("environments: {qa: {resources: {memory: 8}}}", 'is 8: give an amount with its unit, as "8Gi" or "512Mi"'),
        ("environments: {qa: {resources: {cpu: 4 cores}}}", 'is "4 cores": give cores, as "4" or "500m"'),
        ("environments: {qa: {resources: {memory: 0Gi}}}", 'is "0Gi": give an amount'),
        ("monitoring: {prometheus: {scrape_interval: 15}}", 'is 15: give a time with its unit, as "15s" or "1m30s"'),
        ("monitoring: {alerting: {channels: [pager]}}", 'channels[0] is "pager": there are: slack, email, webhook'),
        ("monitoring: {alerting: {thresholds: {latency_p95: 0.5s}}}", "the number alone, in milliseconds"),
        ("model_registry: {url: 'https://user:secret@example.org/models'}", "without spaces, a user or a password"),
        ("a: 1\na: 2", "line 2, column 1: a is given twice, first in line 1: keep one"),
        ("quality_thresholds: !!python/object/apply:os.system [x]",
         "has the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("quality_thresholds: &a {minimum_score: 1}", "quality_thresholds has the anchor &a: leave it out"),
        ("deep_tree_echo: *a", "deep_tree_echo is an alias (*a): write the value out"),
        ("? [a]\n: 1", "has a key that is not a text"),
        ("{}\n---\n{}", "line 2, column 1: the text holds a second document"),
        ("quality_thresholds: {minimum_score: " + "9" * 5000 + "}", "is a number of 5000 digits"),
        ("", "line 1, column 1: the text is empty: give its sections, quality_thresholds"),
        ("# nothing but a comment", "the text is empty"),
        ("- a", 'the text is ["a"]: give its sections'),
        ("quality_thresholds", 'the text is "quality_thresholds": give its sections'),
        ("a: [1, 2", "the text is not YAML: expected ',' or ']'"),
        ("a:\n\tb: 1", "line 2, column 1: the text is not YAML: found character '\\t' that cannot start any token"),
        (b"a: 1\nb: \xff", "line 2, column 4: the text is not UTF-8: the byte 0xff cannot stand there"),
        ("a: 1\nb: \x07", "line 2, column 4: the text holds the character U+0007"),
        ("a: \ud800", "is not UTF-8"),
        ('model_registry: {url: "a\\0b"}', "url holds a zero character or half of a surrogate pair"),
        ('model_registry: {url: "\\ud800"}', "url holds a zero character or half of a surrogate pair"),
        ('"\\0": 1', "has a key with a zero character"),
        ('"a\\nb": 1', 'line 1, column 1: "a\\nb" is not known here'),
        ('"a\\e[2Jb": 1', '"a\\u001b[2Jb" is not known here'),
        ("[*a, 1]", 'the text is ["…", 1]: give its sections'),
        ('a: "\\UFFFFFFFF"', "an escape names a character that does not exist"),
        ("[" * 5000, "line 1, column 21: the text is nested more than 20 levels deep there"),
        ("#" * (LARGEST + 1), "the text is longer than 262,144 bytes"),
    ],
)  # fmt: skip
def test_problem_names_the_place_and_what_would_be_right(text: str | bytes, said: str) -> None:
    assert any(said in line for line in problems(text)), problems(text)


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        "quality_thresholds:\n"
        "  minimum_score: high\n"
        "  performance: {max_latency_s: 0.2, max_memory_gb: 16GB}\n"
        "ab_testing: {auto_promote: on, auto_promote: off}\n"
        "monitoring: {grafana: {dashboard_refresh: 30}}\n"
    )
    places = [line.partition(" is ")[0] for line in found]
    assert places == [
        "line 2, column 3: quality_thresholds.minimum_score",
        "line 3, column 17: quality_thresholds.performance.max_latency_s",
        "line 3, column 37: quality_thresholds.performance.max_memory_gb",
        "line 4, column 14: ab_testing.auto_promote",
        "line 4, column 32: ab_testing.auto_promote",
        "line 5, column 24: monitoring.grafana.dashboard_refresh",
    ]


def test_bomb_of_aliases_is_refused_and_never_expanded() -> None:
    levels = [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 30)]
    found = problems("\n".join(["b0: &b0 [lol]", *levels]))
    assert "line 2, column 10: b1[0] is an alias (*b0): write the value out." in found
    assert len(found) == pipeline_config.MOST_PROBLEMS


def test_thousands_of_problems_are_cut_to_what_a_person_reads() -> None:
    assert len(problems("\n".join(f"key_{n}: 1" for n in range(15_000)))) == 100


def test_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert load_config(b"\xef\xbb\xbfdeep_tree_echo: {enabled: false}", CHECKS).values == {"deep_tree_echo": False}


@pytest.mark.parametrize(
    "word", ["1e3", "012", "0x10", "yes", "null", "~", "true", "1:30", "4", "", "8Gi", "a: b", "#x"]
)
def test_text_that_looks_like_something_else_stays_a_text(word: str) -> None:
    written = yaml.dump({"a": word}, Dumper=pipeline_config._Dumper)
    assert read(written).value == {"a": word}


def test_what_one_category_says_is_no_matter_of_the_others_when_all_counts_below() -> None:
    only = load_config("test_categories: {quality: {weight: 0}}", CHECKS)
    assert only.values == {"weights": {"quality": 0}}


# Any of it


NUMBERS = st.floats(0.5, 100, allow_nan=False).map(lambda x: round(x, 3)) | st.integers(1, 100)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "minimum_score": NUMBERS,
    "max_latency_ms": NUMBERS,
    "max_error_rate_percent": NUMBERS,
    "require_rate_limiting": st.booleans(),
    "compare_with_live": st.booleans(),
    "deep_tree_echo_components": st.lists(st.sampled_from(["dtesn", "aar_core", "echo_self"]), unique=True),
    "weights": st.dictionaries(st.sampled_from(["security", "custom", "quality"]), NUMBERS, min_size=1),
    "advisory": st.lists(st.sampled_from(["security", "quality"]), unique=True)
    | st.dictionaries(st.sampled_from(["security", "performance", "custom"]), st.booleans(), min_size=1),
    "load": st.fixed_dictionaries(
        {},
        optional={
            "seconds": NUMBERS,
            "max_tokens": st.integers(1, 99),
            "prompts_file": st.from_regex(r"[\w +-][\w .+-]{0,20}", fullmatch=True),
            "prompt_words": st.lists(st.tuples(st.integers(1, 99), NUMBERS).map(list), max_size=4),
        },
    ),
    "parameters": st.just({"custom.colour": {"shade": "green", "wait_ms": 7}}),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_any_values_go_to_a_file_and_back_unchanged(values: dict[str, Any]) -> None:
    assert policy_values.validate(values, CHECKS) == {}
    assert load_config(to_yaml(pipeline_config.Config(values)), CHECKS).values == values


@given(st.text(alphabet="a:-[]{}&*!#'\"|>?%@ \n\t1.é\0\\uxU", max_size=200) | st.binary(max_size=100))
def test_any_text_is_read_or_refused_with_a_sentence(text: str | bytes) -> None:
    said = ""
    try:
        load_config(text, CHECKS)
    except ConfigError as error:
        said = str(error)
    assert all(line.startswith("line ") and line.endswith(".") for line in said.splitlines())
