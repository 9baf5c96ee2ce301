"""Who may do what. A role is a Django group of the same name; a superuser has every role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploypipe.core.errors import Forbidden

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser, User

VIEWER, ENGINEER, APPROVER, OPERATOR, ADMIN = "viewer", "engineer", "approver", "operator", "admin"
ROLES = (VIEWER, ENGINEER, APPROVER, OPERATOR, ADMIN)

VERBS: dict[str, frozenset[str]] = {
    "view": frozenset(ROLES),
    "registry.register": frozenset({ENGINEER, ADMIN}),
    "registry.examine": frozenset({ENGINEER, APPROVER, OPERATOR, ADMIN}),
    "registry.approve": frozenset({APPROVER, ADMIN}),
    "registry.set_policy": frozenset({APPROVER, ADMIN}),
    "registry.retire": frozenset({ENGINEER, OPERATOR, ADMIN}),
    "rollouts.request": frozenset({ENGINEER, OPERATOR, ADMIN}),
    "rollouts.approve": frozenset({APPROVER, ADMIN}),
    "rollouts.operate": frozenset({OPERATOR, ADMIN}),
    "abtests.run": frozenset({ENGINEER, OPERATOR, ADMIN}),
    "metrics.post_feedback": frozenset({ENGINEER, OPERATOR, ADMIN}),
}


def held_by(actor: User | AnonymousUser) -> frozenset[str]:
    if not actor.is_authenticated or not actor.is_active:
        return frozenset()
    if actor.is_superuser:
        return frozenset(ROLES)
    # Asked many times for one page: kept on the user object, which lives for one request.
    kept: frozenset[str] | None = actor.__dict__.get("_roles")
    if kept is None:
        kept = frozenset(actor.groups.values_list("name", flat=True)) & frozenset(ROLES)
        actor.__dict__["_roles"] = kept
    return kept


def refusal(actor: User | AnonymousUser, verb: str) -> str | None:
    """Why the actor may not, as a sentence; None where they may."""
    needed = VERBS[verb]
    if held_by(actor) & needed:
        return None
    return f"This needs the role {' or '.join(role for role in ROLES if role in needed)}; you do not have it."


def require(actor: User | AnonymousUser, verb: str) -> None:
    if sentence := refusal(actor, verb):
        raise Forbidden(sentence)
