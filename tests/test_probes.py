from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from deploypipe.metrics.models import RecordCursor
from deploypipe.probes import TICK_LIMIT
from registry.models import ModelVersion


def worked(ago: timedelta = timedelta()) -> None:
    RecordCursor.objects.create(name="gateway", records=41, garbage=1, read_at=timezone.now() - ago)


def figures() -> dict[str, float]:
    text = Client().get("/metrics").content.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value for sample in samples}


def test_process_says_that_it_answers() -> None:
    answer = Client().get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


@pytest.mark.django_db
def test_ready_where_database_and_worker_are_there() -> None:
    worked()
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "problems": {}})


@pytest.mark.django_db
@pytest.mark.parametrize("ago", [None, TICK_LIMIT + timedelta(seconds=1)])
def test_not_ready_where_no_worker_does_anything(ago: timedelta | None) -> None:
    if ago is not None:
        worked(ago)
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["problems"] == {"worker": "nothing has been done for more than 15 s"}


def test_database_that_is_away_is_an_answer_and_no_crash(tmp_path: Path) -> None:
    """In a process of its own, with an address at which nothing listens."""
    script = (
        "import django; django.setup()\n"
        "from django.test import Client\n"
        "for path in ('/healthz', '/readyz', '/metrics'):\n"
        "    answer = Client(headers={'host': 'localhost'}).get(path)\n"
        "    print(answer.status_code, answer.content.decode().strip())"
    )
    away = {"DEPLOYPIPE_VAR": str(tmp_path), "DEPLOYPIPE_DATABASE_URL": "postgresql://u:hush@127.0.0.1:1/none"}
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "deploypipe.settings", **away}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.splitlines() == [
        "200 ok",
        '503 {"ready": false, "problems": {"database": "OperationalError"}}',
        "503 # no figures: OperationalError",
    ], ended.stderr
    assert "hush" not in ended.stdout + ended.stderr


@pytest.mark.django_db
def test_figures_of_an_empty_product_are_zero() -> None:
    assert figures() == {
        "deploypipe_gateway_records": 0,
        "deploypipe_gateway_garbage_lines": 0,
        "deploypipe_audit_entries": 0,
    }


def test_figures_count_what_there_is(version: ModelVersion) -> None:
    worked()
    found = figures()
    assert found["deploypipe_versions/registered"] == 1
    assert found["deploypipe_gateway_records"] == 41
    assert found["deploypipe_gateway_garbage_lines"] == 1
    assert found["deploypipe_audit_entries"] == 2


def test_figures_tell_no_name_and_no_secret(version: ModelVersion) -> None:
    text = Client().get("/metrics").content.decode()
    for secret in (settings.ENGINE_API_KEY, settings.SECRET_KEY, version.model.name, "ana", version.digest):
        assert secret not in text
