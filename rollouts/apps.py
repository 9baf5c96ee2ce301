from __future__ import annotations

from django.apps import AppConfig


class RolloutsConfig(AppConfig):
    name = "rollouts"

    def ready(self) -> None:
        from registry import hooks
        from rollouts import examination, queries

        hooks.provide_host(examination.ExaminationHost())
        hooks.add_use(queries.use_of_version)
        hooks.provide_environments(queries.environments)
