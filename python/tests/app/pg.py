"""A PostgreSQL server of its own, Debian's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, MetaData, create_engine
from world import free_port

from veilstream import Veil
from veilstream.sqlalchemy import attach


class Postgres:
    """Started in a folder that ends with it. All statements stand in its log."""

    def __init__(self, *settings: str) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
        assert found, "please install postgresql"
        self._bin = found[-1]
        self.folder = Path(tempfile.mkdtemp(prefix="veilstream-pg-"))
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(self.folder, "postgres")
        self.port = free_port()
        self._run(
            "initdb", "-D", "data", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"
        )
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
            " -c fsync=off -c shared_buffers=64MB -c log_statement=all"
            " -c log_min_duration_statement=0 -c log_parameter_max_length=-1"
            " -c log_parameter_max_length_on_error=-1"
        )
        options += "".join(f" -c {setting}" for setting in settings)
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")

    def url(self, driver: str, database: str = "postgres") -> str:
        return f"postgresql+{driver}://postgres@127.0.0.1:{self.port}/{database}"

    def log(self) -> str:
        """What the server wrote: every statement with its parameters."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(self.folder)

    def _run(self, name: str, *args: str) -> None:
        done = subprocess.run(
            [*self._as, str(self._bin / name), *args],
            check=False,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if name == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}"


@contextmanager
def empty_tables(postgres: Postgres, veil: Veil, metadata: MetaData) -> Iterator[Engine]:
    """All that is read from these tables is for support."""
    made = create_engine(postgres.url("psycopg"))
    metadata.drop_all(made)
    metadata.create_all(made)
    attach(made, veil, metadata=metadata)
    with veil.purpose("support"):
        yield made
    made.dispose()
