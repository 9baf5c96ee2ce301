from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured


class RegistryConfig(AppConfig):
    name = "registry"

    def ready(self) -> None:
        from registry.qa import catalogue

        try:
            catalogue.discover(app.name for app in apps.get_app_configs())
        except catalogue.CheckFileError as error:
            raise ImproperlyConfigured(str(error)) from error
