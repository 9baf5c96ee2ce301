"""The chain: whatever was recorded verifies, and whatever is done to it afterwards is found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deploypipe.core import audit
from deploypipe.core.models import AuditEntry, AuditHead
from tests.conftest import Cast


def record(actor: User | None = None, **more: Any) -> AuditEntry:
    subject = User(pk=1, username="something")
    with transaction.atomic():
        return audit.record(actor, "thing.changed", subject, **more)


@pytest.fixture
def chain(db: None) -> list[AuditEntry]:
    return [record(after={"number": number}, reason=f"Number {number}.") for number in range(1, 5)]


def found() -> list[str]:
    return [fault.sentence for fault in audit.verify()]


def sql(statement: str, *values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


@pytest.mark.django_db
def test_empty_chain_is_whole() -> None:
    assert found() == []


def test_entries_are_numbered_and_linked(chain: list[AuditEntry]) -> None:
    assert [entry.sequence for entry in chain] == [1, 2, 3, 4]
    assert [entry.previous_hash for entry in chain] == [audit.START, *(entry.hash for entry in chain[:-1])]
    assert found() == []


def test_entry_says_who_what_and_why(cast: Cast) -> None:
    with transaction.atomic():
        entry = audit.record(cast.bo, "user.greeted", cast.ana, before={"a": 1}, after={"a": 2}, reason="Politeness.")
    kept = AuditEntry.objects.get(pk=entry.pk)
    assert (kept.actor, kept.verb, kept.object_type, kept.object_id) == (
        "bo",
        "user.greeted",
        "auth.user",
        str(cast.ana.pk),
    )
    assert (kept.object_label, kept.before, kept.after, kept.reason) == ("ana", {"a": 1}, {"a": 2}, "Politeness.")


def test_where_nobody_decided_the_product_did(chain: list[AuditEntry]) -> None:
    assert {entry.actor for entry in chain} == {audit.SYSTEM}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "mallory"),
        ("verb", "thing.kept"),
        ("object_type", "auth.group"),
        ("object_id", "7"),
        ("object_label", "another"),
        ("before", '{"number": 9}'),
        ("after", '{"number": 9}'),
        ("reason", "Number 9."),
        ("at", datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_changed_entry_is_found(chain: list[AuditEntry], column: str, value: Any) -> None:
    sql(f"UPDATE core_auditentry SET {column} = %s WHERE sequence = 2", value)  # noqa: S608
    assert found() == ["Entry 2 was changed after it was written."]


def test_changed_entry_with_its_hash_made_right_is_found_by_the_next(chain: list[AuditEntry]) -> None:
    sql("UPDATE core_auditentry SET reason = 'Nothing.' WHERE sequence = 2")
    sql("UPDATE core_auditentry SET hash = %s WHERE sequence = 2", audit.digest(AuditEntry.objects.get(sequence=2)))
    assert found() == ["Entry 3 does not continue the entry before it."]


def test_last_entry_changed_with_its_hash_made_right_is_found_by_the_head(chain: list[AuditEntry]) -> None:
    sql("UPDATE core_auditentry SET reason = 'Nothing.' WHERE sequence = 4")
    sql("UPDATE core_auditentry SET hash = %s WHERE sequence = 4", audit.digest(AuditEntry.objects.get(sequence=4)))
    assert found() == ["The last entry is not the one that was written last."]


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        ([1], "Entry 1 is missing."),
        ([2], "Entry 2 is missing."),
        ([2, 3], "Entry 2 to 3 is missing."),
        ([4], "The chain ends at 3 but 4 were written."),
        ([3, 4], "The chain ends at 2 but 4 were written."),
        ([1, 2, 3, 4], "The chain ends at 0 but 4 were written."),
    ],
)
def test_removed_entry_is_found(chain: list[AuditEntry], removed: list[int], sentence: str) -> None:
    for sequence in removed:
        sql("DELETE FROM core_auditentry WHERE sequence = %s", sequence)
    assert found() == [sentence]


def test_chain_that_was_cut_off_with_its_head_set_back_and_its_end_moved_is_found(chain: list[AuditEntry]) -> None:
    sql("DELETE FROM core_auditentry WHERE sequence = 4")
    sql("UPDATE core_audithead SET sequence = 3")
    assert found() == ["The last entry is not the one that was written last."]


def test_missing_head_is_found(chain: list[AuditEntry]) -> None:
    sql("DELETE FROM core_audithead")
    assert found() == ["The end of the chain is not recorded any more."]


def test_reordered_entries_are_found(chain: list[AuditEntry]) -> None:
    sql("UPDATE core_auditentry SET sequence = 99 WHERE sequence = 2")
    sql("UPDATE core_auditentry SET sequence = 2 WHERE sequence = 3")
    sql("UPDATE core_auditentry SET sequence = 3 WHERE sequence = 99")
    sentences = found()
    assert "Entry 2 was changed after it was written." in sentences
    assert "Entry 3 was changed after it was written." in sentences


def test_entry_that_was_slipped_in_at_the_end_is_found(chain: list[AuditEntry]) -> None:
    forged = AuditEntry.objects.get(sequence=4)
    forged.pk, forged.sequence, forged.previous_hash = None, 5, forged.hash
    forged.hash = audit.digest(forged)
    forged.save(force_insert=True)
    assert found() == ["The chain ends at 5 but 4 were written."]


@pytest.mark.django_db(transaction=True)
def test_recording_outside_of_a_transaction_is_refused() -> None:
    with pytest.raises(RuntimeError, match="outside of a transaction"):
        audit.record(None, "thing.changed", User(pk=1, username="something"))
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_entry_goes_with_the_change_that_is_rolled_back() -> None:
    record()
    with transaction.atomic():
        audit.record(None, "thing.changed", User(pk=1, username="something"))
        transaction.set_rollback(True)
    record()
    assert list(AuditEntry.objects.order_by("sequence").values_list("sequence", flat=True)) == [1, 2]
    assert found() == []


@pytest.mark.django_db(transaction=True)
def test_writers_at_once_give_one_chain_without_gaps() -> None:
    writers, each = 4, 12
    begin, faults = threading.Barrier(writers), list[Exception]()

    def write(writer: int) -> None:
        begin.wait()
        try:
            for number in range(each):
                record(after={"writer": writer, "number": number})
        except Exception as error:
            faults.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert found() == []  # a chain that is growing is whole at every moment
    for thread in threads:
        thread.join()
    assert faults == []
    assert AuditEntry.objects.count() == AuditHead.objects.get().sequence == writers * each
    assert found() == []


@pytest.mark.parametrize(
    "value",
    [
        0.1 + 0.2,
        1e22,
        1e-300,
        -0.0,
        float("inf"),
        float("nan"),
        10**60,
        None,
        True,
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "\0 🙂 é \ud800 \u2028",
        {2: "b", 10: "a", "z": {"y": [1, (2, 3), {4}]}},
        object,
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_value_of_any_kind_still_verifies_after_reading_it_back(db: None, value: Any) -> None:
    record(before={"value": value}, after={"list": [value]}, reason=f"It was {value}.")
    assert found() == []


@given(st.dictionaries(st.text(), st.floats() | st.integers() | st.text() | st.none(), max_size=4), st.text())
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_recorded_verifies(db: None, after: dict[str, Any], reason: str) -> None:
    record(after=after, reason=reason)
    assert found() == []


def test_moment_on_the_full_second_verifies(db: None) -> None:
    entry = record()
    sql("DELETE FROM core_auditentry")
    entry.pk, entry.at = None, entry.at.replace(microsecond=0)
    entry.hash = audit.digest(entry)
    entry.save(force_insert=True)
    AuditHead.objects.update(hash=entry.hash)
    assert found() == []


def test_secrets_are_not_kept(db: None, settings: Any) -> None:
    secret = settings.ENGINE_API_KEY
    entry = record(
        before={"log": [f"--key {secret}"]}, after={secret: secret}, reason=f"Ended: key={secret} was wrong."
    )
    kept = AuditEntry.objects.get(pk=entry.pk)
    assert secret not in f"{kept.before}{kept.after}{kept.reason}"
    assert kept.reason == "Ended: key=••• was wrong."
    assert found() == []


def test_command_says_that_the_chain_is_whole(chain: list[AuditEntry]) -> None:
    said = StringIO()
    call_command("verify_audit", stdout=said)
    assert said.getvalue() == f"The audit chain is whole: 4 entries, the last is {chain[-1].hash}.\n"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda: sql("UPDATE core_auditentry SET actor = 'x' WHERE sequence = 2"), "Entry 2 was changed"),
        (lambda: sql("DELETE FROM core_auditentry WHERE sequence = 3"), "Entry 3 is missing"),
    ],
)
def test_command_fails_and_names_each_fault(chain: list[AuditEntry], damage: Callable[[], None], sentence: str) -> None:
    damage()
    said = StringIO()
    with pytest.raises(CommandError) as failed:
        call_command("verify_audit", stderr=said)
    assert failed.value.returncode == 1
    assert sentence in said.getvalue()


def test_command_finds_that_an_earlier_end_is_gone(chain: list[AuditEntry]) -> None:
    """Who keeps the hash elsewhere finds even a chain that was written anew from the start."""
    call_command("verify_audit", contains=chain[2].hash, stdout=StringIO())
    with pytest.raises(CommandError, match="No entry has the hash"):
        call_command("verify_audit", contains="f" * 64, stdout=StringIO(), stderr=StringIO())
