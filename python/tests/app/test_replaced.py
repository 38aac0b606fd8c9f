"""An entity in the place of another one that the same flush deletes: SQLAlchemy updates the row."""

from __future__ import annotations

import pytest
from models import Note, Person
from sqlalchemy import Engine, select, text, update
from sqlalchemy.orm import Session

from veilstream import NotSealed

OLD = {"mail": "old@x.org", "ssn": "1-11", "iban": "one", "age": 1, "region": "us", "city": "Rome"}


@pytest.fixture
def session(engine: Engine) -> Session:
    with Session(engine) as session, session.begin():
        session.add(Person(id=1, notes=[Note(id=5, text="old")], **OLD))
        session.add(Person(id=2, **OLD | {"ssn": "2-22"}))
    return Session(engine)


def shown(person: Person) -> tuple[object, ...]:
    iban = None if person.iban is None else person.iban.reveal()
    return person.mail, person.ssn, iban, person.age, person.region, person.city


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"mail": "b@x.org", "ssn": "3-33", "iban": "two", "age": 2, "region": "us"},
            ("b@x.org", "3-33", "two", 2, "us", None),
        ),
        ({"ssn": "3-33"}, (None, "3-33", None, None, "eu", None)),
        ({"mail": "b@x.org", "region": "de"}, ("b@x.org", None, None, None, "de", None)),
        ({"name": "B"}, (None, None, None, None, "eu", None)),
    ],
)
def test_a_new_entity_has_what_it_was_given_and_nothing_of_the_deleted_one(
    session: Session, given: dict[str, object], expected: tuple[object, ...]
) -> None:
    with session:
        # Another one that changes in the same flush takes along what its tokens are tied to.
        session.get_one(Person, 2).region = "de"
        session.delete(session.get_one(Person, 1))
        session.add(Person(id=1, **given))
        session.flush()
        # What a flush may do is not open to other statements after it.
        with pytest.raises(NotSealed, match="tied to region"):
            session.execute(update(Person).where(Person.id == 2).values(region="us"))
        session.commit()
        session.expunge_all()
        assert shown(session.get_one(Person, 1)) == expected
        assert session.get_one(Person, 2).ssn == "2-22"
        # It is found by what it has, and by nothing that the other one had.
        for column in (Person.mail, Person.ssn, Person.city):
            key = column.key
            for value in (given.get(key), OLD[key]):
                if value is not None:
                    found = session.scalars(select(Person).where(column == value)).all()
                    assert (1 in [one.id for one in found]) == (value == given.get(key)), key
        left = session.execute(text("SELECT city_bidx, ssn_bidx FROM people WHERE id = 1")).one()
        assert left[0] is None and (left[1] is None) == ("ssn" not in given)


def test_a_member_that_is_replaced_has_nothing_of_the_old_one(session: Session) -> None:
    """The relationship deletes the old one, and no call does."""
    with session:
        session.get_one(Person, 1).notes = [Note(id=5, plain="new")]
        session.commit()
        session.expunge_all()
        (note,) = session.get_one(Person, 1).notes
        assert (note.plain, note.text, note.text_bidx) == ("new", None, None)
