from __future__ import annotations

from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from deploypipe.core import tokens
from deploypipe.core.errors import Invalid
from deploypipe.core.models import ApiToken, AuditEntry
from tests.conftest import Cast


def ask(authorization: str) -> tuple[int, dict[str, object]]:
    answer = Client().get("/api/v1/models/", headers={"Authorization": authorization} if authorization else {})
    return answer.status_code, answer.json()


def test_program_signs_in_with_its_token(cast: Cast) -> None:
    key = tokens.issue(cast.dee, name="nightly build")
    assert ask(f"Bearer {key}")[0] == 200
    assert ask(f"bearer   {key} ")[0] == 200


def test_only_a_digest_is_kept(cast: Cast) -> None:
    key = tokens.issue(cast.dee, name="nightly build")
    kept = ApiToken.objects.values().get()
    assert key.startswith("dp_")
    assert all(key not in str(value) and key[3:] not in str(value) for value in kept.values())


def test_issuing_is_recorded_without_the_key(cast: Cast) -> None:
    key = tokens.issue(cast.dee, name="nightly build")
    entry = AuditEntry.objects.get(verb="token.issued")
    assert entry.after == {"user": "dee", "name": "nightly build"}
    assert key not in str(AuditEntry.objects.values())


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Bearer dp_", "Bearer", "Bearer ", "Bearer ü", "Bearer a b"])
def test_wrong_token_is_refused_in_the_shape_of_errors(authorization: str, db: None) -> None:
    status, said = ask(authorization)
    assert status == 401
    assert said["code"] == "authentication_failed"
    assert str(said["message"]).startswith("The access token is not known.")
    assert said["fields"] == {}


def test_without_a_token_the_answer_says_how_to_sign_in(db: None) -> None:
    answer = Client().get("/api/v1/models/")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.json()["code"] == "not_authenticated"


def test_token_that_was_taken_away_is_refused(cast: Cast) -> None:
    key = tokens.issue(cast.dee, name="nightly build")
    ApiToken.objects.all().delete()
    assert ask(f"Bearer {key}")[0] == 401


def test_token_of_an_account_that_was_switched_off_is_refused(cast: Cast) -> None:
    key = tokens.issue(cast.dee, name="nightly build")
    User.objects.filter(pk=cast.dee.pk).update(is_active=False)
    assert ask(f"Bearer {key}") == (401, ask("Bearer wrong")[1])


def test_token_of_somebody_without_a_role_may_not_look(cast: Cast) -> None:
    status, said = ask(f"Bearer {tokens.issue(cast.eve, name='x')}")
    assert (status, said["code"]) == (403, "forbidden")


@pytest.mark.parametrize("name", ["", "  ", "x" * 101])
def test_token_needs_a_name(name: str, cast: Cast) -> None:
    with pytest.raises(Invalid):
        tokens.issue(cast.dee, name=name)
    assert not ApiToken.objects.exists()


def test_account_that_was_switched_off_gets_no_token(cast: Cast) -> None:
    cast.dee.is_active = False
    with pytest.raises(Invalid):
        tokens.issue(cast.dee, name="x")


def test_command_prints_the_token_once(cast: Cast) -> None:
    said = StringIO()
    call_command("issue_token", "dee", name="build", stdout=said)
    assert ask(f"Bearer {said.getvalue().strip()}")[0] == 200
    assert ApiToken.objects.get().name == "build"


@pytest.mark.parametrize(
    ("user", "name", "sentence"), [("nobody", "x", "no user 'nobody'"), ("dee", "", "needs a name")]
)
def test_command_says_what_is_wrong(user: str, name: str, sentence: str, cast: Cast) -> None:
    with pytest.raises(CommandError, match=sentence):
        call_command("issue_token", user, name=name)
