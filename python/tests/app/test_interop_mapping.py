"""Entities whose columns another system shares: Fernet tokens, and what pgcrypto decrypts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from cryptography.fernet import Fernet
from pg import Postgres, empty_tables
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from world import World

from veilstream import Sealed, Veil
from veilstream.errors import NotRevealed
from veilstream.pydantic import Of
from veilstream.sqlalchemy import blind_index, clear_seen, encrypted, sealed

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
PASSPHRASE = "correct horse"
LEGACY: dict[str, Any] = {
    "veilstream": 1,
    "name": "legacy",
    "version": 1,
    "topics": {"from": "legacy.raw", "to": "legacy.sanitized"},
    "fields": [
        {
            "id": "mail",
            "path": "$.mail",
            "type": "string",
            "format": "fernet",
            "index": {"normalize": "email", "bits": 8},
        },
        {"id": "age", "path": "$.age", "type": "integer", "format": "fernet"},
        {"id": "note", "path": "$.note", "type": "string", "format": "pgcrypto"},
    ],
}
SECRETS = {"fernet.keys": f"{NEW}\n{OLD}\n", "pgcrypto.passphrases": f"{PASSPHRASE}\n"}


class Base(DeclarativeBase):
    pass


class Client(Base):
    __tablename__ = "legacy_clients"

    id: Mapped[int] = mapped_column(primary_key=True)
    mail: Mapped[str | None] = encrypted("legacy.mail", index="mail_bidx", clear="count")
    age: Mapped[int | None] = encrypted("legacy.age")
    note: Mapped[str | None] = encrypted("legacy.note", clear="allow")
    later: Mapped[Sealed[str] | None] = sealed("legacy.note")
    mail_bidx: Mapped[str | None] = blind_index("legacy.mail")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Veil]:
    """Keys in process: ours, and those of the other systems."""
    world = World(tmp_path_factory.mktemp("shared"), {"legacy": LEGACY})
    for name, content in SECRETS.items():
        (world.folder / name).touch(mode=0o600)
        (world.folder / name).write_text(content)
    world.config.write_text(
        f'[interop.fernet]\nkeys_file = "{world.folder}/fernet.keys"\n'
        f'[interop.pgcrypto]\npassphrases_file = "{world.folder}/pgcrypto.passphrases"\n'
        + world.config.read_text()
    )
    with Veil.open(world.config) as veil:
        yield veil


@pytest.fixture
def clients(postgres: Postgres, shared: Veil) -> Iterator[Engine]:
    with empty_tables(postgres, shared, Base.metadata) as made:
        yield made


def test_the_other_system_reads_what_was_inserted(clients: Engine) -> None:
    with Session(clients) as session, session.begin():
        session.add(Client(id=1, mail="Ada@x.org", age=36, note="of hers", later="sealed"))
        rows = [{"id": 2, "mail": "b@x.org", "age": 1, "note": "x"}, {"id": 3, "mail": None}]
        session.execute(insert(Client), rows[:1])
        session.execute(insert(Client), rows[1:])
    with clients.begin() as connection:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS pgcrypto"))
        told = connection.execute(
            text(
                "SELECT mail, age, pgp_sym_decrypt(decode(note, 'base64'), :key),"
                " pgp_sym_decrypt(decode(later, 'base64'), :key), mail_bidx"
                " FROM legacy_clients ORDER BY id"
            ),
            {"key": PASSPHRASE},
        ).all()
    peer = Fernet(NEW)
    assert [row[0] and peer.decrypt(row[0]).decode() for row in told] == ["Ada@x.org", "b@x.org", None]
    assert [row[1] and peer.decrypt(row[1]) for row in told] == [b"36", b"1", None]
    assert [tuple(row[2:4]) for row in told] == [("of hers", "sealed"), ("x", None), (None, None)]
    with Session(clients) as session:
        ada = session.scalars(select(Client).where(Client.mail == "ada@X.org")).one()
        assert (ada.mail, ada.age, ada.note, ada.mail_bidx) == ("Ada@x.org", 36, "of hers", told[0][4])
        assert ada.later is not None and ada.later.reveal() == "sealed"
        ada.mail = "c@x.org"
        session.commit()
        stored = session.execute(text("SELECT mail FROM legacy_clients WHERE id = 1")).scalar_one()
        assert peer.decrypt(stored) == b"c@x.org"


def test_what_the_other_system_wrote_is_opened(clients: Engine) -> None:
    with clients.begin() as connection:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS pgcrypto"))
        connection.execute(
            text(
                "INSERT INTO legacy_clients (id, mail, note)"
                " VALUES (1, :mail, encode(pgp_sym_encrypt('of hers', :key), 'base64'))"
            ),
            {"mail": Fernet(OLD).encrypt(b"ada@x.org").decode(), "key": PASSPHRASE},
        )
    before = clear_seen().get("legacy.mail", 0)
    with Session(clients) as session:
        ada = session.get_one(Client, 1)
        assert (ada.mail, ada.note) == ("ada@x.org", "of hers")
    assert clear_seen().get("legacy.mail", 0) == before


def test_pydantic_takes_the_texts_of_the_other_system(shared: Veil) -> None:
    class Model(BaseModel):
        model_config = ConfigDict(hide_input_in_errors=True)

        mail: Annotated[Sealed[str], Of("legacy.mail", format="fernet")]
        note: Annotated[Sealed[str], Of("legacy.note", format="pgcrypto")]

    mail, note = Fernet(OLD).encrypt(b"ada@x.org").decode(), shared.seal("legacy.note", "of hers")
    texts = {"mail": mail, "note": note}
    with shared.purpose("support"):
        for model in (Model(**texts), Model.model_validate_json(json.dumps(texts))):
            opened = (model.mail.reveal(shared), model.note.reveal(shared))
            assert opened == ("ada@x.org", "of hers")
            assert json.loads(model.model_dump_json()) == texts
    for bad in ({"mail": note}, {"note": mail}, {"mail": "canary"}, {"note": "vs1.token"}):
        for take in (Model.model_validate, lambda row: Model.model_validate_json(json.dumps(row))):
            with pytest.raises(ValidationError) as fault:
                take({**texts, **bad})
            assert "canary" not in str(fault.value)


def test_ciphertext_is_no_value_where_clear_ones_are_let_through(
    clients: Engine, shared: Veil
) -> None:
    note = shared.seal("legacy.note", "x")
    token = shared.seal("customers.email", "a@x.org", subject=1)
    stranger, mail = Fernet(Fernet.generate_key()), Fernet(NEW).encrypt(b"x").decode()
    # Under no key of theirs; cut, as by a narrow column; a token of ours, as versions before wrote.
    mails = [stranger.encrypt(b"x").decode(), mail[:-3], token]
    notes = [note[:-8], note[:40], token]
    statement = text("INSERT INTO legacy_clients (id, mail, note) VALUES (:id, :mail, :note)")
    with clients.begin() as connection:
        for n in range(3):
            connection.execute(statement, {"id": n, "mail": mails[n], "note": None})
            connection.execute(statement, {"id": n + 3, "mail": None, "note": notes[n]})
        connection.execute(statement, {"id": 9, "mail": "ada@x.org", "note": "of hers"})
    before = clear_seen().get("legacy.mail", 0)
    with Session(clients) as session:
        for n in range(6):
            row = session.get_one(Client, n)
            with pytest.raises(NotRevealed, match="corrupt"):
                getattr(row, "mail" if n < 3 else "note")
        assert clear_seen().get("legacy.mail", 0) == before
        clear = session.get_one(Client, 9)
        assert (clear.mail, clear.note) == ("ada@x.org", "of hers")
    assert clear_seen()["legacy.mail"] == before + 1
