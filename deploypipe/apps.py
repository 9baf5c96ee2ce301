from __future__ import annotations

from django.apps import AppConfig

# Imported here so that tasks bind to the product's own Celery application wherever Django is set up.
from deploypipe.celery import app as celery_app

__all__ = ["DeploypipeConfig", "celery_app"]


class DeploypipeConfig(AppConfig):
    name = "deploypipe"

    def ready(self) -> None:
        from deploypipe import wiring

        wiring.connect()
