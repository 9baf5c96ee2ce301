from __future__ import annotations

from django.contrib import admin

from abtests.models import Experiment, Snapshot
from deploypipe.core.admin import ReadOnly


@admin.register(Experiment)
class ExperimentAdmin(ReadOnly[Experiment]):
    list_display = ["name", "environment", "status", "started_at", "ended_at"]
    list_filter = ["status", "environment"]


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnly[Snapshot]):
    list_display = ["experiment", "at", "verdict", "sentence"]
    list_filter = ["verdict"]
