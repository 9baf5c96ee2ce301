from __future__ import annotations

from pathlib import Path

import pytest

from tests.abtests.world import World, make_world
from tests.conftest import Cast


@pytest.fixture
def world(cast: Cast, artifact: Path) -> World:
    return make_world(cast, artifact)
