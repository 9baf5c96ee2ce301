"""The Celery application. Tasks carry ids only: what is due stands in the database, never in a message."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "deploypipe.settings")

app = Celery("deploypipe")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
