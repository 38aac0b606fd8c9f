"""Searches over blind indexes: the same answers as in clear, or none at all."""

from __future__ import annotations

import os
import random
from typing import Any, ClassVar

import pytest
from models import Note, Person
from sqlalchemy import (
    Engine,
    and_,
    delete,
    desc,
    event,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    defer,
    joinedload,
    load_only,
    mapped_column,
    selectinload,
)
from world import World

from veilstream import Sealed
from veilstream.sqlalchemy import NotSearchable, blind_index, encrypted, sealed

RECORDS = int(os.environ.get("VEILSTREAM_RECORDS", "10000"))
SEED = int(os.environ.get("VEILSTREAM_SEED", random.randrange(1 << 32)))


def spelled(rng: random.Random, value: str) -> str:
    """The same value, as somebody else writes it."""
    return rng.choice([value, value.upper(), value.lower(), f" {value} "])


def add_neighbours(engine: Engine) -> None:
    """More people than the index of an address has buckets."""
    people = [Person(id=n, mail=f"{n}@x.org", name=f"n{n}", city="Paris") for n in range(600)]
    people[7].notes = [Note(text="a"), Note(text="b")]
    with Session(engine) as session, session.begin():
        session.add_all(people)


def test_search_finds_what_a_clear_search_finds(engine: Engine) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    cities = [f"{a}{b}" for a in ("Köln", "Åre", "Łódź", "Paris", "São Paulo") for b in range(60)]
    rows: list[dict[str, Any]] = []
    for n in range(RECORDS):
        address = f"{rng.choice('abcdefgh')}{rng.randrange(RECORDS // 3)}@x.org"
        rows.append(
            {
                "id": n,
                "mail": None if rng.random() < 0.05 else spelled(rng, address).strip(),
                "city": rng.choice([*cities, None, "  "]),
                "ssn": f"{n:09}" if rng.random() < 0.9 else rng.choice([None, "none"]),
            }
        )
    with engine.begin() as connection:
        connection.execute(insert(Person.__table__), rows)  # type: ignore[arg-type]

    def same(a: str | None, b: str) -> bool:
        return a is not None and " ".join(a.split()).casefold() == " ".join(b.split()).casefold()

    def digits(a: str | None) -> str | None:
        return None if a is None else "".join(c for c in a if c.isdigit()) or None

    with engine.connect() as connection:
        widest = connection.execute(
            text(
                "SELECT max(n) FROM (SELECT count(DISTINCT city) n FROM people GROUP BY city_bidx) t"
            )
        )
        assert widest.scalar_one() is not None
    extra = 0
    for _ in range(40):
        wanted = [rng.choice(rows)["mail"] or "nobody@x.org" for _ in range(rng.choice([1, 1, 3]))]
        city = rng.choice(cities)
        by_mail = [r["id"] for r in rows if any(same(r["mail"], w) for w in wanted)]
        by_city = [r["id"] for r in rows if same(r["city"], city)]
        both = sorted(set(by_mail) & {r["id"] for r in rows if same(r["city"], city)})
        with Session(engine) as session:
            asked = spelled(rng, city)
            found = session.scalars(select(Person).where(Person.city == asked).order_by(Person.id))
            assert [person.id for person in found] == by_city
            mails = Person.mail == wanted[0] if len(wanted) == 1 else Person.mail.in_(wanted)
            found = session.scalars(select(Person).where(mails).order_by(Person.id))
            assert [person.id for person in found] == by_mail
            found = session.scalars(select(Person).where(and_(mails, Person.city == city)))
            assert sorted(person.id for person in found) == both
            if not by_city:
                continue
            tag = session.scalar(select(Person.city_bidx).where(Person.id == by_city[0]))
            bucket = select(func.count()).select_from(Person).where(Person.city_bidx == tag)
            extra += (session.scalar(bucket) or 0) - len(by_city)
    assert extra > 0, "no search met a value that it had to drop"
    for _ in range(40):
        row = rng.choice(rows)
        ssn = row["ssn"] or "000000000"
        equal = sorted(r["id"] for r in rows if digits(r["ssn"]) == digits(ssn) and digits(ssn))
        others = [r["id"] for r in rows if r["ssn"] is not None and r["id"] not in equal]
        with Session(engine) as session:
            found_ids = session.scalars(select(Person.id).where(Person.ssn == ssn))
            assert sorted(found_ids) == equal
            query = select(func.count()).select_from(Person).where(Person.ssn != ssn)
            assert session.scalar(query) == len(others)
    with Session(engine) as session:
        nobody = select(func.count()).select_from(Person).where(Person.mail.is_(None))
        assert session.scalar(nobody) == sum(row["mail"] is None for row in rows)
        assert session.scalars(select(Person).where(Person.city == "   ")).all() == []


BUCKETED = {
    "count": select(func.count()).select_from(Person).where(Person.mail == "x@x.org"),
    "columns": select(Person.id).where(Person.mail == "x@x.org"),
    "two entities": select(Person, Note).where(Person.mail == "x@x.org"),
    "limit": select(Person).where(Person.mail == "x@x.org").limit(1),
    "offset": select(Person).where(Person.mail == "x@x.org").offset(1),
    "distinct": select(Person).where(Person.mail == "x@x.org").distinct(),
    "join": select(Person).join(Note).where(Person.mail == "x@x.org"),
    "or": select(Person).where(or_(Person.mail == "x@x.org", Person.id == 1)),
    "not": select(Person).where(~(Person.mail == "x@x.org")),
    "others": select(Person).where(Person.mail != "x@x.org"),
    "not in": select(Person).where(Person.mail.not_in(["x@x.org"])),
    "exists": select(exists().where(Person.mail == "x@x.org")),
    "subquery": select(Note).where(
        Note.person_id.in_(select(Person.id).where(Person.mail == "x@x.org"))
    ),
    "union": select(Person)
    .where(Person.mail == "x@x.org")
    .union(select(Person).where(Person.mail == "y@x.org")),
    "delete": delete(Person).where(Person.mail == "x@x.org"),
    "update": update(Person).where(Person.mail == "x@x.org").values(name="x"),
    "core delete": delete(Person.__table__).where(Person.__table__.c.mail == "x@x.org"),  # type: ignore[arg-type]
    "order": select(Person).order_by(Person.__table__.c.mail),
    "group": select(func.count()).group_by(Person.mail),
    "function": select(func.lower(Person.mail)),
    "minimum": select(func.min(Person.mail)),
    "other column": select(Person).where(Person.name == Person.mail),
}


@pytest.mark.parametrize("name", BUCKETED)
def test_what_would_answer_for_neighbours_is_refused(engine: Engine, name: str) -> None:
    """Rows of the bucket are other people's: nothing may count, change or delete them."""
    with Session(engine) as session, session.begin():
        session.add(Person(id=1, mail="y@x.org", name="kept"))
    with Session(engine) as session, session.begin():
        with pytest.raises(NotSearchable) as refused:
            session.execute(BUCKETED[name])  # type: ignore[call-overload]
        assert "x@x.org" not in str(refused.value)
    with Session(engine) as session:
        assert session.get_one(Person, 1).name == "kept"


def test_a_legacy_query_is_refused_too(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Person(id=1, mail="y@x.org"))
        session.flush()
        query = session.query(Person).filter(Person.mail == "y@x.org")
        assert query.one().id == 1
        for refused in (query.count, query.first, query.delete):
            with pytest.raises(NotSearchable):
                refused()
        assert session.query(Person).filter_by(mail="y@x.org").all()[0].id == 1


def test_unique_indexes_may_be_counted_and_deleted(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add_all([Person(id=n, ssn=f"12{n}", name=f"n{n}") for n in range(4)])
    with Session(engine) as session, session.begin():
        one = Person.ssn == "1-2-1"
        assert session.scalar(select(func.count()).select_from(Person).where(one)) == 1
        assert session.scalar(select(exists().where(one)))
        assert session.scalars(select(Person.name).where(one).limit(1)).all() == ["n1"]
        either = select(Person.id).where(or_(one, Person.id == 3)).order_by(Person.id)
        assert session.scalars(either).all() == [1, 3]
        found: Any = session.execute(update(Person).where(one).values(name="found"))
        assert found.rowcount == 1
        gone: Any = session.execute(delete(Person).where(Person.ssn.in_(["120", "122"])))
        assert gone.rowcount == 2
        left = select(Person.name).order_by(Person.id)
        assert session.scalars(left).all() == ["found", "n3"]
        assert session.scalars(select(Person.id).where(Person.ssn.in_([]))).all() == []


@pytest.mark.parametrize(
    "compare",
    [
        lambda c: c.like("x%"),
        lambda c: c.ilike("x%"),
        lambda c: c.startswith("x"),
        lambda c: c.contains("x"),
        lambda c: c < "x",
        lambda c: c >= "x",
        lambda c: c.between("a", "b"),
        lambda c: c + "x",
        lambda c: "x" + c,
        lambda c: c.desc(),
        lambda c: c == Person.name,
        lambda c: c.in_(select(Person.name)),
        lambda c: c.regexp_match("x"),
        lambda c: c.collate("C"),
        lambda c: c.in_("abc"),
    ],
)
def test_only_equality_exists(compare: Any) -> None:
    for column in (Person.mail, Person.__table__.c.mail, aliased(Person).mail):
        with pytest.raises(NotSearchable, match="index email_bidx finds equal values"):
            compare(column)


def test_a_column_without_an_index_says_what_to_add() -> None:
    with pytest.raises(NotSearchable, match=r'age_bidx = blind_index\("people.age"\)'):
        _ = Person.age == 3
    assert "IS NULL" in str(Person.age.is_(None)) and "IS NULL" in str(Person.age == None)  # noqa: E711


EQUAL = "use ==, in_ or is_(None)"
ADD = f'The index age_bidx finds equal values: {EQUAL}, after age_bidx = blind_index("people.age")'
NO_ORDER = "No index gives an order: sort or compare what was opened."


@pytest.mark.parametrize(
    ("what", "query", "is_order"),
    [
        ("order_by", lambda c: select(Person).order_by(c), True),
        ("order_by", lambda c: select(c.label("x")).order_by("x"), True),
        ("order_by", lambda c: select(Person).order_by(c.key), True),
        ("order_by", lambda c: select(Person.id).order_by(desc(c.key)), True),
        ("order_by", lambda c: select(Note).join(Person).order_by(c.key), True),
        ("desc", lambda c: select(Person).order_by(c.desc()), True),
        ("lt", lambda c: select(Person).where(c < 3), True),
        ("between", lambda c: select(Person).where(c.between(1, 3)), True),
        ("like", lambda c: select(Person).where(c.like("3%")), False),
        ("group_by", lambda c: select(func.count()).group_by(c), False),
        ("group_by", lambda c: select(c.label("x"), func.count()).group_by("x"), False),
        ("max()", lambda c: select(func.max(c)), False),
    ],
)
def test_what_ciphertext_cannot_do_names_the_index_to_add(
    engine: Engine, what: str, query: Any, is_order: bool
) -> None:
    """An index that is there, or the one to add. It never gives an order."""
    there = f"The index email_bidx finds equal values: {EQUAL}"
    for column, advice in ((Person.age, f"{ADD} and index="), (Person.mail, there)):
        with Session(engine) as session, pytest.raises(NotSearchable) as refused:
            session.execute(query(column))
        field, said = str(refused.value).split(": ", 1)
        assert field == ("people.age" if column is Person.age else "people.email")
        reason = f"{what} is not possible over ciphertext."
        assert said == " ".join([reason, *([NO_ORDER] if is_order else []), advice])


def test_a_statement_may_be_used_again(engine: Engine) -> None:
    query = select(Person).where(Person.mail == "y@x.org")
    with Session(engine) as session, session.begin():
        assert session.scalars(query).all() == []
        session.add(Person(id=1, mail="y@x.org"))
        session.flush()
        assert [person.id for person in session.scalars(query)] == [1]
        assert "y@x.org" not in str(query.compile()) + repr(query.compile().params)


LEFT_OUT: dict[str, list[Any]] = {
    "load_only": [load_only(Person.id)],
    "defer": [defer(Person.mail)],
    "raiseload": [defer(Person.mail, raiseload=True)],
    "relation": [load_only(Person.name), selectinload(Person.notes)],
    "joined relation": [load_only(Person.name), joinedload(Person.notes)],
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_search_needs_no_loaded_attribute(engine: Engine, name: str) -> None:
    """Only the rows that match, though the statement leaves the attribute out."""
    add_neighbours(engine)
    with Session(engine) as session:
        query = select(Person).where(Person.mail == "7@X.org").options(*LEFT_OUT[name])
        found = session.scalars(query).unique().all()
        assert [person.id for person in found] == [7]
        # What was left out is not loaded by the way.
        assert "mail" not in found[0].__dict__
        assert [note.text for note in found[0].notes] == ["a", "b"]
    other = aliased(Person)
    with Session(engine) as session:
        aliased_query = select(other).where(other.mail == "7@x.org").options(defer(other.mail))
        assert [person.id for person in session.scalars(aliased_query)] == [7]


def test_a_search_is_one_disclosure(engine: Engine, world: World) -> None:
    """Values are opened once: with their entities, or, left out, to be compared."""
    add_neighbours(engine)
    both = and_(Person.mail == "7@x.org", Person.city == "Paris")
    with Session(engine) as session:
        tag = select(Person.email_bidx).where(Person.id == 7).scalar_subquery()
        bucket = session.scalars(select(Person.id).where(Person.email_bidx == tag)).all()
    assert 1 <= len(bucket) < 100
    for options in ([], [load_only(Person.id)]):
        before = len(world.audited())
        with Session(engine) as session:
            assert len(session.scalars(select(Person).where(both).options(*options)).all()) == 1
        lines = [line for line in world.audited()[before:] if line["event"] == "reveal"]
        # Up to a hundred people have a line each: of two values, opened once.
        assert [line["items"] for line in lines] == [2] * len(bucket)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (select(Person).where(Person.mail == "7@x.org"), ["email"]),
        (select(Person).where(Person.mail.in_(["7@x.org", "8@x.org"])), ["email", "email"]),
        (select(Person).where(and_(Person.mail == "7@x.org", Person.city == "x")), ["email", "city"]),
        (select(func.count()).select_from(Person).where(Person.ssn == "123"), ["ssn"]),
        (select(Person).where(Person.mail.is_(None)), []),
    ],
)
def test_a_search_stands_in_the_audit_log(
    engine: Engine, world: World, query: Any, fields: list[str]
) -> None:
    """A line for each value that is looked for, though nobody has it."""
    before = len(world.audited())
    with Session(engine) as session:
        session.execute(query).all()
    lines = [line for line in world.audited()[before:] if line["event"] == "search"]
    assert [line["fields"] for line in lines] == [{field: "revealed"} for field in fields]
    for line in lines:
        assert (line["schema"], line["purpose"], line["outcome"]) == ("people", "support", "ok")
    assert "7@x.org" not in world.audit_text()


def test_a_search_judges_by_what_the_database_has(engine: Engine) -> None:
    """Entities that a session has already keep old values; those say nothing of the rows."""
    add_neighbours(engine)

    def ids(session: Session, mail: str) -> list[int]:
        return [person.id for person in session.scalars(select(Person).where(Person.mail == mail))]

    with Session(engine) as session:
        person = session.get_one(Person, 7)
        assert person.mail == "7@x.org"
        with Session(engine) as other, other.begin():
            other.get_one(Person, 7).mail = "new@x.org"
        # What another session wrote.
        assert ids(session, "new@x.org") == [7]
        assert person.mail == "7@x.org"
        assert ids(session, "7@x.org") == []
        session.expire(person, ["mail"])
        assert ids(session, "new@x.org") == [7]
        assert person.mail == "new@x.org"
        session.expire_all()
        assert ids(session, "new@x.org") == [7]
        # What this session has not written yet.
        with session.no_autoflush:
            person.mail = "pending@x.org"
            assert ids(session, "pending@x.org") == []
            assert ids(session, "new@x.org") == [7]
            assert person.mail == "pending@x.org"
        assert ids(session, "pending@x.org") == [7]


def test_a_checked_result_is_the_usual_result(engine: Engine) -> None:
    """Neither rows nor scalars show what was read to compare."""
    add_neighbours(engine)
    query = select(Person).where(Person.mail == "7@x.org")
    with Session(engine) as session:
        (row,) = session.execute(query).all()
        assert len(row) == 1 and row.Person is row[0] is row._mapping["Person"]
        assert list(session.execute(query).keys()) == ["Person"]
        assert session.execute(query).scalar_one() is row.Person
        assert session.scalar(query) is row.Person
        assert session.execute(query).unique().one().Person is row.Person
        parts = session.execute(query, execution_options={"yield_per": 2}).partitions()
        assert [[one.Person.id for one in part] for part in parts] == [[7]]
        legacy = session.query(Person).filter(Person.mail == "7@x.org")
        assert legacy.all() == [row.Person]
        assert legacy.options(joinedload(Person.notes)).one() is row.Person
        assert [one[0] for one in legacy.only_return_tuples(True)] == [row.Person]
        table = select(Person).where(Person.__table__.c.mail == "7@x.org")
        assert session.scalars(table).all() == [row.Person]


def test_rows_that_nobody_can_check_are_refused(engine: Engine) -> None:
    """As with a cache of results: what stands there may be a neighbour."""
    add_neighbours(engine)
    with Session(engine) as session:
        event.listen(session, "do_orm_execute", lambda state: state.invoke_statement().freeze()())
        with pytest.raises(NotSearchable, match="did not load"):
            session.scalars(select(Person).where(Person.mail == "7@x.org"))


def test_a_search_finds_attributes_by_their_columns(engine: Engine) -> None:
    class Own(DeclarativeBase):
        pass

    class Renamed(Own):
        __tablename__ = "renamed"
        key: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        kind: Mapped[str]
        mail: Mapped[str | None] = encrypted(
            "people.email", index="bidx", subject="key", name="mail_address", deferred=True
        )
        bidx: Mapped[str | None] = blind_index("people.email", name="mail_index")
        __mapper_args__: ClassVar[Any] = {"polymorphic_on": "kind", "polymorphic_identity": "a"}

    class Special(Renamed):
        city: Mapped[Sealed[str] | None] = sealed("people.city", index="city_bidx", subject="key")
        city_bidx: Mapped[str | None] = blind_index("people.city")
        __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "b"}

    Own.metadata.create_all(engine)
    try:
        with Session(engine) as session, session.begin():
            session.add_all([Renamed(key=n, mail=f"{n}@x.org") for n in range(600)])
            session.add(Special(key=600, mail="600@x.org", city="Paris"))  # type: ignore[arg-type]
        column = Renamed.__table__.c.mail_address
        with Session(engine) as session:
            for condition in (Renamed.mail == "7@x.org", column == "7@x.org"):
                found = session.scalars(select(Renamed).where(condition))
                assert [one.key for one in found] == [7]
            for kind in (Renamed, Special):
                special = session.scalars(select(kind).where(Special.city == "PARIS"))
                assert [one.key for one in special] == [600]
    finally:
        Own.metadata.drop_all(engine)
        Own.registry.dispose()
