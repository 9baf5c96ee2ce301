"""The report for programs and the one for a pull request, from results alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.qa.base import Finding, Outcome, Severity
from registry.qa.policy import Policy
from registry.qa.runner import Result
from registry.report import Examination, deployment_hash, measured, scored, to_json
from registry.report_markdown import escape, markdown
from registry.scoring import Status

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "qa_report.schema.json").read_text())
VALID = jsonschema_rs.Draft202012Validator(SCHEMA)
AT = datetime(2026, 3, 4, 12, 0, 1, 250_000, tzinfo=UTC)
OPEN = Finding(Severity.CRITICAL, "POST /invocations answers without a key.", "Put a guard before it.")


def result(name: str, outcome: Outcome, *, weight: float = 1.0, required: bool = False, label: str = "") -> Result:
    return Result(name, label or name.partition(".")[2], name.partition(".")[0], weight, required, outcome, 0.25)


PASSED = [
    result("compatibility.digest", Outcome.passed("As registered.", evidence={"digest": "ab"}), required=True),
    result("compatibility.seed", Outcome.passed("The same text twice.")),
    result("performance.first_token", Outcome.passed("12 ms.", value=12.0, limit=200.0, unit="ms")),
    result("security.key_required", Outcome.passed("Refused."), required=True),
    result("security.rate_limit", Outcome.passed("429 came.")),
    result("integration.dtesn", Outcome.not_applicable("There is none.")),
]


def with_outcome(name: str, outcome: Outcome) -> list[Result]:
    return [replace(one, outcome=outcome) if one.name == name else one for one in PASSED]


def examination(results: Sequence[Result] = PASSED, policy: Policy | None = None, **more: Any) -> Examination:
    policy = policy or Policy()
    given = {"digest": "d" * 64, **more}
    return Examination("words", "vllm", results, scored(results, policy), policy.to_json(), seconds=8.5, at=AT, **given)


RATE = with_outcome("security.rate_limit", Outcome.failed("No request of 200 was refused."))
OPEN_DOOR = with_outcome("security.key_required", Outcome.failed("It is open.", findings=(OPEN,)))
SILENT = with_outcome("performance.first_token", Outcome.not_checked("There is no server."))


@pytest.mark.parametrize("results", [PASSED, RATE, OPEN_DOOR, SILENT])
def test_report_keeps_to_its_schema(results: list[Result]) -> None:
    report = json.loads(json.dumps(to_json(examination(results))))
    assert [error.message for error in VALID.iter_errors(report)] == []


def test_schema_refuses_what_is_no_report() -> None:
    report = to_json(examination())
    report["test_results"]["security"]["checks"][0]["status"] = "fine"
    del report["qa_report"]["deployment_hash"]
    assert len(list(VALID.iter_errors(report))) >= 2


def test_report_has_the_keys_that_readers_of_old_reports_look_for() -> None:
    report = to_json(examination(RATE))
    assert report["qa_report"] | {"deployment_hash": ""} == report["qa_report"] | {
        "model_name": "words",
        "execution_time_seconds": 8.5,
        "timestamp": "2026-03-04T12:00:01.250Z",
        "overall_quality_score": 84.3,
        "deployment_approved": True,
        "deployment_hash": "",
    }
    security = report["test_results"]["security"]
    assert (security["test_name"], security["model_name"], security["overall_status"]) == (
        "security", "words", "failed",
    )  # fmt: skip
    assert security["error"] == "No request of 200 was refused."
    assert (security["key_required"], security["rate_limit"]) == ("passed", "failed: No request of 200 was refused.")
    assert report["test_results"]["integration"]["overall_status"] == "not_applicable"
    assert "error" not in report["test_results"]["compatibility"]


def test_points_lost_add_up_to_what_the_score_lacks() -> None:
    report = to_json(examination(SILENT))
    lost = sum(check["points_lost"] for c in report["test_results"].values() for check in c["checks"])
    assert lost == pytest.approx(100 - report["qa_report"]["overall_quality_score"])
    assert report["qa_report"]["lost"][0]["check"] == "performance.first_token"


def test_score_below_the_minimum_is_not_approved_although_nothing_blocks() -> None:
    strict = examination(RATE, Policy(minimum_score=90))
    assert not strict.score.blocked
    assert not strict.approved
    assert "less than the 90 that the policy asks for" in to_json(strict)["qa_report"]["sentence"]
    assert examination(RATE, Policy(minimum_score=84)).approved


def test_band_of_caution_is_not_approved_by_a_lower_minimum() -> None:
    some = with_outcome("security.rate_limit", Outcome.failed("No request of 200 was refused."))
    low = examination([replace(one, weight=3.0) if one.name == "security.rate_limit" else one for one in some],
                      Policy(minimum_score=60))  # fmt: skip
    assert (low.score.points, low.score.blocked, low.approved) == (76.5, False, False)


def test_required_failure_is_not_approved_whatever_the_minimum_is() -> None:
    assert not examination(OPEN_DOOR, Policy(minimum_score=0)).approved


def test_check_that_is_called_like_a_key_of_its_category_does_not_stand_in_its_place() -> None:
    names = ["house.error", "house.score", "house.checks", "house.test_name", "house.tidy"]
    house = to_json(examination([*PASSED, *(result(name, Outcome.passed("Fine.")) for name in names)]))
    category = house["test_results"]["house"]
    assert [error.message for error in VALID.iter_errors(house)] == []
    assert (category["test_name"], category["score"], category["tidy"]) == ("house", 100, "passed")
    assert [check["name"] for check in category["checks"]] == names
    assert "error" not in category


def test_text_that_no_file_can_hold_is_replaced_and_not_a_crash() -> None:
    broken = replace(examination(), model_name="wo\udcffrds\0", policy={"minimum_score": 80, "x": float("nan")})
    report = to_json(broken)
    assert report["qa_report"]["model_name"] == "wo?rds\N{REPLACEMENT CHARACTER}"
    assert json.loads(json.dumps(report, ensure_ascii=False, allow_nan=False).encode()) == report
    assert "wo?rds" in markdown(broken).encode().decode()


# --- The hash ---------------------------------------------------------------------------------------------------------


def test_hash_is_computed_again_from_the_file() -> None:
    report = to_json(examination(OPEN_DOOR))
    read = json.loads(json.dumps(report, indent=2, ensure_ascii=False))
    assert read["qa_report"]["deployment_hash"] == deployment_hash(read)
    assert re.fullmatch("[0-9a-f]{64}", deployment_hash(read))


def test_hash_does_not_depend_on_when_or_how_long() -> None:
    one = examination()
    again = replace(one, at=AT + timedelta(days=3), seconds=99.0, number=7)
    assert to_json(one)["qa_report"]["deployment_hash"] == to_json(again)["qa_report"]["deployment_hash"]


@pytest.mark.parametrize(
    "other",
    [
        examination(digest="e" * 64),
        examination(policy=Policy(max_latency_ms=201)),
        examination(
            with_outcome("performance.first_token", Outcome.passed("13 ms.", value=13.0, limit=200.0, unit="ms"))
        ),
        examination(with_outcome("compatibility.seed", Outcome.passed("The same text twice, or so."))),
        examination(RATE),
        examination(PASSED[:-1]),
        examination(environment="production"),
    ],
    ids=["bytes", "policy", "a figure", "a reason", "a status", "a check less", "environment"],
)
def test_hash_tells_apart(other: Examination) -> None:
    assert to_json(other)["qa_report"]["deployment_hash"] != to_json(examination())["qa_report"]["deployment_hash"]


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_markdown_says_the_verdict_first_and_what_failed() -> None:
    text = markdown(examination(OPEN_DOOR))
    assert text.startswith("## ❌ words: not approved\n\nBlocked: It is open.")
    assert "| Security | ❌ failed | 1 passed, 1 failed | 50 | 31.2 % | −15.7 |" in text
    assert "- **key\\_required** (❌ failed, required, −15.7 points): It is open." in text
    assert "- **critical**: POST /invocations answers without a key. *Put a guard before it.*" in text
    assert "<summary>All 6 checks</summary>" in text


def test_share_of_a_category_is_that_of_the_whole_whatever_its_weight_is() -> None:
    text = markdown(examination(policy=Policy(weights={"compatibility": 1, "performance": 2, "security": 1})))
    shares = dict(re.findall(r"^\| (\w+) \|.*\| (\S+(?: %)?) \| 0 \|$", text, re.MULTILINE))
    assert shares == {"Compatibility": "25 %", "Performance": "50 %", "Security": "25 %", "Integration": "–"}


def test_markdown_of_a_faultless_examination_lists_no_failures() -> None:
    text = markdown(examination())
    assert text.startswith("## ✅ words: approved\n\n100 of 100 (excellent): may be approved.")
    assert "What did not pass" not in text
    assert "Findings" not in text


def test_markdown_names_what_was_left_out() -> None:
    text = markdown(examination(SILENT, left_out=["performance.first_token"]))
    assert "Left out by whoever examined: performance.first\\_token." in text


HOSTILE = (
    "a | b\n| c ``` <script>alert(1)</script> </details> @everyone #12 www.h.example "
    "**x** [l](http://h.example) <!-- # \\"
)


def test_markdown_is_not_opened_by_what_a_server_said() -> None:
    hostile = Outcome.failed(HOSTILE, value=1.0, unit="|", findings=(Finding(Severity.LOW, HOSTILE, HOSTILE),))
    text = markdown(examination(with_outcome("security.rate_limit", hostile)))
    assert text.count("</details>") == 1
    assert "<script" not in text
    assert "<!--" not in text
    assert "@everyone" not in text
    assert not re.search(r"#\w|://\w|www\.\w", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows} == {5, 6}


@given(st.text())
def test_escaped_text_is_one_line_without_any_markup(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    bare = re.sub(r"\\[\\`*_{}\[\]|~#$!]|&(?:amp|lt|gt);", "", shown)
    assert not set(bare) & set("\\`*_{}[]|~#$!&<>")


def test_markdown_that_would_be_too_long_for_a_comment_leaves_the_table_out() -> None:
    many = [result(f"security.c{n}", Outcome.passed("x" * 400)) for n in range(300)]
    text = markdown(examination(many))
    assert len(text) < 60_000
    assert "too long for a comment" in text
    assert "<details>" not in text


def test_markdown_with_thousands_of_findings_stays_short_and_says_how_many_more() -> None:
    many = tuple(Finding(Severity.LOW, f"{n} {'*' * 400}", "Do it.") for n in range(300))
    bad = [result(f"security.c{n}", Outcome.failed("|" * 400, findings=many)) for n in range(60)]
    text = markdown(examination(bad))
    assert len(text) < 60_000
    assert re.search(r"^- and 1\d,?\d{3} more, which are in the JSON report$", text, re.MULTILINE)
    assert text.rstrip().endswith("points were asked for.</sub>")


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [(None, "ms", "–"), (0.0, "findings", "0 findings"), (12345.6, "tokens/s", "12,346 tokens/s"), (0.5, "%", "0.5 %")],
)
def test_figures_read_well(value: float | None, unit: str, words: str) -> None:
    assert measured(value, unit) == words


def test_worst_check_of_a_category_comes_first() -> None:
    security = next(c for c in examination(RATE).categories if c.name == "security")
    assert security.status is Status.FAILED
    assert security.results[0].name == "security.rate_limit"
    assert security.counts == {Status.FAILED: 1, Status.PASSED: 1}
