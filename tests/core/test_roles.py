from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser, User

from deploypipe.core import roles
from deploypipe.core.errors import Forbidden
from tests.conftest import Cast

ENGINEER, APPROVER, OPERATOR, VIEWER = "ana", "bo", "cy", "dee"
MAY = {
    "view": {ENGINEER, APPROVER, OPERATOR, VIEWER},
    "registry.register": {ENGINEER},
    "registry.examine": {ENGINEER, APPROVER, OPERATOR},
    "registry.approve": {APPROVER},
    "registry.set_policy": {APPROVER},
    "registry.retire": {ENGINEER, OPERATOR},
    "rollouts.request": {ENGINEER, OPERATOR},
    "rollouts.approve": {APPROVER},
    "rollouts.operate": {OPERATOR},
    "abtests.run": {ENGINEER, OPERATOR},
    "metrics.post_feedback": {ENGINEER, OPERATOR},
}


def test_table_names_every_verb() -> None:
    assert set(MAY) == set(roles.VERBS)


@pytest.mark.parametrize("verb", MAY)
def test_verb_is_for_its_roles_only(verb: str, cast: Cast) -> None:
    allowed = {name for name in ("ana", "bo", "cy", "dee", "eve") if roles.refusal(getattr(cast, name), verb) is None}
    assert allowed == MAY[verb]


@pytest.mark.parametrize("verb", MAY)
def test_administrator_may_everything(verb: str, cast: Cast, django_user_model: type[User]) -> None:
    roles.require(django_user_model.objects.create_superuser("root"), verb)


@pytest.mark.parametrize("verb", MAY)
def test_who_is_not_signed_in_may_nothing(verb: str) -> None:
    with pytest.raises(Forbidden):
        roles.require(AnonymousUser(), verb)


def test_account_that_was_switched_off_may_nothing(cast: Cast) -> None:
    cast.bo.is_active = False
    assert roles.refusal(cast.bo, "view")


def test_refusal_names_the_roles_that_may(cast: Cast) -> None:
    with pytest.raises(Forbidden) as refused:
        roles.require(cast.dee, "registry.approve")
    assert str(refused.value) == "This needs the role approver or admin; you do not have it."


def test_group_that_is_no_role_gives_nothing(cast: Cast) -> None:
    cast.eve.groups.create(name="football")
    assert roles.held_by(cast.eve) == frozenset()
