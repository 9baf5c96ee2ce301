"""The fault server, one for each file of tests, faultless again for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.registry.faulty_engine import Engine, running_engine


@pytest.fixture(scope="module")
def one_engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(one_engine: Engine) -> Engine:
    one_engine.reset()
    return one_engine
