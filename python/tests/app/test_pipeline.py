"""Tables that the pipeline filled are read and searched as those that SQLAlchemy wrote."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pg import Postgres
from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from test_search import RECORDS, SEED, spelled
from world import World, until

from veilstream import Veil
from veilstream.errors import NotRevealed
from veilstream.sqlalchemy import attach, blind_index, encrypted

MEMBERS: dict[str, Any] = {
    "veilstream": 1,
    "name": "members",
    "version": 1,
    "topics": {"from": "members.raw", "to": "members.sanitized"},
    "fields": [
        {
            "id": "email",
            "path": "$.email",
            "bind": [{"name": "member", "path": "$.id"}],
            "index": {"normalize": "email", "bits": 8},
        },
        {"id": "phone", "path": "$.phone", "index": {"normalize": "digits"}},
        {"id": "card", "path": "$.payment.card"},
    ],
}


class Base(DeclarativeBase):
    pass


class Member(Base):
    """The table that ``schema ddl`` prints for the sink."""

    __tablename__ = "members"

    record_key: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int]
    email: Mapped[str | None] = encrypted(
        "members.email", index="email_bidx", bind={"member": "id"}
    )
    phone: Mapped[str | None] = encrypted("members.phone", index="phone_bidx")
    card: Mapped[str | None] = encrypted("members.card", name="payment_card")
    email_bidx: Mapped[str | None] = blind_index("members.email")
    phone_bidx: Mapped[str | None] = blind_index("members.phone")


Record = dict[str, Any]


def flat(record: Record) -> Record:
    """A record as the sink's connector flattens it."""
    own = {name: value for name, value in record.items() if name != "payment"}
    return {**own, "payment_card": record["payment"]["card"], "record_key": str(record["id"])}


class Sink:
    """A table in PostgreSQL, as the sink's connector would fill it."""

    def __init__(self, world: World, engine: Engine, records: list[Record]) -> None:
        self.world = world
        self.engine = engine
        sample = "".join(json.dumps(record) + "\n" for record in records[:20])
        (world.folder / "sample.ndjson").write_text(sample)
        ddl = ("schema", "ddl", "--schema", "schemas/members.json", "--sample", "sample.ndjson")
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS members"))
            connection.exec_driver_sql(world.run(*ddl, "--table", "members"))

    def write(self, records: list[Record]) -> None:
        """Sanitized records."""
        rows = [flat(record) for record in self.world.transform("members", *records)]
        listed = ", ".join(f'"{name}"' for name in Member.__table__.columns.keys())
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    f"INSERT INTO members ({listed}) SELECT {listed} FROM"
                    " jsonb_populate_recordset(NULL::members, cast(:rows AS jsonb))"
                ),
                {"rows": json.dumps(rows)},
            )


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Its index root rotates, so it is no other test's."""
    return World(tmp_path_factory.mktemp("members"), {"members": MEMBERS})


@pytest.fixture
def table(postgres: Postgres) -> Iterator[Engine]:
    made = create_engine(postgres.url("psycopg"))
    yield made
    made.dispose()


def random_records(rng: random.Random) -> list[Record]:
    return [
        {
            "id": n,
            "email": spelled(rng, f"{rng.randrange(RECORDS)}@x.org").strip(),
            "phone": f"{rng.randrange(RECORDS // 2):09}",
            "payment": {"card": f"41{n:014}"},
        }
        for n in range(RECORDS)
    ]


def test_searches_find_what_the_pipeline_wrote_while_a_root_rotates(
    members: World, table: Engine
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    records = random_records(rng)
    half, most = RECORDS // 2, RECORDS * 3 // 4
    sink = Sink(members, table, records)
    sink.write(records[:half])
    with Veil.open(members.config) as veil, veil.purpose("support"):
        attach(table, veil, metadata=Base.metadata)
        found = search(table, records[:half], rng)
        assert found, "no search found anything"

        members.run("keys", "rotate", "--keys", "keys", "--index")
        # Records under both roots: from the pipeline, and from an application that hears of it.
        sink.write(records[half:most])
        until("the new root is known", lambda: len(veil.index("members.phone", "1").values) == 2)
        rows = [flat(record) for record in records[most:]]
        with table.begin() as connection:
            connection.execute(insert(Member.__table__), rows)  # type: ignore[arg-type]
        with table.connect() as connection:
            count = "SELECT count(*) FROM members WHERE email_bidx LIKE '{0}~%'"
            counts = [connection.execute(text(count.format(n))).scalar() for n in (1, 2)]
        assert counts == [half, RECORDS - half]
        found = search(table, records, rng)
        assert min(found) < half and max(found) >= most and any(half <= n < most for n in found)


def search(engine: Engine, records: list[Record], rng: random.Random) -> set[int]:
    """Asks for addresses and numbers of random records; gives who was found."""
    everybody: set[int] = set()
    by_mail: dict[str, set[int]] = {}
    by_phone: dict[str, set[int]] = {}
    for record in records:
        by_mail.setdefault(record["email"].casefold(), set()).add(record["id"])
        by_phone.setdefault(record["phone"], set()).add(record["id"])
    for record in rng.sample(records, 40):
        with Session(engine) as session:
            asked = spelled(rng, record["email"])
            found = session.scalars(select(Member).where(Member.email == asked)).all()
            assert {one.id for one in found} == by_mail[record["email"].casefold()]
            assert all(one.card == f"41{one.id:014}" for one in found)
            spaced = re.sub("(...)", r"\1 ", record["phone"])
            ids = session.scalars(select(Member.id).where(Member.phone == spaced)).all()
            assert set(ids) == by_phone[record["phone"]]
            everybody.update(one.id for one in found)
    return everybody


def test_a_token_that_the_sink_put_into_another_row_does_not_open(
    members: World, table: Engine
) -> None:
    records = random_records(random.Random(SEED))[:2]
    sink = Sink(members, table, records)
    sink.write(records)
    with table.begin() as connection:
        connection.execute(text("UPDATE members SET id = 1 - id"))
    with Veil.open(members.config) as veil, veil.purpose("support"):
        attach(table, veil)
        with Session(table) as session:
            for member in session.scalars(select(Member)):
                assert member.phone == records[int(member.record_key)]["phone"]
                with pytest.raises(NotRevealed, match="corrupt"):
                    _ = member.email
