from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from deploypipe.core import tokens
from deploypipe.core.errors import Invalid


class Command(BaseCommand):
    help = "Make an access token for a program; it is printed once and cannot be read again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--name", default="command line")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['user']!r}.")
        try:
            self.stdout.write(tokens.issue(user, name=options["name"]))
        except Invalid as error:
            raise CommandError(" ".join([error.message, *error.fields.values()])) from None
