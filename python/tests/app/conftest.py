"""One service and one PostgreSQL server for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from models import SCHEMAS, Base
from pg import Postgres, empty_tables
from sqlalchemy import Engine
from world import Service, World

from veilstream import Veil


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), SCHEMAS)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    running = Postgres()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def veil(world: World) -> Iterator[Veil]:
    """Keys in process."""
    with Veil.open(world.config) as opened:
        yield opened


@pytest.fixture(params=[1024, 2], ids=["at_once", "ahead"])
def ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as it is, and once with a thread for every two entities, which opens them while the
    next are loaded."""
    monkeypatch.setattr("veilstream.sqlalchemy.load._AHEAD", request.param)


@pytest.fixture
def engine(postgres: Postgres, veil: Veil) -> Iterator[Engine]:
    with empty_tables(postgres, veil, Base.metadata) as made:
        yield made
