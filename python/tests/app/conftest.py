"""One service and one PostgreSQL server for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from world import Service, World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def app_key(world: World) -> Path:
    return world.credential("app", "app")


@pytest.fixture(scope="session")
def desk_key(world: World) -> Path:
    return world.credential("desk", "desk")


@pytest.fixture(scope="session")
def service(world: World, app_key: Path, desk_key: Path) -> Iterator[Service]:
    running = Service(world)
    yield running
    running.stop()
