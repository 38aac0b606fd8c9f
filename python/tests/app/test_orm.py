"""Entities over PostgreSQL: what is written, what is loaded, and who hears of it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from models import Base, Note, Person, Vault
from pg import Postgres
from sqlalchemy import Engine, and_, create_engine, event, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import (
    Session,
    aliased,
    defer,
    joinedload,
    load_only,
    selectinload,
    sessionmaker,
)
from world import Service, World, forked

import veilstream
from veilstream import AuditError, NotSealed, Sealed, Veil
from veilstream.sqlalchemy import attach, clear_seen
from veilstream.sqlalchemy.opening import Opening

pytestmark = pytest.mark.usefixtures("ahead")


def stored(engine: Engine, columns: str, where: str = "true", table: str = "people") -> list[Any]:
    """What stands in the table."""
    with engine.connect() as connection:
        return list(connection.execute(text(f"SELECT {columns} FROM {table} WHERE {where}")))


def add(engine: Engine, *people: Person) -> None:
    with Session(engine) as session, session.begin():
        session.add_all(people)


def reveals(world: World, before: int) -> list[dict[str, Any]]:
    return [line for line in world.audited()[before:] if line["event"] == "reveal"]


def test_an_entity_is_sealed_and_opened(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        ada = Person(id=1, mail="Ada@x.org", ssn="078-05-1120", iban="DE89", age=41)
        assert repr(ada.iban) == "<sealed people.iban>"
        session.add(ada)
        session.commit()
        assert (ada.mail, ada.age, ada.region) == ("Ada@x.org", 41, "eu")
        assert ada.iban is not None and ada.iban.reveal() == "DE89"
    (row,) = stored(engine, "mail, ssn, iban, age, email_bidx, ssn_bidx, city_bidx")
    assert all(token.startswith("vs1.") for token in row[:4])
    assert row[4].startswith("1~") and len(row[5]) > 20 and row[6] is None
    with Session(engine) as session:
        ada = session.get_one(Person, 1)
        assert (ada.mail, ada.ssn, ada.age, ada.city) == ("Ada@x.org", "078-05-1120", 41, None)
        assert ada.email_bidx == row[4]
        assert isinstance(ada.iban, Sealed) and ada.iban.reveal() == "DE89"
        assert ada.iban.token == row[2]


def test_changes_are_sealed_again(engine: Engine) -> None:
    add(engine, Person(id=1, mail="a@x.org", ssn="1-11", iban="one", age=1))
    before = stored(engine, "mail, ssn, iban, age, email_bidx, ssn_bidx")[0]
    with Session(engine) as session, session.begin():
        person = session.get_one(Person, 1)
        person.mail = "b@x.org"
        person.name = "B"
    after = stored(engine, "mail, ssn, iban, age, email_bidx, ssn_bidx")[0]
    assert after[0] != before[0] and after[4] != before[4]
    assert after[1:4] == before[1:4] and after[5] == before[5]
    with Session(engine) as session:
        person = session.get_one(Person, 1)
        person.iban = "two"  # type: ignore[assignment]
        person.mail = None
        session.commit()
        assert person.mail is None and person.email_bidx is None
        assert person.iban is not None and person.iban.reveal() == "two"
        # What a token is tied to takes it along.
        person.region = "us"
        session.commit()
    with Session(engine) as session:
        assert session.get_one(Person, 1).ssn == "1-11"
        session.get_one(Person, 1).id = 2
        session.commit()
    with Session(engine) as session:
        person = session.get_one(Person, 2)
        assert (person.ssn, person.age) == ("1-11", 1)
        assert person.iban is not None and person.iban.reveal() == "two"


def test_all_ways_of_insert_fill_the_index(engine: Engine) -> None:
    table = Person.__table__
    with engine.begin() as connection:
        connection.execute(insert(table), {"id": 1, "mail": "1@x.org", "ssn": "11"})  # type: ignore
        connection.execute(
            insert(table),  # type: ignore
            [{"id": n, "mail": f"{n}@x.org", "ssn": f"1{n}"} for n in (2, 3)],
        )
        connection.execute(insert(table).values(id=4, mail="4@x.org", ssn="14"))  # type: ignore
        connection.execute(
            insert(table).values([{"id": n, "mail": f"{n}@x.org", "ssn": f"1{n}"} for n in (5, 6)])  # type: ignore
        )
    with Session(engine) as session, session.begin():
        session.execute(insert(Person), [{"id": 7, "mail": "7@x.org", "ssn": "17"}])
        session.execute(insert(Person).values(id=8, mail="8@x.org", ssn="18"))
        session.bulk_insert_mappings(Person, [{"id": 9, "mail": "9@x.org", "ssn": "19"}])
        session.bulk_save_objects([Person(id=10, mail="10@x.org", ssn="110")])
        session.add(Person(id=11, mail="11@x.org", ssn="111"))
        session.merge(Person(id=12, mail="12@x.org", ssn="112"))
        made = session.scalars(
            insert(Person).returning(Person), [{"id": 13, "mail": "13@x.org", "ssn": "113"}]
        ).one()
        assert made.mail == "13@x.org"
    with Session(engine) as session:
        for n in range(1, 14):
            by_mail = session.scalars(select(Person).where(Person.mail == f"{n}@X.org")).all()
            by_ssn = session.scalars(select(Person).where(Person.ssn == f"1-{n}")).all()
            assert [p.id for p in by_mail] == [p.id for p in by_ssn] == [n]
            assert by_ssn[0].region == "eu"


def test_on_conflict_takes_the_index_along(engine: Engine) -> None:
    add(engine, *[Person(id=n, mail=f"{n}@x.org", ssn=f"1{n}") for n in (1, 2)])
    rows = [{"id": n, "mail": f"new{n}@x.org", "ssn": f"1{n}"} for n in (2, 3)]
    statement = pg_insert(Person).values(rows)
    with Session(engine) as session, session.begin():
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["id"], set_={"mail": statement.excluded.mail, "name": "again"}
            )
        )
        for wanted in (2, 3):
            found = session.scalars(select(Person).where(Person.mail == f"new{wanted}@x.org"))
            assert found.one().id == wanted
        clear = pg_insert(Person).values(id=2, mail="x@x.org")
        session.execute(clear.on_conflict_do_update(constraint="people_pkey", set_={"mail": None}))
        assert stored_in(session, 2) == (None, None)
        # Another row may be the one in conflict: the token would be of the wrong one.
        for refused in (
            statement.on_conflict_do_update(
                index_elements=["ssn_bidx"], set_={"mail": statement.excluded.mail}
            ),
            statement.on_conflict_do_update(index_elements=["id"], set_={"mail": "clear@x.org"}),
        ):
            with pytest.raises(NotSealed):
                session.execute(refused)
        session.execute(statement.on_conflict_do_nothing())


def stored_in(session: Session, number: int) -> Any:
    row = session.execute(
        text("SELECT mail, email_bidx FROM people WHERE id = :id"), {"id": number}
    ).one()
    return tuple(row)


def test_updates_say_whose_row_it_is(engine: Engine) -> None:
    add(engine, *[Person(id=n, mail=f"{n}@x.org", name="n") for n in (1, 2, 3)])
    with Session(engine) as session, session.begin():
        session.execute(update(Person).where(Person.id == 1).values(mail="one@x.org"))
        session.execute(update(Person), [{"id": 2, "mail": "two@x.org"}])
        session.execute(update(Person).where(Person.name == "n").values(city=None))
        with pytest.raises(NotSealed, match="tied to id"):
            session.execute(update(Person).where(Person.name == "n").values(mail="x@x.org"))
        with pytest.raises(NotSealed):
            session.execute(update(Person).where(Person.id == 1).values(mail=func.lower("X")))
        with pytest.raises(NotSealed):
            session.execute(
                insert(Person).from_select(["id", "mail"], select(Person.id + 100, Person.name))
            )
    with Session(engine) as session:
        mails = session.scalars(select(Person).order_by(Person.id)).all()
        assert [person.mail for person in mails] == ["one@x.org", "two@x.org", "3@x.org"]
        assert session.scalars(select(Person).where(Person.mail == "two@x.org")).one().id == 2


OF_NOBODY: dict[str, Any] = {
    "a join": update(Person).where(Person.id == Note.person_id, Note.id == 5),
    "a namesake": update(Person).where(Note.id == 5),
    "an alias": update(Person).where(aliased(Person, name="other").id == 5),
    "an alias of its table": update(Person).where(Person.__table__.alias("other").c.id == 5),
    "another table": update(Person.__table__).where(Note.__table__.c.id == 5),  # type: ignore[arg-type]
    "either": update(Person).where((Person.id == 5) | (Person.id == 1)),
    "not it": update(Person).where(~and_(Person.id == 5, Person.name == "n")),
}


@pytest.mark.filterwarnings("ignore:UPDATE statement has a cartesian product")
@pytest.mark.parametrize("name", OF_NOBODY)
def test_updates_are_sealed_for_their_own_row_alone(engine: Engine, name: str) -> None:
    """A column of the same name in another table says nothing of this one."""
    add(engine, Person(id=1, mail="1@x.org", notes=[Note(id=5)]), Person(id=5, mail="5@x.org"))
    with Session(engine) as session:
        with pytest.raises(NotSealed, match="tied to id"):
            session.execute(
                OF_NOBODY[name].values(mail="new@x.org"),
                execution_options={"synchronize_session": False},
            )
        session.rollback()
        mails = session.scalars(select(Person).order_by(Person.id)).all()
        assert [person.mail for person in mails] == ["1@x.org", "5@x.org"]


@pytest.mark.filterwarnings("ignore:UPDATE statement has a cartesian product")
def test_updates_over_two_tables_that_say_whose_row_it_is(engine: Engine) -> None:
    add(engine, Person(id=1, mail="1@x.org", ssn="11", notes=[Note(id=5, plain="p")]))
    table: Any = Person.__table__
    with Session(engine) as session, session.begin():
        own = update(Person).where(Person.id == Note.person_id, Note.id == 5, Person.id == 1)
        session.execute(own.values(mail="new@x.org"))
        both = and_(table.c.id == 1, Note.__table__.c.id == 5)
        session.execute(update(table).where(both).values({table.c.city: "Paris"}))
        # The region of the row is known by a criterion too; that of a vault is not it.
        with pytest.raises(NotSealed, match="tied to region"):
            session.execute(update(Person).where(Person.id == 1, Vault.region == "eu").values(ssn="2"))
        session.execute(update(Person).where(Person.id == 1, Person.region == "eu").values(ssn="2"))
    with Session(engine) as session:
        person = session.get_one(Person, 1)
        assert (person.mail, person.city, person.ssn) == ("new@x.org", "Paris", "2")


def test_values_of_another_table_are_not_of_this_row(engine: Engine) -> None:
    add(engine, Person(id=1, mail="1@x.org", notes=[Note(id=5)]))
    people: Any = Person.__table__
    notes: Any = Note.__table__
    with engine.connect() as connection:
        clause = update(people).where(people.c.id == notes.c.person_id)
        with pytest.raises(NotSealed, match="tied to id"):
            connection.execute(clause.values({people.c.mail: "x@x.org", notes.c.id: 7}))


def test_what_a_token_is_tied_to_changes_with_it(engine: Engine) -> None:
    """A statement that leaves a token behind is refused: it would not open afterwards."""
    add(engine, Person(id=1, mail="1@x.org", ssn="11"), Person(id=2, region="us"))
    table: Any = Person.__table__
    own = update(Person).where(Person.id == 1)
    refused: list[Any] = [
        own.values(region="us"),
        own.values(region="us", mail="new@x.org", name="n"),
        own.values({table.c.region: func.lower("US")}),
        update(table).where(table.c.id == 1).values(region="us"),
        own.values(id=3, ssn="11", mail=None, city=None, iban=None),
        pg_insert(Person)
        .values(id=1)
        .on_conflict_do_update(index_elements=["id"], set_={"region": "us"}),
    ]
    with Session(engine) as session:
        for statement in refused:
            with pytest.raises(NotSealed, match=r"is tied to (id|region), .* Set (ssn|age) too"):
                session.execute(statement)
        for rows in ([{"id": 1, "region": "us"}], [{"id": n, "region": "us"} for n in (1, 2)]):
            with pytest.raises(NotSealed, match="tied to region"):
                session.execute(update(Person), rows)
            with pytest.raises(NotSealed, match="tied to region"):
                session.bulk_update_mappings(Person, rows)
            session.rollback()
        # A flush that failed says nothing of later statements.
        with pytest.raises(IntegrityError), session.begin_nested():
            session.get_one(Person, 1).ssn = "12"
            session.add(Person(id=2))
            session.flush()
        with pytest.raises(NotSealed, match="tied to region"):
            session.execute(refused[0])
        session.rollback()
        # Nothing moves, or the token moves along.
        session.execute(own.where(Person.region == "eu").values(region="eu", name="same"))
        again = pg_insert(Person).values(id=1, name="again")
        taken = {"id": again.excluded.id, "name": again.excluded.name}
        session.execute(again.on_conflict_do_update(index_elements=["id"], set_=taken))
        session.execute(own.values(region="us", ssn="12"))
        session.commit()
        one, two = session.scalars(select(Person).order_by(Person.id)).all()
        assert (one.name, one.region, one.ssn, one.mail) == ("again", "us", "12", "1@x.org")
        # By a flush; where there is no token, nothing is left behind.
        one.region = two.region = "uk"
        one.name, two.ssn = "flushed", None
        session.commit()
    with Session(engine) as session:
        one, two = session.scalars(select(Person).order_by(Person.id)).all()
        assert (one.region, one.ssn, two.region, two.ssn) == ("uk", "12", "uk", None)


def test_a_statement_is_one_disclosure(engine: Engine, world: World) -> None:
    add(engine, *[Person(id=n, mail=f"{n}@x.org", age=n, city="Paris") for n in range(1, 151)])
    for query, count in (
        (select(Person), 150),
        (select(Person).where(Person.id == 7), 1),
        (select(Person).options(joinedload(Person.notes)), 150),
    ):
        before = len(world.audited())
        with Session(engine) as session:
            assert len(session.scalars(query).unique().all()) == count
        lines = reveals(world, before)
        assert len(lines) == 1, lines
        assert lines[0]["fields"] == {"age": "revealed", "city": "revealed", "email": "revealed"}
        # Three tokens a row.
        assert lines[0]["items"] == 3 * count and lines[0]["purpose"] == "support"
        assert ("subject" in lines[0]) == (count == 1)
    before = len(world.audited())
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Person)) == 150
        assert session.scalars(select(Person.id)).all()
        assert session.scalars(select(Vault)).all() == []
    assert reveals(world, before) == []


LOADS: list[Callable[[Session], object]] = [
    lambda session: session.scalars(select(Person)).all(),
    lambda session: session.get(Person, 2),
    lambda session: session.scalars(select(Person).execution_options(yield_per=1)).first(),
    lambda session: session.scalars(select(Person).where(Person.mail == "canary2@x.org")).all(),
    lambda session: session.query(Person).filter_by(id=2).one(),
]


def test_without_its_line_a_load_hands_out_nothing(engine: Engine) -> None:
    """A disk that is full: the log takes no line, so no row and no value comes out."""
    add(engine, *[Person(id=n, mail=f"canary{n}@x.org") for n in range(3)])

    def load() -> tuple[list[str], list[str]]:
        engine.dispose(close=False)
        opened, told = [], []
        with Session(engine) as session:
            person = session.get_one(Person, 1)
            opened.append(str(person.mail))
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
            session.expire(person)
            for query in (lambda _: person.mail, *LOADS):
                try:
                    opened.append(repr(query(session)))
                except AuditError as error:
                    told.append(repr(error))
            told += [repr(vars(one)) for one in (person, *session.identity_map.values())]
        return opened, told

    opened, told = forked(load)()
    assert opened == ["canary1@x.org"]
    assert len(told) > len(LOADS) and not any("canary" in one for one in told)


def test_values_are_opened_while_the_next_rows_are_loaded(
    engine: Engine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one disclosure all the same, and what was assigned meanwhile stays."""
    add(engine, *[Person(id=n, mail=f"{n}@x.org", age=n) for n in range(250)])
    with engine.begin() as connection:
        other = "(SELECT mail FROM people WHERE id = 1)"
        connection.execute(text(f"UPDATE people SET mail = {other} WHERE id IN (7, 199, 248)"))
    monkeypatch.setattr("veilstream.sqlalchemy.load._AHEAD", 100)
    begun: list[int] = []
    begin = Opening.begin

    def counted(opening: Opening, states: Sequence[Any]) -> None:
        begun.append(len(states))
        begin(opening, states)

    monkeypatch.setattr(Opening, "begin", counted)

    def assign(person: Person, context: object) -> None:
        # The last of each batch: those that are begun have their token already.
        if person.id in (99, 199, 249):
            person.mail, person.age = "mine", 7

    before = len(world.audited())
    event.listen(Person, "load", assign)
    try:
        with Session(engine) as session:
            people = session.scalars(select(Person).order_by(Person.id)).all()
    finally:
        event.remove(Person, "load", assign)
    assert begun == [100, 100]
    (line,) = reveals(world, before)
    assert line["items"] == 500 - 2, "two values of the last row were not there to be opened"
    for person in people:
        if person.id in (7, 248):
            with pytest.raises(veilstream.NotRevealed, match="corrupt"):
                _ = person.mail
        elif person.id in (99, 199, 249):
            assert (person.mail, person.age) == ("mine", 7)
        else:
            assert (person.mail, person.age) == (f"{person.id}@x.org", person.id)


def test_rows_without_values_need_no_purpose(
    engine: Engine, world: World, veil: Veil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: nothing is opened, and no line is written."""
    add(engine, *[Person(id=n) for n in range(50)])
    monkeypatch.setattr("veilstream.sqlalchemy.load._AHEAD", 10)
    before = len(world.audited())
    with Session(engine) as session, veil.purpose("nobody's"):
        assert len(session.scalars(select(Person)).all()) == 50
    add(engine, Person(id=50, age=1))
    with Session(engine) as session, veil.purpose("nobody's"):
        with pytest.raises(veilstream.PurposeError):
            session.scalars(select(Person)).all()
    assert reveals(world, before) == []


def test_a_fork_while_values_are_opened(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    add(engine, *[Person(id=n, mail=f"{n}@x.org", age=n) for n in range(100)])
    monkeypatch.setattr("veilstream.sqlalchemy.load._AHEAD", 10)

    def load() -> list[str]:
        with Session(engine) as session:
            return [str(one.mail) for one in session.scalars(select(Person).order_by(Person.id))]

    def load_again() -> list[str]:
        engine.dispose(close=False)
        return load()

    wanted = [f"{n}@x.org" for n in range(100)]
    with ThreadPoolExecutor(1) as pool:
        loads = [pool.submit(load) for _ in range(30)]
        children = [forked(load_again) for _ in range(8)]
        assert all(one.result() == wanted for one in loads)
    assert all(child() == wanted for child in children)


def test_a_child_that_is_forked_within_a_statement_reads_none_of_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that opened the first values is not there."""
    add(engine, *[Person(id=n, mail=f"{n}@x.org", age=n) for n in range(100)])
    monkeypatch.setattr("veilstream.sqlalchemy.load._AHEAD", 10)
    children: list[int] = []

    def fork(person: Person, context: object) -> None:
        if person.id == 59:
            children.append(os.fork())
            if children == [0]:
                signal.alarm(60)  # It does not wait for what never comes.

    event.listen(Person, "load", fork)
    status = 1
    try:
        with Session(engine) as session:
            people = session.scalars(select(Person).order_by(Person.id)).all()
    except veilstream.VeilError as error:
        status = 0 if "fork" in str(error) else 2
    finally:
        if children == [0]:
            os._exit(status)
        event.remove(Person, "load", fork)
    assert [one.mail for one in people] == [f"{n}@x.org" for n in range(100)]
    assert os.waitpid(children[0], 0)[1] == 0


def test_listing_sealed_values_opens_nothing(engine: Engine, world: World) -> None:
    with Session(engine) as session, session.begin():
        session.add_all([Vault(id=n, iban=f"DE{n}", ssn=f"1{n}") for n in range(5)])
    before = len(world.audited())
    with Session(engine) as session:
        vaults = session.scalars(select(Vault).order_by(Vault.id)).all()
        assert reveals(world, before) == []
        assert vaults[3].iban is not None and vaults[3].iban.reveal() == "DE3"
        assert len(reveals(world, before)) == 1
        assert session.scalars(select(Vault.id).where(Vault.ssn == "1-2")).all() == [2]
        # A token of another row would not open there.
        vaults[0].iban = vaults[1].iban
        with pytest.raises(NotSealed, match="another row"):
            session.flush()


def test_relations_aliases_and_streams_are_opened(engine: Engine, world: World) -> None:
    people = [
        Person(id=n, mail=f"{n}@x.org", notes=[Note(text=f"{n} {m}") for m in range(2)])
        for n in range(1, 8)
    ]
    add(engine, *people)
    with Session(engine) as session:
        loaded = session.scalars(select(Person).options(selectinload(Person.notes))).all()
        assert {note.text for person in loaded for note in person.notes} >= {"1 0", "7 1"}
    with Session(engine) as session:
        other = aliased(Person)
        pairs = session.execute(
            select(Person, other).join(other, other.id == Person.id + 1).order_by(Person.id)
        ).all()
        assert [(a.mail, b.mail) for a, b in pairs][:1] == [("1@x.org", "2@x.org")]
        assert session.scalars(select(other).where(other.mail == "3@x.org")).one().id == 3
        assert session.get_one(Note, 1).person.mail == "1@x.org"  # type: ignore[union-attr]
    before = len(world.audited())
    with Session(engine) as session:
        streamed = session.scalars(
            select(Person).order_by(Person.id), execution_options={"yield_per": 3}
        )
        assert [person.mail for person in streamed] == [f"{n}@x.org" for n in range(1, 8)]
    # Up to a hundred people have a line each, here in three disclosures.
    assert [line["items"] for line in reveals(world, before)] == [1] * 7
    with Session(engine) as session:
        person = session.get_one(Person, 1)
        session.expire(person)
        assert person.name is None and person.mail == "1@x.org"
        person.mail = "changed"
        session.refresh(person)
        assert person.mail == "1@x.org"
        columns = session.execute(select(Person.id, Person.mail)).first()
        assert columns is not None and repr(columns.mail) == "<sealed people.email>"


def test_what_does_not_open_is_said_where_it_is_read(engine: Engine, world: World) -> None:
    add(engine, *[Person(id=n, mail=f"{n}@x.org", age=n) for n in (1, 2, 3)])
    with engine.begin() as connection:
        # A token that was planted in another row, and one that is none.
        connection.execute(
            text("UPDATE people SET mail = (SELECT mail FROM people WHERE id = 1) WHERE id = 2")
        )
        connection.execute(text("UPDATE people SET mail = 'clear@x.org' WHERE id = 3"))
    with Session(engine) as session:
        one, two, three = session.scalars(select(Person).order_by(Person.id)).all()
        assert (one.mail, one.age, two.age, three.age) == ("1@x.org", 1, 2, 3)
        for person, status in ((two, "corrupt"), (three, "clear"), (two, "corrupt")):
            with pytest.raises(veilstream.NotRevealed) as refused:
                _ = person.mail
            assert (refused.value.field, refused.value.status) == ("people.email", status)
        session.commit()
        assert two.name is None and two.age == 2


def test_what_a_value_is_tied_to_must_be_loaded_too(engine: Engine) -> None:
    add(engine, Person(id=1, mail="1@x.org", ssn="11"))
    with Session(engine) as session, session.begin():
        session.add(Vault(id=1, ssn="11"))
    with Session(engine) as session:
        person = session.scalars(select(Person).options(load_only(Person.mail, Person.ssn))).one()
        vault = session.scalars(select(Vault).options(defer(Vault.region))).one()
        assert person.mail == "1@x.org"
        for one in (person, vault):
            with pytest.raises(veilstream.NotRevealed, match="region, which is not loaded"):
                _ = one.ssn
        assert (person.region, person.ssn) == ("eu", "11")
        assert vault.region == "eu" and vault.ssn is not None and vault.ssn.reveal() == "11"


def test_old_clear_values_are_read_where_the_mapping_lets(engine: Engine) -> None:
    add(engine, *[Note(text=f"sealed {n}") for n in range(2)])  # type: ignore[arg-type]
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO notes (kind, text) VALUES (0, 'old and clear')"))
    kind: Any = Note.__table__.c.text.type
    before = clear_seen().get("notes.text", 0)
    for clear, seen in (("allow", 0), ("count", 1)):
        kind.clear = clear
        try:
            with Session(engine) as session:
                texts = set(session.scalars(select(Note)).all())
                assert {note.text for note in texts} == {"sealed 0", "sealed 1", "old and clear"}
        finally:
            kind.clear = "reject"
        assert clear_seen().get("notes.text", 0) - before == seen


def test_erased_people_stay_unreadable(engine: Engine, world: World) -> None:
    add(engine, *[Person(id=n, mail=f"{n}@x.org", name=f"n{n}") for n in (9000001, 9000002)])
    config = str(world.config)
    reason = "request 2026-117"
    erased = ("--domain", "people", "--subject", "9000001", "--reason", reason)
    world.run("shred", "--config", config, *erased)
    with Session(engine) as session:

        def is_erased() -> bool:
            session.expire_all()
            gone = session.get_one(Person, 9000001)
            assert gone.name == "n9000001"
            try:
                return gone.mail is None
            except veilstream.NotRevealed as fault:
                assert fault.status == "erased"
                return True

        from world import until

        until("the erasure is known", is_erased)
        assert session.get_one(Person, 9000002).mail == "9000002@x.org"
        assert session.scalars(select(Person).where(Person.mail == "9000001@x.org")).all() == []


def test_a_session_has_its_own(postgres: Postgres, engine: Engine, veil: Veil) -> None:
    other = create_engine(postgres.url("psycopg"))
    with Session(other) as session:
        session.add(Person(id=1, mail="a@x.org"))
        with pytest.raises(veilstream.ConfigError, match="attach"):
            session.flush()
    maker = sessionmaker(other)
    attach(maker, veil)
    with maker() as session, session.begin():
        session.add(Person(id=1, mail="a@x.org"))
    assert other.hide_parameters
    with maker() as session:
        assert session.scalars(select(Person).where(Person.mail == "a@x.org")).one().mail
    other.dispose()


def test_without_keys_only_sealed_columns_work(
    postgres: Postgres, engine: Engine, world: World, service: Service, app_key: Any
) -> None:
    url = f"http://{service.address}"
    with Veil.connect(url, token=app_key, schemas=world.folder / "schemas") as remote:
        other = create_engine(postgres.url("psycopg"))
        attach(other, remote)
        with Session(other) as session, session.begin():
            session.add_all([Vault(id=n, iban=f"DE{n}", ssn=f"1{n}") for n in range(3)])
        with Session(other) as session:
            found = session.scalars(select(Vault).where(Vault.ssn == "1-1")).one()
            assert found.iban is not None and found.iban.reveal() == "DE1"
        with Session(other) as session:
            session.add(Person(id=1, mail="a@x.org"))
            with pytest.raises(veilstream.VeilError, match=r"Veil\.open"):
                session.flush()
        with pytest.raises(veilstream.VeilError, match=r"Veil\.open"):
            attach(other, remote, metadata=Base.metadata)
        other.dispose()


def test_a_honey_token_among_thousands_closes_its_attribute_alone(
    engine: Engine, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows are opened by several threads, and one of them meets it."""
    count, bait = 5000, 4321
    with engine.begin() as connection:
        rows = [{"id": n, "plain": str(n), "text": f"note {n}"} for n in range(1, count + 1)]
        connection.execute(insert(Note), rows)
        connection.execute(update(Note).where(Note.id == 7).values(text=None))
    with Session(engine) as session:
        notes = session.scalars(select(Note).order_by(Note.id)).all()
        assert [note.text for note in notes] == [
            None if n == 7 else f"note {n}" for n in range(1, count + 1)
        ]
    token = world.run(
        *("honey", "create", "--config", str(world.config), "--schema", "schemas/notes.json"),
        *("--field", "text", "nobody's"),
    ).strip()
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE notes SET text = :token WHERE id = :id"), {"token": token, "id": bait}
        )
    before = len(world.audited())
    with Session(engine) as session:
        notes = session.scalars(select(Note).order_by(Note.id)).all()
        assert [note.plain for note in notes] == [str(n) for n in range(1, count + 1)]
        for note in notes:
            if note.id == 7:
                assert note.text is None
                continue
            with pytest.raises(veilstream.NotRevealed, match="denied"):
                _ = note.text
    assert "a honey token of notes.text was opened" in caplog.text
    told = {line["event"] for line in world.audited()[before:]}
    assert told == {"reveal", "honey"}, told
