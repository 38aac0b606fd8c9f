"""The guide's table moves to veilstream: before, while rows are mixed, and after.

A copy of the table stays with the guide's own application. Each request goes to both applications,
and both give the same answer.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from cryptography.fernet import Fernet
from fastapi.testclient import TestClient
from pg import Postgres
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.orm import Session
from test_guide import (  # noqa: F401
    ACTOR,
    CANARY,
    answers,
    application,
    guide_world,
    load,
    settings,
)
from world import BINARY, World, until

from veilstream.sqlalchemy import clear_seen

SEED = int(os.environ.get("VEILSTREAM_SEED", random.randrange(1 << 32)))
# Of the test in which a migration runs beside requests.
ROWS = 200
PREPARE = (
    'ALTER TABLE users ADD email_bidx text COLLATE "C", ADD ssn_token text COLLATE "C"',
    "ALTER TABLE users ALTER email_hash DROP NOT NULL",
)
FINISH = (
    "ALTER TABLE users DROP email_hash, DROP ssn",
    "ALTER TABLE users RENAME ssn_token TO ssn",
)
MOVES = {
    "email": ["--field", "email", "--from", "fernet", "--keys-file", "old.keys"],
    "phone": ["--field", "phone", "--from", "fernet", "--keys-file", "old.keys"],
    "ssn": [
        *("--field", "ssn", "--to", "ssn_token"),
        *("--from", "pgcrypto", "--passphrases-file", "old.pass"),
    ],
}
OLD_ROWS = """
SELECT count(*) FILTER (WHERE email NOT LIKE 'vs1.%') AS email,
       count(*) FILTER (WHERE phone NOT LIKE 'vs1.%') AS phone, count(ssn) AS ssn FROM users
"""


class Move:
    """A table that moves, with an application on it; the guide's application on the copy."""

    def __init__(self, engine: Engine, guide: TestClient) -> None:
        self.engine = engine
        self._guide = guide
        self._module: ModuleType | None = None

    @property
    def module(self) -> ModuleType:
        """The application on the table."""
        assert self._module is not None
        return self._module

    def deploy(self, name: str) -> None:
        """Puts an application of the example in the place of the one before."""
        self.end()
        self._module = load(name)
        self._client = TestClient(self._module.app)

    def end(self) -> None:
        if self._module is not None:
            self._module.veil.close()
            self._module.engine.dispose()

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def held(self) -> dict[str, int]:
        """How many rows hold the old form of each column."""
        with self.engine.connect() as connection:
            return dict(connection.execute(text(OLD_ROWS)).one()._mapping)

    def old_rows(self) -> dict[str, int]:
        """As ``held``. The application counts as many, when it reads all rows."""
        snapshot = self.module.engine.connect().execution_options(isolation_level="REPEATABLE READ")
        with snapshot, Session(snapshot) as session, self.module.veil.purpose("support"):
            held = dict(session.execute(text(OLD_ROWS)).one()._mapping)
            before = Counter(clear_seen())
            session.scalars(select(self.module.User)).all()
            counted = Counter(clear_seen())
        counted.subtract(before)
        # What stands in two columns is not counted.
        for column in ("email", "phone"):
            assert counted[f"users.{column}"] == held[column]
        return held

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """What both applications answer."""
        found, wanted = (
            client.request(method, path, headers=ACTOR, **options)
            for client in (self._client, self._guide)
        )
        assert (found.status_code, found.json()) == (wanted.status_code, wanted.json()), path
        return found.json()

    def search(self, email: str) -> list[int]:
        return [user["id"] for user in self.ask("GET", "/users/search", params={"email": email})]

    def read(self, user: int) -> Any:
        """All that there is to read of a user."""
        self.ask("GET", f"/users/{user}/ssn", params={"reason": f"ticket {user}"})
        self.ask("GET", f"/users/{user}/access-log")
        return self.ask("GET", f"/users/{user}")

    def read_all(self, step: int = 1) -> None:
        """Every user, or one of so many, and one who is not there."""
        with self.engine.connect() as connection:
            last = connection.execute(text("SELECT max(id) FROM users")).scalar_one()
        for user in (*range(1, last + 1, step), last + 1):
            self.read(user)
        for email in (CANARY, f" {CANARY.title()} ", "robert@example.com", "bob@example.com"):
            self.search(email)


@contextmanager
def moving(
    postgres: Postgres, settings: pytest.MonkeyPatch, world: World, more: int = 0
) -> Iterator[Move]:
    """The guide's table with three people and more, and its copy."""
    key = Fernet.generate_key().decode()
    client, guide = application(postgres, settings, "before", key)
    answers(client)
    with Session(guide.engine) as session, session.begin():
        for n in range(more):
            given = person(n)
            hashed = guide.hash_for_search(given["email"])
            session.add(guide.User(**given, email_hash=hashed))
    guide.engine.dispose()
    admin = create_engine(postgres.url("psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS moving WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE moving TEMPLATE before"))
    admin.dispose()
    settings.setenv("DATABASE_URL", postgres.url("psycopg", "moving"))
    # The key store would take it for its own.
    settings.delenv("ENCRYPTION_KEY")
    settings.setenv("OLD_ENCRYPTION_KEY", key)
    target = f"postgresql://postgres@127.0.0.1:{postgres.port}/moving"
    secrets = {"app.url": target, "old.keys": key, "old.pass": guide.settings.PGCRYPTO_KEY}
    for name, content in secrets.items():
        (world.folder / name).touch(mode=0o600)
        (world.folder / name).write_text(content + "\n")
    move = Move(create_engine(postgres.url("psycopg", "moving")), client)
    move.run(*PREPARE)
    yield move
    move.end()
    for engine in (guide.engine, move.engine):
        engine.dispose()


def person(n: int) -> dict[str, Any]:
    """A third of them has no phone, and half of them no number. Some share an address."""
    return {
        "name": f"n{n}",
        "email": f"person{n % (ROWS - 50)}@example.com",
        "phone": f"+1 415 555 {n:04}" if n % 3 else None,
        "ssn": f"219-09-{n:04}" if n % 2 else None,
    }


def command(world: World, column: str, *options: str) -> list[str]:
    return [
        *("migrate", "postgres", "--config", str(world.config)),
        *("--postgres-file", "app.url", "--table", "users"),
        *("--schema", "schemas/users.json", "--subject", "id", *MOVES[column], *options),
    ]


def migration(world: World, column: str, *options: str) -> subprocess.Popen[bytes]:
    """A migration that runs."""
    program = [BINARY, *command(world, column, *options)]
    return subprocess.Popen(program, cwd=world.folder, stdout=subprocess.DEVNULL)


def test_the_table_moves(
    postgres: Postgres,
    settings: pytest.MonkeyPatch,  # noqa: F811
    guide_world: World,  # noqa: F811
) -> None:
    """Before, at each step between, and after: the same answers to the same requests."""
    with moving(postgres, settings, guide_world) as move:
        # The new code reads and finds old rows, and counts them.
        move.deploy("during")
        assert move.old_rows() == {"email": 3, "phone": 2, "ssn": 3}
        move.read_all()
        third = {"name": "Ada again", "email": CANARY.upper(), "phone": "0049 30 1"}
        third["ssn"] = "078-05-1121"
        for change in ({**third, "email": "other@x.org", "phone": None}, third):
            move.ask("PUT", "/users/3", json=change)
            assert move.search("other@x.org") == ([3] if change["email"] == "other@x.org" else [])
            move.search(CANARY)
        move.ask("POST", "/users", json={**third, "name": "New", "ssn": None})
        assert move.search(CANARY) == [1, 3, 4]
        move.read_all()

        # The move, column by column.
        old = {"email": 2, "phone": 1, "ssn": 2}
        files = (guide_world.folder / name for name in ("old.keys", "old.pass"))
        secrets = [file.read_text()[:-1] for file in files]
        for column in MOVES:
            assert move.old_rows() == old
            before_move = len(postgres.log())
            guide_world.run(*command(guide_world, column))
            said = postgres.log()[before_move:]
            assert 'UPDATE "public"."users"' in said
            for secret in (CANARY, "+1 415 555 0101", "078-05-112", "219-09", *secrets):
                assert secret not in said and secret.upper() not in said
            old[column] = 0
            move.read_all()
        assert move.old_rows() == old
        move.run(*FINISH)

        # After: the same table, and nothing else is read.
        move.deploy("after")
        move.read_all()
        made = move.ask("POST", "/users", json={"name": "New", "email": "n@example.com"})
        assert made["id"] > 3
        with move.engine.connect() as connection:
            stored = list(connection.execute(text("SELECT email, email_bidx, ssn FROM users")))
        assert all(row[0].startswith("vs1.") and row[1] for row in stored)
        assert all(row[2] is None or row[2].startswith("vs1.") for row in stored)


def test_requests_are_answered_while_columns_move(
    postgres: Postgres,
    settings: pytest.MonkeyPatch,  # noqa: F811
    guide_world: World,  # noqa: F811
) -> None:
    """Reads, searches, changes and new users beside a migration that is ended and run again."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    with moving(postgres, settings, guide_world, ROWS) as move:
        move.deploy("during")
        for column in MOVES:
            held = move.old_rows()[column]
            uses = rounds = 0
            with migration(guide_world, column, "--batch", "10", "--rows-per-second", "10") as slow:
                while rounds < 3:
                    assert slow.poll() is None, "it ended before requests met mixed rows"
                    was = move.old_rows()[column]
                    use(move, rng)
                    # Each time before, a request moved a row at most. The migration moved others.
                    rounds += was < held - uses and move.held()[column] > 0
                    uses += 1
                slow.terminate()
            with migration(guide_world, column) as rest:
                while rest.poll() is None:
                    move.old_rows()
                    use(move, rng)
                assert rest.returncode == 0
            assert move.old_rows()[column] == 0
        move.run(*FINISH)
        move.deploy("after")
        move.read_all(step=10)


def test_a_change_waits_while_its_row_moves(
    postgres: Postgres,
    settings: pytest.MonkeyPatch,  # noqa: F811
    guide_world: World,  # noqa: F811
) -> None:
    """A number that is taken out does not come back by a migration of the same row."""
    with moving(postgres, settings, guide_world) as move, ThreadPoolExecutor(1) as pool:
        move.deploy("during")
        token = move.module.veil.seal("users.ssn", "078-05-1120", subject=1)
        with move.engine.begin() as moved:
            written = text("UPDATE users SET ssn_token = :token, ssn = NULL WHERE id = 1")
            moved.execute(written, {"token": token})
            change = {"name": "Ada", "email": CANARY, "phone": None, "ssn": None}
            changed = pool.submit(move.ask, "PUT", "/users/1", json=change)
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            until("the change waits", lambda: moved.scalar(waiting))
        assert changed.result()["ssn_last4"] is None
        move.read(1)


def use(move: Move, rng: random.Random) -> None:
    """Each request once, of users as they come."""
    made = move.ask("POST", "/users", json=person(rng.randrange(2 * ROWS)))
    shown = move.read(rng.randint(1, made["id"]))
    assert shown["id"] in move.search(rng.choice([shown["email"], f" {shown['email'].upper()} "]))
    shown = move.read(rng.randint(1, made["id"]))
    change = person(rng.randrange(2 * ROWS))
    if rng.random() < 0.5:
        change["email"] = shown["email"]
    move.ask("PUT", f"/users/{shown['id']}", json=change)
    assert shown["id"] in move.search(change["email"])
    move.search(shown["email"])
    move.read(shown["id"])
