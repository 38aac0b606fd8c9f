"""Attributes that do not open: anyone who reads one hears why, however its row was loaded."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from models import Base, Note, Person
from pg import Postgres
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    ORMExecuteState,
    Session,
    defer,
    joinedload,
    object_session,
    selectinload,
    undefer,
)

from veilstream import NotRevealed, PurposeError, Veil
from veilstream.sqlalchemy import attach

pytestmark = pytest.mark.usefixtures("ahead")

Load = Callable[[Session], Person]
CLOSED = {"mail": "corrupt", "city": "clear", "age": "corrupt"}


@pytest.fixture
def rows(engine: Engine) -> Engine:
    """Of person 2, three attributes do not open."""
    with Session(engine) as session, session.begin():
        for n in (1, 2):
            notes = [Note(id=n, text=f"note {n}")]
            person = Person(id=n, mail=f"{n}@x.org", city="Bonn", age=n, ssn=f"1{n}", notes=notes)
            session.add(person)
    with engine.begin() as connection:
        # Planted from another row, and no token at all.
        connection.execute(
            text(
                "UPDATE people SET (mail, age) = (SELECT mail, age FROM people WHERE id = 1),"
                " city = 'Bonn' WHERE id = 2"
            )
        )
    return engine


def refused(person: Person, key: str, times: int = 2) -> None:
    for _ in range(times):
        with pytest.raises(NotRevealed) as fault:
            getattr(person, key)
        field = "people." + {"mail": "email"}.get(key, key)
        assert (fault.value.field, fault.value.status) == (field, CLOSED[key])


def expired(session: Session) -> Person:
    person = session.get_one(Person, 2)
    session.expire(person)
    return person


def expired_in_part(session: Session) -> Person:
    person = session.get_one(Person, 2)
    session.expire(person, ["mail", "age", "name"])
    return person


def committed(session: Session) -> Person:
    person = session.get_one(Person, 2)
    session.commit()
    return person


def refreshed(session: Session) -> Person:
    person = session.get_one(Person, 2)
    session.refresh(person)
    return person


def refreshed_in_part(session: Session) -> Person:
    person = session.get_one(Person, 2)
    session.refresh(person, ["mail", "city"])
    return person


def deferred(session: Session) -> Person:
    some = (defer(Person.mail), defer(Person.city), defer(Person.age))
    return session.scalars(select(Person).where(Person.id == 2).options(*some)).one()


def undeferred(session: Session) -> Person:
    person = deferred(session)
    one = select(Person).where(Person.id == 2).options(undefer(Person.mail))
    return session.scalars(one.execution_options(populate_existing=True)).one()


def lazily(session: Session) -> Person:
    found = session.get_one(Note, 2).person
    assert found is not None
    return found


def eagerly(session: Session) -> Person:
    query = select(Note).where(Note.id == 2)
    found = session.scalars(query.options(joinedload(Note.person))).one().person
    assert found is not None
    return found


def with_others(session: Session) -> Person:
    query = select(Note).order_by(Note.id).options(selectinload(Note.person))
    one, two = session.scalars(query).all()
    assert one.person is not None and one.person.mail == "1@x.org" and two.person is not None
    return two.person


LOADS: list[Load] = [
    *(expired, expired_in_part, committed, refreshed, refreshed_in_part),
    *(deferred, undeferred, lazily, eagerly, with_others),
]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("first", ["name", *CLOSED])
def test_anyone_who_reads_one_hears_why(rows: Engine, load: Load, first: str) -> None:
    """Whichever attribute makes SQLAlchemy load all that is missing."""
    with Session(rows) as session:
        person = load(session)
        if first != "name":
            refused(person, first)
        assert (person.name, person.ssn, person.region) == (None, "12", "eu")
        for key in CLOSED:
            refused(person, key)


def test_a_detached_or_pickled_entity_says_it_too(rows: Engine) -> None:
    with Session(rows) as session:
        person = session.get_one(Person, 2)
    copied: Person = pickle.loads(pickle.dumps(person))
    for one in (person, copied):
        assert one.ssn == "12"
        for key in CLOSED:
            refused(one, key)


def test_what_is_written_over_them_is_read(rows: Engine) -> None:
    with Session(rows) as session:
        person = session.get_one(Person, 2)
        person.mail = "new@x.org"
        assert person.mail == "new@x.org"
        session.commit()
        refused(person, "age")
        assert person.mail == "new@x.org"
        # Nobody can seal again what does not open.
        person.id = 3
        with pytest.raises(NotRevealed, match="not loaded"):
            session.flush()
        session.rollback()
        with rows.begin() as connection:
            connection.execute(text("UPDATE people SET city = NULL WHERE id = 2"))
        refused(person, "age", times=1)
        assert person.city is None


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_async_sessions_say_it_without_a_further_statement(
    postgres: Postgres, rows: Engine, veil: Veil, driver: str
) -> None:
    async def main() -> None:
        engine = create_async_engine(postgres.url(driver))
        attach(engine, veil)
        try:
            async with AsyncSession(engine) as session:
                person = await session.get_one(Person, 2)
                for key in CLOSED:
                    refused(person, key)
                await session.refresh(person)
                refused(person, "mail")
                session.expire(person, ["mail", "age", "name"])
                await session.refresh(person, ["mail", "age", "name"])
                refused(person, "mail")
                assert person.name is None
                query = select(Note).where(Note.id == 2).options(selectinload(Note.person))
                note = (await session.scalars(query)).one()
                assert note.text == "note 2" and note.person is not None
                refused(note.person, "age")
        finally:
            await engine.dispose()

    asyncio.run(main())


def test_an_old_form_that_does_not_open_hinders_no_row(rows: Engine) -> None:
    def old(value: str) -> str:
        raise ValueError(value)

    kind: Any = Base.metadata.tables["people"].c.city.type
    kind.clear, kind.old = "allow", old
    try:
        with Session(rows) as session:
            one, two = session.scalars(select(Person).order_by(Person.id)).all()
            assert (one.city, two.ssn) == ("Bonn", "12")
            with pytest.raises(NotRevealed, match="corrupt") as fault:
                _ = two.city
            assert "Bonn" not in repr(fault.value.__cause__ or fault.value)
        with rows.begin() as connection:
            found = "UPDATE people SET city_bidx = (SELECT city_bidx FROM people WHERE id = 1)"
            connection.execute(text(found))
        with Session(rows) as session:
            people = session.scalars(select(Person).where(Person.city == "Bonn")).all()
            assert [person.id for person in people] == [1]
    finally:
        kind.clear, kind.old = "reject", None


def test_results_that_another_listener_made_are_opened(rows: Engine) -> None:
    def frozen(state: ORMExecuteState) -> Any:
        return state.invoke_statement().freeze()()

    def merged(state: ORMExecuteState) -> Any:
        return state.invoke_statement().merge()

    for listener in (frozen, merged):
        with Session(rows) as session:
            event.listen(session, "do_orm_execute", listener)
            query = select(Person).options(selectinload(Person.notes)).order_by(Person.id)
            one, two = session.scalars(query).all()
            assert (one.mail, two.ssn) == ("1@x.org", "12")
            assert one.notes[0].text == "note 1"
            refused(two, "mail")


def test_what_a_failed_statement_left_sealed_is_read_again(rows: Engine, veil: Veil) -> None:
    """The caller holds the entity, and the fault is over at the next read."""

    def fail(target: Note, context: Any) -> None:
        raise RuntimeError("in the middle of the rows")

    def by_purpose(session: Session, person: Person) -> None:
        with veil.purpose("nobody's"):
            session.refresh(person)

    def by_row(session: Session, person: Person) -> None:
        session.expire(person)
        event.listen(Note, "load", fail)
        try:
            session.scalars(select(Person, Note).join(Note).where(Person.id == 1)).all()
        finally:
            event.remove(Note, "load", fail)

    failing: list[tuple[Callable[[Session, Person], None], type[Exception]]]
    failing = [(by_purpose, PurposeError), (by_row, RuntimeError)]
    for load, fault in failing:
        with Session(rows) as session:
            person = session.get_one(Person, 1)
            with pytest.raises(fault):
                load(session, person)
            assert not {"mail", "city", "age", "ssn"} & vars(person).keys()
            assert (person.mail, person.age) == ("1@x.org", 1)


class Plain(Base):
    """People without what is protected."""

    __table__ = Base.metadata.tables["people"].alias("plain")
    __mapper_args__ = {"include_properties": ["id", "name"], "primary_key": [__table__.c.id]}


def test_a_statement_of_a_load_event_takes_no_rows_away(rows: Engine) -> None:
    """It runs while the rows of another statement are read."""

    def count(target: Plain, context: Any) -> None:
        session = object_session(target)
        assert session is not None
        session.execute(select(func.count()).select_from(Note))

    event.listen(Plain, "load", count)
    with Session(rows) as session:
        query = select(Plain, Person).where(Plain.id == Person.id).order_by(Person.id)
        (_, one), (_, two) = session.execute(query).all()
        assert (one.mail, two.ssn) == ("1@x.org", "12")
