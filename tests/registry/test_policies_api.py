from __future__ import annotations

from typing import Any

import pytest
import yaml
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.test.client import BOUNDARY, encode_multipart

from deploypipe.core import tokens
from registry import policy_actions
from registry.models import ModelVersion, QAPolicy, RegisteredModel
from tests.conftest import Cast
from tests.registry.test_pipeline_config import MISSION


@pytest.fixture
def ask(cast: Cast) -> Any:
    """ask(who, address) reads; with a body it posts: JSON, or bytes as YAML."""
    keys: dict[str, str] = {}

    def asked(who: str, address: str, body: Any = None, **more: Any) -> Any:
        if who not in keys:
            keys[who] = tokens.issue(getattr(cast, who), name="test")
        client = Client(headers={"Authorization": f"Bearer {keys[who]}"})
        if body is None:
            return client.get(f"/api/v1/{address}", **more)
        kind = "application/yaml" if isinstance(body, bytes | str) else "application/json"
        return client.post(f"/api/v1/{address}", body, **({"content_type": kind} | more))

    return asked


def test_policy_is_set_and_holds_with_its_origin(ask: Any, model: RegisteredModel) -> None:
    body = {"model": "textgen", "environment": "production", "values": {"minimum_score": 90}, "note": "Real users."}
    answer = ask("bo", "policies/", body)
    said = answer.json()
    assert answer.status_code == 201
    assert {name: said[name] for name in body} == body
    assert (said["number"], said["created_by"], said["pipeline"]) == (1, "bo", {})
    assert ask("bo", "policies/", body).status_code == 200
    assert ask("dee", f"policies/{said['id']}/").json() == said

    held = ask("dee", "policies/?model=textgen&environment=production").json()
    assert held["values"]["minimum_score"] == 90
    assert (held["origins"]["minimum_score"], held["origins"]["max_latency_ms"]) == (said["id"], None)
    assert held["sources"] == [
        {"id": said["id"], "model": "textgen", "environment": "production", "number": 1, "sets": ["minimum_score"]}
    ]
    assert ask("dee", "policies/").json()["values"]["minimum_score"] == 80


@pytest.mark.parametrize(
    ("who", "body", "status", "fields"),
    [
        ("ana", {"values": {}}, 403, []),
        ("dee", {"values": {}}, 403, []),
        ("bo", {}, 422, ["values"]),
        ("bo", {"values": []}, 422, ["values"]),
        ("bo", {"values": {}, "model": "none"}, 422, ["model"]),
        ("bo", {"values": {}, "environment": "prod"}, 422, ["environment"]),
        ("bo", {"values": {"max_latency_s": 1, "load": {"seconds": "x"}}}, 422,
         ["values.max_latency_s", "values.load.seconds"]),
        ("bo", {"values": {"load": {"a": {"b": {}}}}, "value": 1}, 422, ["value"]),
        ("bo", {"values": {"minimum_score": 10**400}}, 422, ["values.minimum_score"]),
        ("bo", {"values": {}, "seen": 3}, 409, []),
    ],
)  # fmt: skip
def test_policy_that_is_refused(
    who: str, body: Any, status: int, fields: list[str], ask: Any, model: RegisteredModel
) -> None:
    answer = ask(who, "policies/", body)
    assert answer.status_code == status
    assert list(answer.json()["fields"]) == fields
    assert not QAPolicy.objects.exists()


def test_history_is_narrowed_by_model_and_environment(ask: Any, cast: Cast, model: RegisteredModel) -> None:
    for whose, environment in ((None, ""), (model, ""), (model, "production"), (None, "production")):
        policy_actions.save_policy(whose, environment, {"minimum_score": 90}, actor=cast.bo)

    def found(query: str) -> list[tuple[str, str]]:
        rows = ask("dee", f"policies/history/{query}").json()["results"]
        return [(row["model"], row["environment"]) for row in rows]

    assert len(found("")) == 4
    assert found("?model=textgen") == [("textgen", "production"), ("textgen", "")]
    assert found("?model=&environment=production") == [("", "production")]
    assert found("?model=&environment=") == [("", "")]
    assert ask("dee", "policies/history/?model=none").status_code == 422


def test_earlier_number_is_restored(ask: Any, cast: Cast, model: RegisteredModel) -> None:
    first = policy_actions.save_policy(model, "", {"minimum_score": 90}, actor=cast.bo).policy
    policy_actions.save_policy(model, "", {"minimum_score": 10}, actor=cast.bo)
    answer = ask("bo", f"policies/{first.pk}/restore/", {"note": "Too lax.", "seen": 2})
    assert (answer.status_code, answer.json()["number"], answer.json()["values"]) == (201, 3, {"minimum_score": 90})
    assert ask("ana", f"policies/{first.pk}/restore/", {}).status_code == 403


def test_missions_file_is_imported_and_exported(ask: Any, model: RegisteredModel) -> None:
    answer = ask("bo", "policies/import/?model=textgen&note=From+the+mission", MISSION.read_bytes())
    assert (answer.status_code, answer.json()["note"]) == (201, "From the mission")
    assert answer.json()["pipeline"]["monitoring"]["grafana"] == {"enabled": True, "dashboard_refresh": "30s"}
    exported = ask("dee", f"policies/{answer.json()['id']}/export/", headers={"Accept": "application/yaml"})
    assert exported.headers["Content-Type"] == "application/yaml"
    assert exported.headers["Content-Disposition"] == 'attachment; filename="pipeline-config-textgen-1.yaml"'
    assert exported.content.startswith(b"# Policy 1 of textgen in all environments, set by bo.\n")
    assert yaml.safe_load(exported.content) == yaml.safe_load(MISSION.read_text())


def test_effective_policy_is_exported_as_one_file(ask: Any, cast: Cast, model: RegisteredModel) -> None:
    policy_actions.save_policy(None, "", {"minimum_score": 90}, actor=cast.bo)
    answer = ask("dee", "policies/export/?model=textgen&environment=production")
    assert answer.headers["Content-Disposition"].endswith('"pipeline-config-textgen-production.yaml"')
    whole = yaml.safe_load(answer.content)
    assert whole["quality_thresholds"]["minimum_score"] == 90
    assert whole["quality_gate"]["load"]["seconds"] == 5.0
    assert ask("dee", "policies/export/?model=none").json()["fields"] == {"model": "'none' is not registered"}


def test_file_may_be_sent_as_a_part(ask: Any, model: RegisteredModel) -> None:
    part = SimpleUploadedFile("pipeline-config.yaml", MISSION.read_bytes())
    client_form = f"multipart/form-data; boundary={BOUNDARY}"
    body = {"file": part}
    answer = ask("bo", "policies/import/", _form(body), content_type=client_form)
    assert answer.status_code == 201
    empty = ask("bo", "policies/import/", _form({}), content_type=client_form)
    assert empty.json()["fields"] == {"file": "send the YAML as the body, or as a part named file"}


def test_part_that_belongs_into_the_address_is_not_passed_over(ask: Any, model: RegisteredModel) -> None:
    part = SimpleUploadedFile("pipeline-config.yaml", MISSION.read_bytes())
    body = {"file": part, "dry_run": "true", "model": "textgen"}
    answer = ask("bo", "policies/import/", _form(body), content_type=f"multipart/form-data; boundary={BOUNDARY}")
    assert (answer.status_code, sorted(answer.json()["fields"])) == (422, ["dry_run", "model"])
    assert not QAPolicy.objects.exists()


def _form(body: Any) -> bytes:
    return encode_multipart(BOUNDARY, body)


def test_file_with_problems_answers_with_each_place_and_its_line(ask: Any, model: RegisteredModel) -> None:
    text = b"quality_thresholds:\n  performance:\n    max_latency_s: 1\nmonitoring: {prometheus: {scrape_interval: 15}}"
    for query in ("", "?dry_run=true"):
        answer = ask("bo", f"policies/import/{query}", text)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
        assert answer.json()["fields"] == {
            "quality_thresholds.performance.max_latency_s": (
                "line 3, column 5: is not known here; the nearest is max_latency_ms (milliseconds)"
            ),
            "monitoring.prometheus.scrape_interval": (
                'line 4, column 27: is 15: give a time with its unit, as "15s" or "1m30s"'
            ),
        }
    assert not QAPolicy.objects.exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"\xff", "is not UTF-8"), (b"#" * 300_000, "is longer than"), (b"#", "is empty"), (b"a: *b", "alias")],
)
def test_hostile_file_is_an_answer_like_others(body: bytes, said: str, ask: Any, model: RegisteredModel) -> None:
    answer = ask("bo", "policies/import/", body)
    assert answer.status_code == 422
    assert said in " ".join(answer.json()["fields"].values())


def test_dry_run_says_what_would_change_to_everybody_and_changes_nothing(
    ask: Any, cast: Cast, model: RegisteredModel
) -> None:
    policy_actions.save_policy(None, "", {"minimum_score": 90}, actor=cast.bo)
    answer = ask("dee", "policies/import/?model=textgen&dry_run=true", b"quality_thresholds: {minimum_score: 70}")
    assert answer.status_code == 200
    assert answer.json()["changes"] == [{"name": "minimum_score", "before": 90, "after": 70}]
    assert answer.json()["own_changes"] == [{"name": "minimum_score", "before": None, "after": 70}]
    assert (answer.json()["pipeline_changes"], answer.json()["changes_nothing"]) == ([], False)
    assert QAPolicy.objects.count() == 1


@pytest.mark.parametrize(("query", "field"), [("?dryrun=true", "dryrun"), ("?dry_run=perhaps", "dry_run")])
def test_misspelt_dry_run_changes_nothing(query: str, field: str, ask: Any) -> None:
    answer = ask("bo", f"policies/import/{query}", MISSION.read_bytes())
    assert (answer.status_code, list(answer.json()["fields"])) == (422, [field])
    assert not QAPolicy.objects.exists()


def test_import_takes_yaml_only(ask: Any) -> None:
    assert ask("bo", "policies/import/", {}).status_code == 415


def test_examination_is_asked_for_an_environment(ask: Any, cast: Cast, version: ModelVersion) -> None:
    policy_actions.save_policy(None, "production", {"minimum_score": 90}, actor=cast.bo)
    answer = ask("ana", f"versions/{version.pk}/examine/", {"environment": "production"}).json()
    assert (answer["environment"], answer["policy"]["minimum_score"]) == ("production", 90)
    assert answer["policy_sources"][0]["sets"] == ["minimum_score"]
    wrong = ask("ana", f"versions/{version.pk}/examine/", {"environment": "prod"})
    assert wrong.json()["fields"] == {"environment": "'prod': use one of staging, canary, production"}
