from __future__ import annotations

import json
import os
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.core.management.base import BaseCommand

from deploypipe.core import roles, tokens
from deploypipe.core.models import ApiToken

CAST = {"ana": roles.ENGINEER, "bo": roles.APPROVER, "cy": roles.OPERATOR, "dee": roles.VIEWER, "eve": None}
TOKEN_NAME = "demo story"  # noqa: S105 -- what the token is called, not the token


class Command(BaseCommand):
    help = "Make the demo accounts, and tokens for the demo story. For trying things out; never in production."

    def handle(self, *args: Any, **options: Any) -> None:
        keys: dict[str, str] = {}
        ApiToken.objects.filter(name=TOKEN_NAME).delete()
        for name, role in CAST.items():
            user, created = User.objects.get_or_create(username=name)
            if created:
                user.set_password(settings.DEMO_PASSWORD)
                user.save()
            if role:
                user.groups.add(Group.objects.get(name=role))
                keys[name] = tokens.issue(user, name=TOKEN_NAME)
        path = settings.DEMO_TOKENS
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(keys, file)
