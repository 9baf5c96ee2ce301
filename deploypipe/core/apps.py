from __future__ import annotations

from django.apps import AppConfig


class CoreConfig(AppConfig):
    name = "deploypipe.core"
    label = "core"

    def ready(self) -> None:
        from deploypipe.core import system_checks  # noqa: F401  (registers the checks)
