from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from deploypipe.core import audit
from deploypipe.core.models import AuditEntry


class Command(BaseCommand):
    help = "Recompute the audit chain; exit 1 and name each entry that was changed, removed or cut off."

    def handle(self, *args: Any, **options: Any) -> None:
        faults = list(audit.verify())
        for fault in faults:
            self.stderr.write(self.style.ERROR(fault.sentence))
        if faults:
            raise CommandError(f"The audit chain is broken in {len(faults)} places.")
        self.stdout.write(f"The audit chain is whole: {AuditEntry.objects.count()} entries.")
