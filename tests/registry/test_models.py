from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin import site
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import RequestFactory

from deploypipe.core.errors import ConcurrentChange, IllegalTransition
from registry import actions
from registry.admin import ApprovalAdmin, ModelVersionAdmin, QAResultAdmin, QARunAdmin, RegisteredModelAdmin
from registry.lifecycle import Stage
from registry.models import (
    Approval,
    Immutable,
    ModelVersion,
    QAResult,
    QARun,
    RegisteredModel,
)
from tests.conftest import Cast
from tests.registry.steps import fresh


@pytest.mark.parametrize("changes", [{"digest": "0" * 64}, {"artifact_uri": "/other"}, {}])
def test_registered_version_cannot_be_saved_again(changes: dict[str, str], version: ModelVersion) -> None:
    for name, value in changes.items():
        setattr(version, name, value)
    with pytest.raises(Immutable, match="register the next version instead"):
        version.save()
    with pytest.raises(Immutable):
        version.save(update_fields=["description"])
    assert fresh(version).artifact_uri.startswith("file:")


def test_version_that_was_read_cannot_be_saved_either(version: ModelVersion) -> None:
    with pytest.raises(Immutable):
        fresh(version).save()


def test_number_and_request_key_are_given_once(version: ModelVersion) -> None:
    values: dict[str, Any] = {
        "model": version.model, "manifest": {}, "digest": "", "engine": "x", "registered_by": version.registered_by,
        "artifact_uri": "/x",
    }  # fmt: skip
    ModelVersion.objects.create(number=2, request_key="k", **values)
    for wrong in ({"number": 2}, {"number": 3, "request_key": "k"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            ModelVersion.objects.create(**wrong, **values)


def test_stage_is_one_of_the_table(version: ModelVersion) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelVersion.objects.filter(pk=version.pk).update(stage="great")


def test_second_active_examination_is_refused_by_the_database(version: ModelVersion) -> None:
    QARun.objects.create(version=version, digest=version.digest, policy={})
    with pytest.raises(IntegrityError), transaction.atomic():
        QARun.objects.create(version=version, digest=version.digest, policy={})


def test_advance_moves_the_row_and_the_object(version: ModelVersion) -> None:
    version.advance("examine")
    assert version.stage == fresh(version).stage == Stage.EXAMINING


def test_advance_refuses_what_the_table_does_not_have(version: ModelVersion) -> None:
    with pytest.raises(IllegalTransition, match="it cannot approve now"):
        version.advance("approve")
    assert fresh(version).stage == Stage.REGISTERED


def test_of_two_that_advance_the_same_row_the_second_is_refused(version: ModelVersion) -> None:
    first, second = fresh(version), fresh(version)
    first.advance("examine")
    with pytest.raises(ConcurrentChange, match="Look again"):
        second.advance("retire")
    assert second.stage == Stage.REGISTERED
    assert fresh(version).stage == Stage.EXAMINING


def test_same_stage_reached_anew_counts_as_a_change(version: ModelVersion) -> None:
    seen = fresh(version)
    version.advance("examine")
    version.advance("give_up")
    with pytest.raises(ConcurrentChange):
        seen.advance("examine")


def test_condition_that_does_not_hold_stops_the_advance(version: ModelVersion) -> None:
    with pytest.raises(ConcurrentChange):
        version.advance("examine", where={"digest": "another"})


def test_only_approved_versions_are_deployable(version: ModelVersion) -> None:
    assert not ModelVersion.objects.deployable()
    ModelVersion.objects.filter(pk=version.pk).update(stage=Stage.APPROVED)
    assert list(ModelVersion.objects.deployable()) == [version]


@pytest.mark.parametrize(
    ("band", "watched"), [("excellent", False), ("good", True), ("caution", True), ("", False), ("poor", False)]
)
def test_version_that_is_not_excellent_must_be_watched(band: str, watched: bool) -> None:
    assert ModelVersion(band=band).must_be_watched is watched


def test_model_with_versions_cannot_be_deleted(version: ModelVersion) -> None:
    with pytest.raises(Exception, match="protected"):
        version.model.delete()


def test_name_is_checked_by_forms_too() -> None:
    with pytest.raises(ValidationError):
        RegisteredModel(name="Not Good").clean_fields(exclude=["created_by"])


@pytest.mark.parametrize(
    ("admin", "model"),
    [
        (RegisteredModelAdmin, RegisteredModel),
        (ModelVersionAdmin, ModelVersion),
        (QARunAdmin, QARun),
        (QAResultAdmin, QAResult),
        (ApprovalAdmin, Approval),
    ],
)
def test_admin_only_shows(admin: Any, model: Any, rf: RequestFactory, cast: Cast) -> None:

    request = rf.get("/")
    request.user = cast.ana
    cast.ana.is_superuser = cast.ana.is_staff = True
    page = admin(model, site)
    assert not page.has_add_permission(request)
    assert not page.has_change_permission(request)
    assert not page.has_delete_permission(request)
    assert page.has_view_permission(request)


def test_tag_is_set_and_changed(version: ModelVersion, cast: Cast) -> None:
    actions.tag(version, "team", "search", actor=cast.ana)
    actions.tag(version, "team", "ranking", actor=cast.ana)
    assert [str(tag) for tag in version.tags.all()] == ["team=ranking"]
