from __future__ import annotations

from django.apps import AppConfig, apps


class RegistryConfig(AppConfig):
    name = "registry"

    def ready(self) -> None:
        from registry.qa import catalogue

        catalogue.discover(app.name for app in apps.get_app_configs())
