"""Mappings that would protect less than they say are refused."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from models import Base, Note, Person
from sqlalchemy import (
    Column,
    Engine,
    Identity,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    Uuid,
    insert,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column

import veilstream
from veilstream import Veil
from veilstream.guide import EncryptedString
from veilstream.sqlalchemy import (
    BlindIndex,
    Encrypted,
    MappingError,
    blind_index,
    check,
    encrypted,
)


def table(*columns: Column[Any], **options: Any) -> Table:
    return Table("t", MetaData(), *columns)


def test_keys_that_the_server_makes_come_too_late() -> None:
    mail: Any = Encrypted("people.email", subject="id")
    for key in (
        Column("id", Integer, primary_key=True),
        Column("id", Integer, Identity(), primary_key=True),
        Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    ):
        with pytest.raises(MappingError, match="server"):
            check(None, [table(key, Column("mail", mail))])  # type: ignore[arg-type]

    class Own(DeclarativeBase):
        pass

    class Late(Own):
        __tablename__ = "late"
        id: Mapped[int] = mapped_column(primary_key=True)
        mail: Mapped[str] = encrypted("people.email", subject="id")

    with pytest.raises(MappingError, match="autoincrement=False"):
        configure_mappers()
    Own.registry.dispose()


def test_names_must_be_mapped_columns() -> None:
    def key() -> Column[Any]:
        return Column("id", Integer, primary_key=True, autoincrement=False)

    other: Column[Any]
    mail: Column[Any]
    for options in ({"subject": "nowhere"}, {"subject": "id", "index": "nowhere"}):
        with pytest.raises(MappingError, match="nowhere"):
            check(None, [table(key(), Column("mail", Encrypted("people.email", **options)))])  # type: ignore
    with pytest.raises(MappingError, match="blind_index"):
        other = Column("bidx", BlindIndex("people.city"))
        mail = Column("mail", Encrypted("people.email", subject="id", index="bidx"))
        check(None, [table(key(), mail, other)])  # type: ignore[arg-type]
    with pytest.raises(MappingError, match="protected itself"):
        other = Column("o", Encrypted("people.city", subject="id"))
        check(None, [table(key(), Column("m", Encrypted("people.email", subject="o")), other)])  # type: ignore


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (Encrypted("people.email"), "subject="),
        (Encrypted("people.ssn", subject="id"), "bound to person, region"),
        (Encrypted("people.ssn", subject="id", bind={"person": "id"}), "bound to person, region"),
        (Encrypted("people.email", subject="id", bind={"person": "id"}), "bound to nothing"),
        (Encrypted("notes.text", subject="id"), "no subject"),
        (Encrypted("people.age", subject="id", index="bidx"), "no index in its schema"),
    ],
)
def test_what_the_schema_asks_for_must_be_mapped(veil: Veil, column: Any, says: str) -> None:
    own = table(
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("mail", column),
        Column("bidx", BlindIndex(column.field)),
    )
    with pytest.raises(MappingError, match=says):
        check(veil, [own])


def test_what_becomes_of_old_values_is_one_of_three() -> None:
    clear: Any
    for clear in ("ignore", "", None, True):
        for mapped in (encrypted, EncryptedString):
            with pytest.raises(ValueError, match='people.email: clear is "reject", "count" or'):
                mapped(field="people.email", subject="id", clear=clear)


def test_fields_must_exist(veil: Veil) -> None:
    with pytest.raises(veilstream.UnknownField):
        check(veil, [table(Column("x", Encrypted("notes.nowhere")))])
    check(veil, Base.metadata.tables.values())


def test_ids_that_are_asked_for_before(engine: Engine, veil: Veil) -> None:
    """A sequence, and ids of this side: the token is tied to them all the same."""

    class Own(DeclarativeBase):
        pass

    class ByUuid(Own):
        __tablename__ = "by_uuid"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
        mail: Mapped[str] = encrypted("people.email", index="bidx", subject="id")
        bidx: Mapped[str | None] = blind_index("people.email")

    class BySequence(Own):
        __tablename__ = "by_sequence"
        id: Mapped[int] = mapped_column(Sequence("by_sequence_ids"), primary_key=True)
        mail: Mapped[str] = encrypted("people.email", index="bidx", subject="id")
        bidx: Mapped[str | None] = blind_index("people.email")

    Own.metadata.create_all(engine)
    try:
        kinds: list[Any] = [ByUuid, BySequence]
        for kind in kinds:
            with Session(engine) as session:
                made = [kind(mail=f"{n}@x.org") for n in range(3)]
                session.add_all(made)
                session.commit()
                assert [one.mail for one in made] == [f"{n}@x.org" for n in range(3)]
                assert len({one.id for one in made}) == 3
                session.execute(insert(kind), [{"mail": "core@x.org"}])
                found = session.scalars(select(kind).where(kind.mail == "core@x.org")).one()
                assert found.mail == "core@x.org"
    finally:
        Own.metadata.drop_all(engine)
        Own.registry.dispose()


def test_ids_of_the_server_go_with_a_schema_without_subject(engine: Engine) -> None:
    with Session(engine) as session:
        session.add_all([Note(text=f"note {n}", person=Person(id=n)) for n in range(3)])
        session.commit()
        found = session.scalars(select(Note).where(Note.text == "NOTE 2")).one()
        assert found.person is not None and found.person.id == 2


def test_types_are_cached_and_render(engine: Engine) -> None:
    from sqlalchemy.schema import CreateTable

    ddl = str(CreateTable(Person.__table__).compile(engine))  # type: ignore[arg-type]
    assert 'mail TEXT COLLATE "C"' in ddl and 'email_bidx TEXT COLLATE "C"' in ddl
    first = Encrypted("people.email", index="i", subject="id", bind={"b": "x"})
    second = Encrypted("people.email", index="i", subject="id", bind={"b": "y"})
    assert first._static_cache_key != second._static_cache_key
    assert isinstance(first.impl, Text) and repr(first) == "Encrypted('people.email')"
