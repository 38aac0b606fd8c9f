"""The guide's table moves to veilstream: before, while rows are mixed, and after."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.fernet import Fernet
from fastapi.testclient import TestClient
from pg import Postgres
from sqlalchemy import Engine, text
from test_guide import (  # noqa: F401
    ACTOR,
    CANARY,
    GUIDE,
    answers,
    application,
    guide_world,
    load,
    settings,
)
from world import World

from veilstream.sqlalchemy import clear_seen

# What of after.py is another while the table moves.
BETWEEN = {
    'subject="id")\n    )': 'subject="id", clear="count", old=OLD)\n    )',
    'phone", subject="id"': 'phone", subject="id", clear="count", old=OLD',
    "    ssn: Mapped[str | None] = mapped_column(EncryptedString(": (
        "    ssn_token: Mapped[str | None] = mapped_column(EncryptedString("
    ),
    "\n\nclass PIIAccessLog": """
    ssn_old: Mapped[bytes | None] = mapped_column("ssn")

    @property
    def ssn(self) -> str | None:
        opened = func.pgp_sym_decrypt(User.ssn_old, settings.PGCRYPTO_KEY)
        return self.ssn_token or Session.object_session(self).scalar(
            select(opened).where(User.id == self.id)
        )

    @ssn.setter
    def ssn(self, value: str | None) -> None:
        self.ssn_token, self.ssn_old = value, None


class PIIAccessLog""",
}
PREPARE = (
    'ALTER TABLE users ADD email_bidx text COLLATE "C", ADD ssn_token text COLLATE "C"',
    "ALTER TABLE users ALTER email_hash DROP NOT NULL",
)
FINISH = (
    "ALTER TABLE users DROP email_hash, DROP ssn",
    "ALTER TABLE users RENAME ssn_token TO ssn",
)
MOVES = (
    ["--field", "email", "--from", "fernet", "--keys-file", "old.keys"],
    ["--field", "phone", "--from", "fernet", "--keys-file", "old.keys"],
    ["--field", "ssn", "--to", "ssn_token", "--from", "pgcrypto", "--passphrases-file", "old.pass"],
)


def between(folder: Path, key: str) -> ModuleType:
    """The application of the time between: it reads old values and writes new ones."""
    source = (GUIDE / "after.py").read_text()
    for found, new in BETWEEN.items():
        assert source.count(found) == 1, found
        source = source.replace(found, new)
    head = f"""
from cryptography.fernet import Fernet
from sqlalchemy import func
def OLD(value): return Fernet({key!r}).decrypt(value.encode()).decode()
"""
    file = folder / "between.py"
    file.write_text(head + source)
    return load("between", file.parent)


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_the_table_moves(
    postgres: Postgres,
    settings: pytest.MonkeyPatch,  # noqa: F811
    guide_world: World,  # noqa: F811
) -> None:
    """Before, at each step between, and after: the same answers to the same requests."""
    key = Fernet.generate_key().decode()
    client, old = application(postgres, settings, "before", key)
    answers(client)
    wanted = users(client)
    found = searched(client)
    run(old.engine, *PREPARE)
    settings.delenv("ENCRYPTION_KEY")

    # The new code reads old rows and counts them. It finds what it wrote itself.
    new = between(guide_world.folder, key)
    client = TestClient(new.app)
    before = clear_seen()
    assert users(client) == wanted
    for field in ("users.email", "users.phone"):
        assert clear_seen()[field] > before.get(field, 0)
    assert searched(client) == []
    third = {"name": "Ada again", "email": CANARY.upper(), "phone": "0049 30 1"}
    third["ssn"] = "078-05-1121"
    for change in ({**third, "email": "other@x.org", "phone": None}, third):
        changed = client.put("/users/3", json=change, headers=ACTOR)
    assert changed.json() == wanted[2][0]
    assert users(client) == wanted
    assert searched(client) == found[1:]

    # The move, column by column, beside the application.
    folder = guide_world.folder
    target = f"postgresql://postgres@127.0.0.1:{postgres.port}/before"
    secrets = {"app.url": target, "old.keys": key, "old.pass": "passphrase of the guide"}
    for name, content in secrets.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(content + "\n")
    for move in MOVES:
        before_move = len(postgres.log())
        guide_world.run(
            *("migrate", "postgres", "--config", str(guide_world.config)),
            *("--postgres-file", "app.url", "--table", "users"),
            *("--schema", "schemas/users.json", "--subject", "id", *move),
        )
        said = postgres.log()[before_move:]
        assert 'UPDATE "public"."users"' in said
        for secret in (CANARY, "+1 415 555 0101", "078-05-112", "219-09", key, secrets["old.pass"]):
            assert secret not in said and secret.upper() not in said
        assert users(client) == wanted
        assert searched(client) == found
    run(new.engine, *FINISH)
    new.veil.close()
    new.engine.dispose()

    # After: the same table, and nothing else is read.
    new = load("after")
    client = TestClient(new.app)
    assert users(client) == wanted
    assert searched(client) == found
    made = client.post("/users", json={"name": "New", "email": "n@example.com"}, headers=ACTOR)
    assert made.status_code == 201 and made.json()["id"] > 3
    with new.engine.connect() as connection:
        stored = list(connection.execute(text("SELECT email, email_bidx, ssn FROM users")))
    assert all(row[0].startswith("vs1.") and row[1] for row in stored)
    assert all(row[2] is None or row[2].startswith("vs1.") for row in stored)
    for module in (old, new):
        module.engine.dispose()
    new.veil.close()


def users(client: TestClient) -> list[tuple[Any, Any]]:
    """Each user, and the number that is shown on request."""
    return [
        (
            client.get(f"/users/{n}", headers=ACTOR).json(),
            client.get(f"/users/{n}/ssn", params={"reason": "ticket 1"}, headers=ACTOR).json(),
        )
        for n in (1, 2, 3)
    ]


def searched(client: TestClient) -> Any:
    return client.get("/users/search", params={"email": CANARY}, headers=ACTOR).json()
