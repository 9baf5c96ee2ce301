"""The cast and the memory back ends that most tests share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.contrib.auth.models import Group, User

from deploypipe.core import roles
from registry import actions as registry_actions
from registry.models import ModelVersion, RegisteredModel
from rollouts.backends import routers, targets
from rollouts.targets.memory import MemoryTarget
from rollouts.traffic.memory import MemoryRouter
from tests.product import Product

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Cast:
    """ana registers, bo approves, cy operates, dee only looks, eve is outside."""

    ana: User
    bo: User
    cy: User
    dee: User
    eve: User


# How long an example takes is the machine's business, not a property of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that start the whole product come last: what is wrong shows sooner in a small test."""
    items.sort(key=lambda item: any(item.get_closest_marker(slow) for slow in ("faults", "e2e")))


@pytest.fixture(autouse=True)
def quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def make_cast() -> Cast:
    held = {"ana": roles.ENGINEER, "bo": roles.APPROVER, "cy": roles.OPERATOR, "dee": roles.VIEWER, "eve": None}
    users = {}
    for name, role in held.items():
        users[name] = User.objects.create_user(name, password=PASSWORD)
        if role:
            users[name].groups.add(Group.objects.get_or_create(name=role)[0])
    return Cast(**users)


@pytest.fixture
def cast(db: None) -> Cast:
    return make_cast()


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A folder with two small files."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["NgramModel"]}')
    (folder / "model.json").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def model(cast: Cast) -> RegisteredModel:
    return registry_actions.create_model("textgen", actor=cast.ana)


@pytest.fixture
def version(model: RegisteredModel, cast: Cast, artifact: Path) -> ModelVersion:
    """Registered by ana, not examined yet."""
    return registry_actions.register(model, actor=cast.ana, artifact_uri=artifact.as_uri(), engine="textgen")


@pytest.fixture
def target() -> Iterator[MemoryTarget]:
    """In the place of the local target."""
    memory = MemoryTarget()
    targets.replace("local", memory)
    yield memory
    targets.forget()


@pytest.fixture
def router() -> Iterator[MemoryRouter]:
    """In the place of Envoy."""
    memory = MemoryRouter()
    routers.replace("envoy", memory)
    yield memory
    routers.forget()


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A real one, with version 1 live. One for all tests that need it: what a test begins, it also ends."""
    running = Product(tmp_path_factory.mktemp("product"))
    try:
        assert running.ended(running.rollout(running.approved()))["status"] == "succeeded"
        yield running
    finally:
        running.api.close()
        if running.stage.process is not None and running.stage.process.poll() is None:
            left = running.stage.stop()
            assert not left, left
        for process in running.stage.tree():
            process.kill()
