"""What the documents say of Python is run as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from alembic.autogenerate import api as autogenerate
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from blocks import blocks, run, take_schema
from in_process import BINARY, Site
from veilstream import Veil


@pytest.fixture
def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder with a configuration, where the blocks are run."""
    take_schema(site)
    monkeypatch.chdir(site.folder)
    yield site


def test_the_quickstart_runs(tmp_path: Path) -> None:
    found = blocks("python.md")
    names = ["python-setup", "python-first", "python-audit", "python-columns", "python-spark"]
    # Spark starts elsewhere: test_spark.py has its block.
    assert list(found) == names
    path = f"{BINARY.parent}:{os.environ['PATH']}"
    told = {}
    for name in names[:3]:
        language, code = found[name]
        command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, code],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        told[name] = done.stdout.splitlines()
    index, email, ssn, row = told["python-first"]
    assert index.startswith("IndexValues(into='email_bidx', values=('1~")
    assert "recheck=False" in index
    assert (email, ssn) == ("ada@example.com", "078-05-1120")
    assert row == "{'id': 42, 'email': 'ada@example.com', 'ssn': '078-05-1120'} revealed"


def test_whole_columns(here: Site) -> None:
    with Veil.open(here.config) as veil:
        ids, emails = pl.Series([1, 2]), pl.Series(["a@x.org", "b@x.org"])
        ibans = veil.arrow.seal(pl.Series(["DE1", "DE2"]), "customers.iban", subject=ids)
        old = pl.Series(veil.arrow.seal(emails, "customers.email", subject=ids))
        frame = pl.DataFrame(
            {"id": ids, "iban": pl.Series(ibans), "email": emails, "email_token": old}
        )
        names: dict[str, Any] = {"veil": veil, "frame": frame, "pl": pl}
        run(blocks("python.md")["python-columns"][1], names)
        assert names["shown"]["iban"].to_list() == ["DE1", "DE2"]
        for column in ("tokens", "moved"):
            tokens = names[column]
            opened = veil.arrow.reveal(tokens, "customers.email", subject=ids)
            assert pl.Series(opened).to_list() == emails.to_list()
        assert [tag[:2] for tag in pl.Series(names["bidx"]).to_list()] == ["1~", "1~"]


def test_columns_of_sqlalchemy_and_their_migrations(
    here: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    class Base(DeclarativeBase):
        pass

    found = blocks("sqlalchemy.md")
    assert list(found) == ["sqlalchemy-columns", "sqlalchemy-migrations"]
    engine = create_engine("sqlite://")
    with engine.connect() as connection, Session(connection) as session:
        names: dict[str, Any] = {
            **{"Base": Base, "Mapped": Mapped, "mapped_column": mapped_column, "select": select},
            **{"engine": engine, "session": session, "connection": connection},
        }
        # The migration makes the table, from models that the first block has.
        models, rest = found["sqlalchemy-columns"][1].split("\n\nwith ")
        run(models, names)
        # No folder of scripts: what is found is not written.
        context = EnvironmentContext(Config(), None)  # type: ignore[arg-type]
        run(found["sqlalchemy-migrations"][1], {**names, "context": context})
        script = autogenerate.produce_migrations(context.get_context(), Base.metadata)
        assert script.upgrade_ops is not None
        code = autogenerate.render_python_code(
            script.upgrade_ops,
            render_item=context.get_context().opts["render_item"],
            migration_context=context.get_context(),
        )
        assert "sa.Column('email', sa.Text(collation='C')" in code and "veilstream" not in code
        Base.metadata.create_all(connection)
        run(f"with {rest}", names)
        assert capsys.readouterr().out == "ada@example.com DE89370400440532013000\n"
        stored = session.execute(text("SELECT email, iban FROM customers")).one()
        assert all(value.startswith("vs1.") for value in stored)
        names["veil"].close()
    Base.registry.dispose()
