from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from deploypipe.core import tokens
from registry import actions
from registry.lifecycle import Stage
from registry.models import ModelVersion, QAResult, RegisteredModel
from registry.scoring import Status
from tests.conftest import Cast
from tests.registry.steps import examined, fresh

SHA = "a" * 64


@pytest.fixture
def ask(cast: Cast) -> Any:
    """ask(who, address) reads; with a body, or post=True, it posts. Answers with the status and the JSON."""
    keys: dict[str, str] = {}

    def asked(who: str, address: str, body: Any = None, *, post: bool = False, key: str = "") -> tuple[int, Any]:
        if who not in keys:
            keys[who] = tokens.issue(getattr(cast, who), name="test")
        headers = {"Authorization": f"Bearer {keys[who]}", **({"Idempotency-Key": key} if key else {})}
        client = Client(headers=headers)
        if body is None and not post:
            answer = client.get(f"/api/v1/{address}")
        else:
            answer = client.post(f"/api/v1/{address}", {} if body is None else body, content_type="application/json")
        return answer.status_code, answer.json()

    return asked


def test_model_is_created_and_read(ask: Any) -> None:
    status, said = ask("ana", "models/", {"name": "textgen", "description": "Words."})
    assert (status, said["name"], said["created_by"]) == (201, "textgen", "ana")
    assert ask("dee", "models/textgen/") == (200, said)
    assert ask("dee", "models/")[1]["results"] == [said]


@pytest.mark.parametrize(
    ("who", "body", "status", "code"),
    [
        ("ana", {"name": "Not Good"}, 422, "invalid"),
        ("ana", {"name": "x" * 41}, 422, "invalid"),
        ("ana", {}, 422, "invalid"),
        ("ana", {"name": "textgen"}, 409, "conflict"),
        ("dee", {"name": "other"}, 403, "forbidden"),
        ("eve", {"name": "other"}, 403, "forbidden"),
    ],
)
def test_model_that_cannot_be_created(
    who: str, body: Any, status: int, code: str, ask: Any, model: RegisteredModel
) -> None:
    found = ask(who, "models/", body)
    assert (found[0], found[1]["code"]) == (status, code)


def test_version_is_registered_and_read(ask: Any, model: RegisteredModel, artifact: Path) -> None:
    body = {
        "artifact_uri": artifact.as_uri(), "engine": "textgen", "git_commit": "0123abc", "tags": {"team": "search"},
        "parameters": {"order": 3}, "engine_arguments": ["--fault", "slow"],
    }  # fmt: skip
    status, said = ask("ana", "models/textgen/versions/", body)
    assert status == 201
    assert {name: said[name] for name in body} == body
    assert (said["model"], said["number"], said["stage"], said["registered_by"]) == ("textgen", 1, "registered", "ana")
    assert ask("dee", f"versions/{said['id']}/") == (200, said)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"artifact_uri": "/no/such/folder"}, "artifact_uri"),
        ({"artifact_uri": "x" * 1001}, "artifact_uri"),
        ({"engine": "abacus"}, "engine"),
        ({"git_commit": "main"}, "git_commit"),
        ({"manifest": None}, "manifest"),
        ({"manifest": [1]}, "manifest"),
        ({"manifest": {"files": [{"path": "../x", "size": 1, "sha256": SHA}]}}, "manifest"),
        ({"engine_arguments": "--x"}, "engine_arguments"),
        ({"engine_arguments": [{"a": 1}]}, "engine_arguments[0]"),
        ({"engine_arguments": ["--api-key=x"]}, "engine_arguments[0]"),
        ({"parameters": [1]}, "parameters"),
        ({"parameters": {"x": "\0"}}, "parameters.x"),
        ({"tags": {"k": ["x"]}}, "tags.k"),
        ({"tags": {"k" * 101: "x"}}, "tags." + "k" * 100),
        ({"stage": "approved"}, "stage"),
        ({"score": 100}, "score"),
    ],
)
def test_version_that_cannot_be_registered_names_the_field(
    wrong: dict[str, Any], field: str, ask: Any, model: RegisteredModel, artifact: Path
) -> None:
    body = {"artifact_uri": str(artifact), "engine": "textgen", **wrong}
    status, said = ask("ana", "models/textgen/versions/", body)
    assert (status, said["code"], set(said["fields"])) == (422, "invalid", {field})
    assert not ModelVersion.objects.exists()


def test_repeated_request_answers_with_the_first_version(ask: Any, model: RegisteredModel, artifact: Path) -> None:
    body = {"artifact_uri": str(artifact), "engine": "textgen"}
    first = ask("ana", "models/textgen/versions/", body, key="build-7")
    assert ask("ana", "models/textgen/versions/", body, key="build-7") == first
    status, said = ask("ana", "models/textgen/versions/", {**body, "engine": "vllm"}, key="build-7")
    assert (status, said["code"]) == (409, "conflict")
    assert ask("ana", "models/textgen/versions/", body, key="k" * 101)[0] == 422
    assert ask("ana", "models/textgen/versions/", body)[1]["number"] == 2


def test_list_is_narrowed_by_stage(ask: Any, version: ModelVersion) -> None:
    assert len(ask("dee", "models/textgen/versions/?stage=registered")[1]["results"]) == 1
    assert ask("dee", "models/textgen/versions/?stage=approved")[1]["results"] == []
    status, said = ask("dee", "models/textgen/versions/?stage=aproved")
    assert (status, set(said["fields"])) == (422, {"stage"})


def test_list_comes_in_pages_newest_first(ask: Any, version: ModelVersion, cast: Cast, artifact: Path) -> None:
    for _ in range(4):
        actions.register(version.model, actor=cast.ana, artifact_uri=str(artifact), engine="textgen")
    address, numbers = "models/textgen/versions/?limit=2", []
    while address:
        _, page = ask("dee", address)
        numbers.append([found["number"] for found in page["results"]])
        address = (page["next"] or "").partition("/api/v1/")[2]
    assert numbers == [[5, 4], [3, 2], [1]]


def test_page_is_never_longer_than_allowed(ask: Any, version: ModelVersion) -> None:
    for limit in ("0", "-1", "x", "100000"):
        assert ask("dee", f"models/?limit={limit}")[0] == 200


@pytest.mark.parametrize(("address", "most"), [("models/textgen/versions/", 8), ("models/", 6), ("audit/", 5)])
def test_length_of_a_list_does_not_change_its_number_of_queries(
    address: str, most: int, ask: Any, version: ModelVersion, cast: Cast, artifact: Path,
    django_assert_max_num_queries: Any,
) -> None:  # fmt: skip
    for number in range(12):
        actions.create_model(f"model-{number}", actor=cast.ana)
        actions.register(
            version.model, actor=cast.ana, artifact_uri=str(artifact), engine="textgen", tags={"n": str(number)}
        )
    ask("dee", address)
    with django_assert_max_num_queries(most):
        assert len(ask("dee", address)[1]["results"]) > 10


# --- Verbs ------------------------------------------------------------------------------------------------------------


def test_examination_is_asked_for_once(ask: Any, version: ModelVersion) -> None:
    status, said = ask("ana", f"versions/{version.pk}/examine/", post=True)
    assert (status, said["status"], said["digest"], said["results"]) == (202, "queued", version.digest, [])
    status, said = ask("ana", f"versions/{version.pk}/examine/", post=True)
    assert (status, said["code"]) == (409, "illegal_transition")
    assert ask("dee", f"versions/{version.pk}/examine/", post=True)[0] == 403


def test_report_shows_every_result(ask: Any, version: ModelVersion) -> None:
    status, said = ask("dee", f"versions/{version.pk}/report/")
    assert (status, said["message"]) == (404, "This version has not been examined yet.")
    run = examined(version)
    QAResult.objects.create(
        run=run, name="security.key", label="Key", category="security", status=Status.PASSED, evidence={"a": [1]}
    )
    status, said = ask("dee", f"versions/{version.pk}/report/")
    assert (status, said["id"], said["score"]) == (200, run.pk, 97.0)
    assert said["results"][0]["evidence"] == {"a": [1]}


def test_approval_by_the_api(ask: Any, version: ModelVersion) -> None:
    run = examined(version)
    address = f"versions/{version.pk}/approve/"
    assert ask("ana", address, {})[1]["code"] == "forbidden"
    assert ask("bo", address, {"seen_run": run.pk + 1})[1]["code"] == "conflict"
    assert set(ask("bo", address, {"override": "perhaps", "seen_run": "x"})[1]["fields"]) == {"override", "seen_run"}
    assert set(ask("bo", address, {"note": "x" * 5001})[1]["fields"]) == {"note"}
    status, said = ask("bo", address, {"note": "Right.", "seen_run": run.pk})
    assert (status, said["decision"], said["by"], said["digest"]) == (201, "approve", "bo", version.digest)
    assert ask("bo", address, {})[0] == 409


def test_four_eyes_by_the_api(ask: Any, version: ModelVersion, cast: Cast) -> None:
    examined(version)
    cast.ana.groups.add(cast.bo.groups.get())
    status, said = ask("ana", f"versions/{version.pk}/approve/", {})
    assert (status, said["code"]) == (403, "four_eyes")


def test_override_by_the_api(ask: Any, version: ModelVersion) -> None:
    examined(version, 70)
    status, said = ask("bo", f"versions/{version.pk}/approve/", {"note": "Needed."})
    assert (status, set(said["fields"])) == (422, {"override", "note"})
    status, said = ask("bo", f"versions/{version.pk}/approve/", {"note": "Needed.", "override": True})
    assert (status, said["override"]) == (201, True)


def test_refusal_by_the_api(ask: Any, version: ModelVersion) -> None:
    examined(version)
    assert set(ask("bo", f"versions/{version.pk}/refuse/", {})[1]["fields"]) == {"note"}
    assert ask("bo", f"versions/{version.pk}/refuse/", {"note": "Rude."})[0] == 201
    assert fresh(version).stage == Stage.REFUSED


def test_approval_is_taken_back_by_the_api_so_that_it_can_be_examined_for_elsewhere(
    ask: Any, version: ModelVersion
) -> None:
    examined(version)
    assert ask("bo", f"versions/{version.pk}/suspend/", {"reason": "x"})[1]["code"] == "illegal_transition"
    ask("bo", f"versions/{version.pk}/approve/", {})
    assert ask("ana", f"versions/{version.pk}/suspend/", {"reason": "x"})[0] == 403
    assert set(ask("bo", f"versions/{version.pk}/suspend/", {"reason": " "})[1]["fields"]) == {"reason"}
    assert set(ask("bo", f"versions/{version.pk}/suspend/", {"note": "x"})[1]["fields"]) == {"note"}
    assert ask("ana", f"versions/{version.pk}/examine/", {"environment": "production"})[0] == 409
    status, said = ask("bo", f"versions/{version.pk}/suspend/", {"reason": "For production."})
    assert (status, said["stage"], said["id"]) == (200, "suspended", version.pk)
    assert ask("ana", f"versions/{version.pk}/examine/", {"environment": "production"})[0] == 202


def test_version_is_retired_by_the_api(ask: Any, version: ModelVersion) -> None:
    assert ask("bo", f"versions/{version.pk}/retire/", {})[0] == 403
    status, said = ask("cy", f"versions/{version.pk}/retire/", {"reason": "Old."})
    assert (status, said["stage"]) == (200, "retired")
    assert ask("cy", f"versions/{version.pk}/retire/", {})[0] == 409


def test_tag_is_set_by_the_api_and_the_others_stay(ask: Any, version: ModelVersion, cast: Cast) -> None:
    actions.tag(version, "team", "search", actor=cast.ana)
    address = f"versions/{version.pk}/tags/"
    assert ask("ana", address, {"key": "tier", "value": "gold"})[1]["tags"] == {"team": "search", "tier": "gold"}
    assert ask("ana", address, {"key": "team"})[1]["tags"] == {"team": "", "tier": "gold"}
    assert ask("bo", address, {"key": "team"})[0] == 403
    for wrong in ({}, {"key": " "}, {"key": "k" * 101}, {"key": "k", "value": "v" * 501}, {"team": "x"}):
        assert ask("ana", address, wrong)[0] == 422


def test_verb_on_nothing_is_404(ask: Any) -> None:
    for verb in ("examine", "approve", "refuse", "suspend", "retire", "tags"):
        assert ask("bo", f"versions/999/{verb}/", post=True)[0] == 404


def test_audit_is_read_and_narrowed(ask: Any, version: ModelVersion) -> None:
    entries = ask("dee", "audit/?actor=ana&verb=version.registered")[1]["results"]
    assert [(entry["object_type"], entry["object_label"]) for entry in entries] == [
        ("registry.modelversion", "textgen v1")
    ]
    assert ask("dee", "audit/?actor=nobody")[1]["results"] == []
    assert ask("dee", f"audit/?object_type=registry.modelversion&object_id={version.pk}")[1]["results"] == entries
    assert ask("eve", "audit/")[0] == 403


def test_no_answer_holds_a_secret(ask: Any, version: ModelVersion) -> None:
    examined(version)
    addresses = ["models/", "models/textgen/versions/", f"versions/{version.pk}/", f"versions/{version.pk}/report/"]
    for address in [*addresses, "audit/", "environments/", "strategies/", "rollouts/", "experiments/"]:
        status, said = ask("dee", address)
        assert status == 200
        assert settings.ENGINE_API_KEY not in str(said)
        assert settings.SECRET_KEY not in str(said)
