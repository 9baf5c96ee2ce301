from __future__ import annotations

import pytest

from deploypipe.core import views
from deploypipe.core.models import AuditEntry
from tests.web.conftest import SignedIn, World

AUDIT = "/audit/"


def test_newest_entry_is_first(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(AUDIT).content.decode()
    assert html.index("experiment.requested</td>") < html.index("model.created</td>")


def test_entries_are_narrowed_by_person_verb_and_object(world: World, signed_in: SignedIn) -> None:
    client = signed_in("dee")
    assert client.get(AUDIT, {"actor": "bo"}).content.decode().count("version.approved</td>") == 2
    assert "version.approved</td>" not in client.get(AUDIT, {"verb": "model.created"}).content.decode()
    found = client.get(AUDIT, {"object": "textgen v3"}).content.decode()
    assert "version.registered</td>" in found
    assert "rollout.requested</td>" not in found
    assert "No entry matches" in client.get(AUDIT, {"object": "nothing"}).content.decode()


def test_chain_is_verified_on_request(world: World, signed_in: SignedIn) -> None:
    client = signed_in("dee")
    assert "The chain is whole." in client.get(AUDIT, {"verify": "1"}).content.decode()
    AuditEntry.objects.filter(sequence=2).update(actor="mallory")
    html = client.get(AUDIT, {"verify": "1"}).content.decode()
    assert "Entry 2 was changed after it was written." in html


def test_long_chain_is_left_to_the_command(world: World, signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "VERIFY_MOST", 3)
    assert "manage.py verify_audit" in signed_in("dee").get(AUDIT, {"verify": "1"}).content.decode()


def test_many_entries_are_paged(world: World, signed_in: SignedIn) -> None:
    AuditEntry.objects.bulk_create(
        AuditEntry(sequence=n, at="2026-01-01T00:00:00Z", actor="ana", verb="version.tagged", object_type="x",
                   object_id="1", object_label="x", previous_hash="0", hash="0")
        for n in range(1000, 1060)
    )  # fmt: skip
    assert "Page 1 of 2" in signed_in("dee").get(AUDIT).content.decode()
