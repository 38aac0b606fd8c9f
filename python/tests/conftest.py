"""Fixtures of keys in process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from in_process import Site
from veilstream import Veil


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A fresh folder."""
    return Site(tmp_path / "site")


@pytest.fixture
def veil(site: Site) -> Iterator[Veil]:
    """Keys in process, audited."""
    with Veil.open(site.config) as veil:
        yield veil


@pytest.fixture(scope="session")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Site]:
    """Makes folders that several tests share."""
    return lambda: Site(tmp_path_factory.mktemp("sites") / "site")
