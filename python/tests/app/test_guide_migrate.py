"""The guide's table moves to veilstream: before, while rows are mixed, and after."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from pg import Postgres
from sqlalchemy import BigInteger, Sequence, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from test_guide import ACTOR, CANARY, answers, application, guide_world, settings  # noqa: F401
from world import World

from veilstream import Veil
from veilstream.guide import EncryptedString
from veilstream.sqlalchemy import attach, blind_index, clear_seen


def mixed(old: Any) -> type[Any]:
    """The model of the time between: it reads old rows and writes new ones."""

    class Own(DeclarativeBase):
        pass

    class User(Own):
        __tablename__ = "users"

        id: Mapped[int] = mapped_column(BigInteger, Sequence("users_id_seq"), primary_key=True)
        name: Mapped[str]
        email: Mapped[str] = mapped_column(
            EncryptedString(
                field="users.email", index="email_bidx", subject="id", clear="count", old=old
            )
        )
        email_hash: Mapped[str]
        email_bidx: Mapped[str | None] = blind_index("users.email")

    return User


def test_the_table_moves(
    postgres: Postgres,
    settings: pytest.MonkeyPatch,  # noqa: F811
    guide_world: World,  # noqa: F811
) -> None:
    key = Fernet.generate_key().decode()
    client, old = application(postgres, settings, "before", key)
    wanted = answers(client)
    url = postgres.url("psycopg", "before")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text('ALTER TABLE users ADD email_bidx text COLLATE "C"'))
        connection.execute(text('ALTER TABLE users ADD ssn_token text COLLATE "C"'))
        connection.execute(text("ALTER TABLE users ALTER email_hash DROP NOT NULL"))

    # Between: the new code reads old rows and counts them.
    fernet = Fernet(key)
    user = mixed(lambda value: fernet.decrypt(value.encode()).decode())
    with Veil.open(guide_world.config) as veil, veil.purpose("support"):
        attach(engine, veil)
        before = clear_seen().get("users.email", 0)
        with Session(engine) as session, session.begin():
            session.add(user(name="Eve", email="eve@example.com", email_hash=""))
        with Session(engine) as session:
            rows = session.scalars(select(user).order_by(user.id)).all()
            emails = [row.email for row in rows]
        assert emails == [CANARY, "robert@example.com", CANARY.upper(), "eve@example.com"]
        assert clear_seen()["users.email"] - before == 3

    # The move: beside the application, resumable, and nothing in clear in any statement.
    folder = guide_world.folder
    target = f"postgresql://postgres@127.0.0.1:{postgres.port}/before"
    secrets = {"app.url": target, "old.keys": key, "old.pass": "passphrase of the guide"}
    for name, content in secrets.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(content + "\n")
    for more in (
        ["--field", "email", "--from", "fernet", "--keys-file", "old.keys"],
        ["--field", "phone", "--from", "fernet", "--keys-file", "old.keys"],
        ["--field", "ssn", "--to", "ssn_token", "--from", "pgcrypto"]
        + ["--passphrases-file", "old.pass"],
    ):
        guide_world.run(
            *("migrate", "postgres", "--config", str(guide_world.config)),
            *("--postgres-file", "app.url", "--table", "users"),
            *("--schema", "schemas/users.json", "--subject", "id", *more),
        )
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE users DROP email_hash, DROP ssn"))
        connection.execute(text("ALTER TABLE users RENAME ssn_token TO ssn"))
        connection.execute(text("DELETE FROM users WHERE name = 'Eve'"))
        stored = list(connection.execute(text("SELECT email, email_bidx, ssn FROM users")))
    assert all(row[0].startswith("vs1.") and row[1] for row in stored)
    engine.dispose()

    # After: the same table, the same answers.
    settings.setenv("DATABASE_URL", url)
    settings.delenv("ENCRYPTION_KEY")
    from fastapi.testclient import TestClient
    from test_guide import load

    new = load("after")
    client = TestClient(new.app)
    reads = [client.get(f"/users/{n}", headers=ACTOR) for n in (1, 2, 3)]
    assert [one.json() for one in reads] == [*[wanted[n][1] for n in (3,)], *after_change(wanted)]
    found = client.get("/users/search", params={"email": CANARY}, headers=ACTOR)
    assert found.json() == wanted[7][1]
    ssn = client.get("/users/2/ssn", params={"reason": "ticket 1"}, headers=ACTOR)
    assert ssn.json() == {"ssn": "219-09-9999"}
    made = client.post("/users", json={"name": "New", "email": "n@example.com"}, headers=ACTOR)
    assert made.status_code == 201 and made.json()["id"] > 3
    for module in (old, new):
        module.engine.dispose()
    new.veil.close()


def after_change(wanted: list[tuple[int, Any]]) -> list[Any]:
    """Users 2 and 3 as they were left: the second was changed."""
    return [wanted[10][1], wanted[5][1]]
