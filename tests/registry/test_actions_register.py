from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection

from deploypipe.core import roles
from deploypipe.core.errors import Conflict, Forbidden, Invalid
from deploypipe.core.models import AuditEntry
from registry import actions, artifacts
from registry.models import ModelVersion, RegisteredModel
from tests.conftest import Cast

SHA = "a" * 64


@pytest.mark.parametrize("name", ["a", "7", "textgen-2", "x" * 40])
def test_model_is_created(name: str, cast: Cast) -> None:
    model = actions.create_model(name, actor=cast.ana, description="Words.")
    assert (model.name, model.created_by, model.description) == (name, cast.ana, "Words.")
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.verb, entry.object_label) == ("ana", "model.created", name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "a b", "x" * 41, "ü", "a\n", "../etc"])
def test_name_that_cannot_stand_in_an_address_is_refused(name: str, cast: Cast) -> None:
    with pytest.raises(Invalid) as refused:
        actions.create_model(name, actor=cast.ana)
    assert set(refused.value.fields) == {"name"}


def test_name_is_given_once(model: RegisteredModel, cast: Cast) -> None:
    with pytest.raises(Conflict, match="'textgen'"):
        actions.create_model("textgen", actor=cast.ana)
    assert AuditEntry.objects.count() == 1


@pytest.mark.parametrize("name", ["bo", "cy", "dee", "eve"])
def test_only_engineers_create_and_register(name: str, model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    actor = getattr(cast, name)
    with pytest.raises(Forbidden):
        actions.create_model("other", actor=actor)
    with pytest.raises(Forbidden):
        actions.register(model, actor=actor, artifact_uri=str(artifact), engine="textgen")


def test_version_holds_the_bytes_as_they_are_now(model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    version = actions.register(model, actor=cast.ana, artifact_uri=artifact.as_uri(), engine="textgen")
    assert (str(version), version.stage) == ("textgen v1", "registered")
    assert version.manifest == artifacts.build(artifact).to_json()
    assert version.digest == artifacts.build(artifact).digest
    assert artifacts.verify(artifact, artifacts.parse(version.manifest)) == []
    entry = AuditEntry.objects.first()
    assert entry
    assert (entry.verb, entry.after) == (
        "version.registered",
        {"digest": version.digest, "artifact": artifact.as_uri()},
    )


def test_everything_that_was_said_is_kept(model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    said: dict[str, Any] = {
        "engine_arguments": ["--fault", "slow"],
        "git_commit": "0123abc",
        "parameters": {"order": 3, "lr": 1e22, "deep": {"x": [None]}},
        "description": "Trigrams.",
    }
    version = actions.register(
        model, actor=cast.ana, artifact_uri=str(artifact), engine="textgen", tags={"team": "search"}, **said
    )
    kept = ModelVersion.objects.get(pk=version.pk)
    assert {name: getattr(kept, name) for name in said} == said
    assert [(tag.key, tag.value) for tag in kept.tags.all()] == [("team", "search")]


def test_given_manifest_is_believed_and_the_bytes_need_not_be_here(model: RegisteredModel, cast: Cast) -> None:
    manifest = {"files": [{"path": "model.bin", "size": 7, "sha256": SHA}]}
    version = actions.register(model, actor=cast.ana, artifact_uri="/elsewhere", engine="vllm", manifest=manifest)
    assert version.digest == artifacts.parse(manifest).digest


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        [],
        "text",
        7,
        {"files": []},
        {"files": [{"path": "a", "size": 1}]},
        {"files": [{"path": "../a", "size": 1, "sha256": SHA}]},
        {"files": [{"path": "/a", "size": 1, "sha256": SHA}]},
        {"files": [{"path": "./a", "size": 1, "sha256": SHA}]},
        {"files": [{"path": "a//b", "size": 1, "sha256": SHA}]},
        {"files": [{"path": ".", "size": 1, "sha256": SHA}]},
        {"files": [{"path": "\udc80", "size": 1, "sha256": SHA}]},
        {"files": [{"path": "a", "size": -1, "sha256": SHA}]},
        {"files": [{"path": "a", "size": 1, "sha256": "A" * 64}]},
        {"files": [{"path": "a", "size": 1, "sha256": SHA}, {"path": "a", "size": 1, "sha256": SHA}]},
    ],
)
def test_bad_manifest_is_refused(manifest: Any, model: RegisteredModel, cast: Cast) -> None:
    with pytest.raises(Invalid) as refused:
        actions.register(model, actor=cast.ana, artifact_uri="/elsewhere", engine="vllm", manifest=manifest)
    assert set(refused.value.fields) == {"manifest"}
    assert not ModelVersion.objects.exists()


@pytest.mark.parametrize(
    "uri", ["", "relative", "s3://bucket/x", "file://host/x", "/no/such/folder", "/dev/null", "a\0b"]
)
def test_artifact_that_is_not_there_is_refused(uri: str, model: RegisteredModel, cast: Cast) -> None:
    with pytest.raises(Invalid) as refused:
        actions.register(model, actor=cast.ana, artifact_uri=uri, engine="textgen")
    assert set(refused.value.fields) == {"artifact_uri"}


def test_file_whose_name_cannot_be_kept_is_refused(model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    (artifact / "name-\udcff").touch()
    with pytest.raises(Invalid, match="cannot be registered"):
        actions.register(model, actor=cast.ana, artifact_uri=str(artifact), engine="textgen")


def test_unknown_engine_is_refused_with_the_known_ones(model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    with pytest.raises(Invalid) as refused:
        actions.register(model, actor=cast.ana, artifact_uri=str(artifact), engine="abacus")
    assert "textgen" in refused.value.fields["engine"]


@pytest.mark.parametrize("argument", ["--api-key", "--api-key=secret", "--host=0.0.0.0", "--port"])
def test_arguments_that_are_ours_are_refused(argument: str, model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    with pytest.raises(Invalid) as refused:
        actions.register(
            model, actor=cast.ana, artifact_uri=str(artifact), engine="textgen", engine_arguments=["--x", argument]
        )
    assert set(refused.value.fields) == {"engine_arguments[1]"}
    assert "secret" not in str(refused.value.fields)


@pytest.mark.parametrize("tags", [{"": "x"}, {" ": "x"}, {"k" * 101: "x"}, {"k": "x" * 501}])
def test_tag_that_cannot_be_kept_is_refused(
    tags: dict[str, str], version: ModelVersion, cast: Cast, artifact: Path
) -> None:
    with pytest.raises(Invalid):
        actions.register(version.model, actor=cast.ana, artifact_uri=str(artifact), engine="textgen", tags=tags)
    [(key, value)] = tags.items()
    with pytest.raises(Invalid):
        actions.tag(version, key, value, actor=cast.ana)


# --- The same request twice -------------------------------------------------------------------------------------------


def again(model: RegisteredModel, actor: User, artifact: Path, **other: Any) -> ModelVersion:
    said = {"artifact_uri": str(artifact), "engine": "textgen", "request_key": "build-7", "parameters": {"order": 3}}
    return actions.register(model, actor=actor, **{**said, **other})


def test_same_request_twice_registers_one_version(model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    first = again(model, cast.ana, artifact)
    assert again(model, cast.ana, artifact) == first
    assert model.versions.count() == 1
    assert AuditEntry.objects.filter(verb="version.registered").count() == 1


def test_same_request_is_known_after_the_folder_has_changed(model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    first = again(model, cast.ana, artifact)
    (artifact / "model.json").unlink()
    assert again(model, cast.ana, artifact) == first


@pytest.mark.parametrize(
    "other",
    [
        {"artifact_uri": "/elsewhere"},
        {"engine": "vllm"},
        {"engine_arguments": ["--x"]},
        {"parameters": {"order": 4}},
        {"git_commit": "abcdef0"},
        {"manifest": {"files": [{"path": "a", "size": 1, "sha256": SHA}]}},
    ],
)
def test_key_of_another_request_is_a_conflict(
    other: dict[str, Any], model: RegisteredModel, cast: Cast, artifact: Path
) -> None:
    again(model, cast.ana, artifact)
    with pytest.raises(Conflict, match="textgen v1"):
        again(model, cast.ana, artifact, **other)
    assert model.versions.count() == 1


def test_key_counts_for_its_model_only(model: RegisteredModel, cast: Cast, artifact: Path) -> None:
    other = actions.create_model("other", actor=cast.ana)
    assert again(model, cast.ana, artifact).model != again(other, cast.ana, artifact).model


# --- At once ----------------------------------------------------------------------------------------------------------


def at_once(count: int, do: Any) -> list[Any]:
    """What each of so many threads got back, or the error."""
    begin, answers = threading.Barrier(count), list[Any]()

    def one(number: int) -> None:
        begin.wait()
        try:
            answers.append(do(number))
        except Exception as error:
            answers.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.fixture
def engineer(transactional_db: None) -> User:
    user = User.objects.create_user("ana")
    user.groups.add(Group.objects.get_or_create(name=roles.ENGINEER)[0])
    return user


def test_registrations_at_once_get_numbers_without_gap(engineer: User, artifact: Path) -> None:
    model = actions.create_model("textgen", actor=engineer)
    found = at_once(
        6, lambda n: actions.register(model, actor=engineer, artifact_uri=str(artifact), engine="textgen").number
    )
    assert sorted(found) == [1, 2, 3, 4, 5, 6]


def test_same_request_at_once_registers_one_version(engineer: User, artifact: Path) -> None:
    model = actions.create_model("textgen", actor=engineer)
    assert set(at_once(4, lambda n: again(model, engineer, artifact).number)) == {1}


def test_model_created_at_once_is_created_once(engineer: User) -> None:
    found = at_once(4, lambda n: actions.create_model("textgen", actor=engineer))
    assert sum(isinstance(answer, Conflict) for answer in found) == 3
    assert RegisteredModel.objects.count() == 1
