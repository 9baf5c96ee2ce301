"""Settings that would hurt, said at start with an id and a hint instead of at the first request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.utils.module_loading import import_string


@register()
def backends_can_be_imported(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for setting in ("TARGETS", "ROUTERS"):
        for alias, configured in getattr(settings, setting).items():
            try:
                import_string(configured["BACKEND"])
            except Exception as error:  # whatever a module raises while it is imported
                hint = 'Give BACKEND the dotted path of a class, such as "rollouts.targets.local.LocalTarget".'
                found.append(Error(f"{setting}[{alias!r}] names no back end: {error}", hint=hint, id="deploypipe.E001"))
    return found


@register()
def ports_differ(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    ports = [settings.WEB_PORT, settings.GATEWAY_PORT, settings.GATEWAY_ADMIN_PORT]
    if len(set(ports)) == len(ports):
        return []
    hint = "Set DEPLOYPIPE_WEB_PORT, DEPLOYPIPE_GATEWAY_PORT and DEPLOYPIPE_GATEWAY_ADMIN_PORT to different ports."
    return [Error(f"Two services would listen on the same port: {ports}.", hint=hint, id="deploypipe.E002")]


@register()
def examinations_leave_workers(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if settings.EXAMINATIONS_AT_ONCE <= settings.WORKER_THREADS - 2:
        return []
    hint = "Set DEPLOYPIPE_EXAMINATIONS_AT_ONCE to at least two less than DEPLOYPIPE_WORKER_THREADS."
    return [Error("Examinations could hold every worker: rollouts would stand still.", hint=hint, id="deploypipe.E003")]


@register(Tags.security, deploy=True)
def demo_accounts_are_off(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if not settings.DEMO:
        return []
    hint = "Unset DEPLOYPIPE_DEMO and delete the accounts ana, bo, cy, dee and eve."
    return [Warning("Demo accounts with known passwords are shown.", hint=hint, id="deploypipe.W001")]


@register()
def many_processes_share_a_layer(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if settings.EMBEDDED or settings.REDIS_URL:
        return []
    hint = "Set DEPLOYPIPE_REDIS_URL; without it browsers are not told of what other processes do."
    return [Warning("A broker is set but no Redis for live updates.", hint=hint, id="deploypipe.W002")]
