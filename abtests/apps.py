from __future__ import annotations

from django.apps import AppConfig


class AbtestsConfig(AppConfig):
    name = "abtests"
