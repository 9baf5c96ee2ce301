"""The admin is for reading: rows that are evidence cannot be added, changed or deleted there."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client

from deploypipe.core.admin import ReadOnly
from registry.models import ModelVersion

PAGES = sorted(f"{model._meta.app_label}/{model._meta.model_name}" for model in admin.site._registry)


@pytest.fixture
def root(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.mark.parametrize("page", PAGES)
def test_every_list_opens(root: Client, page: str) -> None:
    assert root.get(f"/admin/{page}/").status_code == 200


def test_a_version_is_shown_and_has_no_way_to_be_changed(root: Client, version: ModelVersion) -> None:
    address = f"/admin/registry/modelversion/{version.pk}/change/"
    page = root.get(address)
    assert page.status_code == 200
    assert b'name="_save"' not in page.content
    assert root.post(address, {"stage": "approved"}).status_code == 403
    assert root.post(f"/admin/registry/modelversion/{version.pk}/delete/", {"post": "yes"}).status_code == 403


def test_everything_of_the_product_is_read_only_there() -> None:
    ours = {
        type(page).__name__: page
        for model, page in admin.site._registry.items()
        if model._meta.app_label in ("registry", "rollouts", "abtests")
    }
    assert len(ours) >= 10
    assert [name for name, page in ours.items() if not isinstance(page, ReadOnly)] == []
