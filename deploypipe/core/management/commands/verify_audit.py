from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from deploypipe.core import audit
from deploypipe.core.models import AuditEntry


class Command(BaseCommand):
    help = "Recompute the audit chain; exit 1 and name each entry that was changed, removed or cut off."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--contains",
            metavar="HASH",
            help="The last hash that an earlier run printed and that was kept elsewhere: finds a chain written anew.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        sentences = [fault.sentence for fault in audit.verify()]
        if (known := options["contains"]) and not AuditEntry.objects.filter(hash=known).exists():
            sentences.append(f"No entry has the hash {known}.")
        for sentence in sentences:
            self.stderr.write(self.style.ERROR(sentence))
        if sentences:
            raise CommandError(f"The audit chain is broken: {' '.join(sentences[:3])}")
        last = AuditEntry.objects.first()
        end = f", the last is {last.hash}" if last else ""
        self.stdout.write(f"The audit chain is whole: {AuditEntry.objects.count()} entries{end}.")
