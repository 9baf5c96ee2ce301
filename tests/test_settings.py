"""The settings as a process meets them: each case starts one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from deploypipe.celery import app
from deploypipe.core import system_checks

ROOT = Path(__file__).parent.parent


def manage(*words: str, var: Path, **values: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DEPLOYPIPE_")}
    environment |= {"DEPLOYPIPE_VAR": str(var)} | {f"DEPLOYPIPE_{key}": value for key, value in values.items()}
    command = [sys.executable, "manage.py", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


SHOW = (
    "from django.conf import settings as s; d = s.DATABASES['default'];"
    "print(s.EMBEDDED, d['ENGINE'].rpartition('.')[2], s.CHANNEL_LAYERS['default']['BACKEND'].rpartition('.')[2],"
    " s.SECURE_SSL_REDIRECT, len(s.SECRET_KEY) > 40)"
)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"WEB_PORT": "eighty"}, "DEPLOYPIPE_WEB_PORT='eighty' is not usable: a whole number from 1 to 65535"),
        ({"DATABASE_URL": "mysql://u:hush@db/x"}, "DEPLOYPIPE_DATABASE_URL='mysql…' is not usable: give postgresql://"),
        ({"LOG_LEVEL": "loud"}, "DEPLOYPIPE_LOG_LEVEL='loud' is not usable: say DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        (
            {"SECRET_KEY_FILE": "/nowhere"},
            "DEPLOYPIPE_SECRET_KEY_FILE='/nowhere' is not usable: the file cannot be read",
        ),
    ],
)
def test_wrong_variable_gives_one_sentence(values: dict[str, str], sentence: str, tmp_path: Path) -> None:
    ended = manage("check", var=tmp_path, **values)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(sentence)
    assert "hush" not in ended.stderr


def test_clone_runs_with_no_variable_set(tmp_path: Path) -> None:
    ended = manage("shell", "-v", "0", "-c", SHOW, var=tmp_path)
    assert ended.stdout.split() == ["True", "sqlite3", "InMemoryChannelLayer", "False", "True"], ended.stderr


def test_production_is_a_matter_of_variables(tmp_path: Path) -> None:
    ended = manage(
        "shell", "-v", "0", "-c", SHOW, var=tmp_path, DATABASE_URL="postgresql://u:p@db/pipe",
        BROKER_URL="redis://cache/0", REDIS_URL="redis://cache/1", HTTPS="true",
    )  # fmt: skip
    assert ended.stdout.split() == ["False", "postgresql", "RedisChannelLayer", "True", "True"], ended.stderr


def test_empty_variables_change_nothing(tmp_path: Path) -> None:
    names = ("DATABASE_URL", "BROKER_URL", "REDIS_URL", "HTTPS", "WEB_HOST", "ALLOWED_HOSTS", "LOG_LEVEL", "SECRET_KEY")
    ended = manage("shell", "-v", "0", "-c", SHOW, var=tmp_path, **dict.fromkeys(names, ""))
    assert ended.stdout.split() == ["True", "sqlite3", "InMemoryChannelLayer", "False", "True"], ended.stderr


def test_production_settings_pass_the_deployment_checks(tmp_path: Path) -> None:
    ended = manage("check", "--deploy", "--fail-level", "WARNING", var=tmp_path, HTTPS="true")
    assert ended.returncode == 0, ended.stderr


# --- System checks ----------------------------------------------------------------------------------------------------

Check = Callable[[Any], list[CheckMessage]]


def ids(check: Check, **settings: Any) -> list[str | None]:
    with override_settings(**settings):
        found = check(None)
        assert all(message.hint for message in found)
        return [message.id for message in found]


@pytest.mark.parametrize(
    "backend", [{"BACKEND": "no.such.Class"}, {"BACKEND": "rollouts.targets.local.Nothing"}, {"OPTIONS": {}}, None]
)
@pytest.mark.parametrize("setting", ["TARGETS", "ROUTERS"])
def test_back_end_that_is_not_there_is_an_error(setting: str, backend: Any) -> None:
    assert ids(system_checks.backends_can_be_imported, **{setting: {"x": backend}}) == ["deploypipe.E001"]


def test_services_on_one_port_are_an_error() -> None:
    assert ids(system_checks.ports_differ, WEB_PORT=8080, GATEWAY_PORT=8080) == ["deploypipe.E002"]


def test_examinations_that_could_take_every_worker_are_an_error() -> None:
    check = system_checks.examinations_leave_workers
    assert ids(check, WORKER_THREADS=4, EXAMINATIONS_AT_ONCE=3) == ["deploypipe.E003"]
    assert ids(check, WORKER_THREADS=4, EXAMINATIONS_AT_ONCE=2) == []


def test_demo_accounts_are_warned_of() -> None:
    assert ids(system_checks.demo_accounts_are_off, DEMO=True) == ["deploypipe.W001"]
    assert ids(system_checks.demo_accounts_are_off, DEMO=False) == []


def test_broker_without_a_shared_live_layer_is_warned_of() -> None:
    check = system_checks.many_processes_share_a_layer
    assert ids(check, EMBEDDED=False, REDIS_URL="") == ["deploypipe.W002"]
    assert ids(check, EMBEDDED=False, REDIS_URL="redis://cache/1") == []
    assert ids(check, EMBEDDED=True, REDIS_URL="") == []


def test_settings_of_a_clone_have_nothing_to_say() -> None:
    assert [message.id for message in run_checks() if (message.id or "").startswith("deploypipe.")] == []


def test_every_beat_names_a_task_that_exists() -> None:
    app.loader.import_default_modules()
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(app.tasks)
