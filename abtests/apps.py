from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured


class AbtestsConfig(AppConfig):
    name = "abtests"

    def ready(self) -> None:
        from deploypipe.metrics import catalogue

        try:
            catalogue.discover(app.name for app in apps.get_app_configs())
        except catalogue.MetricFileError as error:
            raise ImproperlyConfigured(str(error)) from error
