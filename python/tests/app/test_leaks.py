"""A canary is written, found and read in every way; then everything that was said is searched."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from models import Base, Note, Person
from pg import Postgres
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine, create_engine, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session
from world import World

import veilstream
from veilstream import Sealed, Veil
from veilstream.sqlalchemy import attach

CANARIES = (
    "canary.7f3a@example.com",
    "219-09-4271",
    "DE89370400440532013000",
    "Kanarienvogelstadt",
)
MAIL, SSN, IBAN, CITY = CANARIES


@pytest.fixture
def said(postgres: Postgres, veil: Veil) -> Iterator[tuple[Engine, io.StringIO]]:
    """An engine that echoes, and all that is logged."""
    text_of = io.StringIO()
    handler = logging.StreamHandler(text_of)
    root = logging.getLogger()
    root.addHandler(handler)
    engine = create_engine(postgres.url("psycopg"), echo="debug")
    attach(engine, veil)
    assert engine.hide_parameters
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with veil.purpose("support"):
        yield engine, text_of
    root.removeHandler(handler)
    engine.dispose()


def person(number: int = 1) -> Person:
    return Person(id=number, mail=MAIL, ssn=SSN, iban=IBAN, city=CITY)


def failures(engine: Engine) -> Iterator[BaseException]:
    """Ways to fail with a canary at hand."""

    def of(call: Any) -> BaseException:
        with Session(engine) as session:
            with pytest.raises(Exception) as fault:
                call(session)
                session.flush()
            return fault.value

    # The database refuses the row: a second primary key, a second unique index value.
    yield of(lambda s: s.execute(insert(Person), [{"id": 1, "mail": MAIL, "ssn": SSN}]))
    yield of(lambda s: s.add_all([person(50), person(51)]))
    yield of(
        lambda s: s.execute(insert(Person).values(id=60, mail=MAIL, name="x" * 3, region=None))
    )
    # Another column's bind processor fails: SQLAlchemy quotes parameters from before binding.
    yield of(lambda s: s.add(Person(id="seven", mail=MAIL, ssn=SSN, iban=IBAN)))
    yield of(lambda s: s.execute(insert(Note), [{"text": MAIL, "kind": object()}]))
    yield of(lambda s: s.execute(insert(Note).values(text=MAIL, kind=object())))
    yield of(
        lambda s: s.execute(update(Person).where(Person.id == 1).values(mail=MAIL, region=object()))
    )
    yield of(lambda s: s.execute(select(Person).where(Person.mail == MAIL, Person.id == object())))
    # A parameter that is missing.
    table: Any = Person.__table__
    yield of(lambda s: s.execute(insert(table), [{"id": 7, "mail": MAIL}, {"id": 8}]))
    # A value that the schema does not take, and what ciphertext cannot do.
    yield of(lambda s: s.add(Person(id=70, age=MAIL)))
    yield of(lambda s: s.execute(select(Person).where(Person.mail == MAIL).limit(1)))
    yield of(lambda s: s.execute(delete(Person).where(Person.mail == MAIL)))
    yield of(lambda s: s.execute(update(Person).where(Person.name == "n").values(mail=MAIL)))
    yield of(
        lambda s: s.execute(select(Person).where(Person.mail == MAIL).where(text("nowhere = 1")))
    )
    yield of(lambda s: Person.mail.like(MAIL))
    yield of(lambda s: pickle.dumps(person().iban))
    yield of(lambda s: s.execute(select(Person).where(Person.mail == MAIL).compile().string % MAIL))


def test_nothing_leaks(said: tuple[Engine, io.StringIO], postgres: Postgres, world: World) -> None:
    engine, logged = said
    told: list[str] = []
    with Session(engine) as session, session.begin():
        session.add(person())
    with Session(engine) as session:
        found = session.scalars(select(Person).where(Person.mail == MAIL)).one()
        assert found.mail == MAIL and found.iban is not None and found.iban.reveal() == IBAN
        told += [repr(found), repr(found.iban), f"{found.iban}"]
        told.append(pickle.dumps(found.iban).decode("latin-1"))
        told.append(repr(select(Person).where(Person.mail == MAIL).compile().params))
        told.append(str(select(Person).where(Person.mail == MAIL)))

        class Shown(BaseModel):
            model_config = ConfigDict(from_attributes=True)
            iban: Sealed[str]

        shown = Shown.model_validate(found)
        told += [repr(shown), repr(shown.model_dump()), shown.model_dump_json()]
        found.mail = "other@example.com"
        found.mail = MAIL
        found.iban = IBAN  # type: ignore[assignment]
        told.append(repr(found.iban))
        session.commit()
    for number, fault in enumerate(failures(engine)):
        seen: list[BaseException] = [fault]
        while seen[-1].__cause__ or seen[-1].__context__:
            seen.append(seen[-1].__cause__ or seen[-1].__context__)  # type: ignore[arg-type]
        assert not isinstance(fault, AssertionError), number
        for one in seen:
            told += [repr(one), str(one), repr(one.args), repr(getattr(one, "params", None))]
            told += traceback.format_exception_only(one)
    # The traceback's lines quote this file, in which the canaries are constants.
    everything = {
        "exceptions": "\n".join(told),
        "log": logged.getvalue(),
        "PostgreSQL": postgres.log(),
        "audit": world.audit_text(),
    }
    assert (
        "INSERT INTO people" in everything["log"]
        and "INSERT INTO people" in everything["PostgreSQL"]
    )
    for where, content in everything.items():
        for canary in CANARIES:
            assert canary not in content, f"{canary} stands in {where}"
            assert canary.lower() not in content.lower(), f"{canary} stands in {where}"


def test_the_faults_are_those_that_were_meant(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(person())
    kinds = [type(fault) for fault in failures(engine)]
    assert issubclass(kinds[0], IntegrityError) and issubclass(kinds[1], IntegrityError)
    assert all(issubclass(kind, StatementError) for kind in kinds[3:6]), kinds
    assert issubclass(kinds[11], veilstream.NotSearchable), kinds


def test_values_in_clear_never_reach_a_driver(postgres: Postgres, veil: Veil) -> None:
    """Without a Veil nothing is sent, and the error quotes nothing."""
    engine = create_engine(postgres.url("psycopg"))
    for statement in (
        insert(Person).values(id=1, mail=MAIL),
        select(Person).where(Person.mail == MAIL),
        update(Person).where(Person.id == 1).values(mail=MAIL),
    ):
        with engine.connect() as connection, pytest.raises(veilstream.ConfigError) as fault:
            connection.execute(statement)
        assert MAIL not in "".join(traceback.format_exception_only(fault.value))
        assert not isinstance(fault.value, StatementError)
    engine.dispose()
