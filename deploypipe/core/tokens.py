"""Programs sign in with `Authorization: Bearer dp_…`."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from django.db import transaction
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from deploypipe.core import audit
from deploypipe.core.errors import Invalid
from deploypipe.core.models import ApiToken

if TYPE_CHECKING:
    from django.contrib.auth.models import User

PREFIX = "dp_"
LONGEST_NAME = 100


@transaction.atomic
def issue(user: User, *, name: str) -> str:
    """A new key; this is the only time that it is seen."""
    if not user.is_active:
        raise Invalid("The account is switched off.", fields={"user": "give one that can sign in"})
    if not 0 < len(name.strip()) <= LONGEST_NAME:
        raise Invalid("The token needs a name.", fields={"name": f"give 1 to {LONGEST_NAME} characters"})
    key = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(user=user, name=name.strip(), digest=_digest(key))
    audit.record(None, "token.issued", token, after={"user": user.get_username(), "name": token.name})
    return key


def _digest(key: str) -> str:
    # The key has 256 bits of its own: a plain digest cannot be guessed, and looking it up stays cheap.
    return hashlib.sha256(key.encode()).hexdigest()


class TokenAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, key = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = ApiToken.objects.select_related("user").filter(digest=_digest(key.strip())).first()
        if token is None or not token.user.is_active:
            raise AuthenticationFailed("The access token is not known. Make one with: manage.py issue_token USER")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
