"""Entities loaded by SQLAlchemy from PostgreSQL: three encrypted columns beside three plain ones.

Loads take turns. Beside the best time are two ratios: best against best, and the median of all rounds
of how much longer a load took than the plain one of its round.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from operator import truediv
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python" / "tests" / "app"))

from pg import Postgres  # noqa: E402
from sqlalchemy import create_engine, insert, select  # noqa: E402
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column  # noqa: E402
from world import World  # noqa: E402

from veilstream import Veil  # noqa: E402
from veilstream.sqlalchemy import attach, encrypted  # noqa: E402

ROWS = int(os.environ.get("ROWS", "10000"))
RUNS = int(os.environ.get("RUNS", "30"))


def schema(name: str, with_subject: bool) -> dict[str, Any]:
    """Three fields, tied to a person or not."""
    fields = [{"id": one, "path": f"$.{one}"} for one in ("email", "phone", "iban")]
    topics = {"from": f"{name}.raw", "to": f"{name}.sanitized"}
    own: dict[str, Any] = {"veilstream": 1, "name": name, "version": 1, "topics": topics}
    if with_subject:
        own |= {"subject": "$.id", "subject_domain": name}
    return own | {"fields": fields}


class Base(DeclarativeBase):
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    city: Mapped[str]


class Plain(Base):
    __tablename__ = "plain"
    email: Mapped[str]
    phone: Mapped[str]
    iban: Mapped[str]


class Shared(Base):
    """Under one key."""

    __tablename__ = "shared"
    email: Mapped[str] = encrypted("shared.email")
    phone: Mapped[str] = encrypted("shared.phone")
    iban: Mapped[str] = encrypted("shared.iban")


class Own(Base):
    """Each row under its person's key."""

    __tablename__ = "own"
    email: Mapped[str] = encrypted("own.email", subject="id")
    phone: Mapped[str] = encrypted("own.phone", subject="id")
    iban: Mapped[str] = encrypted("own.iban", subject="id")


def seconds(engine: Any, model: type[Base]) -> float:
    """One load of all rows in a new session."""
    with Session(engine) as session:
        start = time.perf_counter()
        rows = session.scalars(select(model)).all()
        took = time.perf_counter() - start
        assert len(rows) == ROWS and rows[7].email == "user0000007@example.com"  # type: ignore
    return took


def main() -> None:
    postgres = Postgres()
    try:
        with tempfile.TemporaryDirectory() as folder:
            schemas = {"shared": schema("shared", False), "own": schema("own", True)}
            world = World(Path(folder), schemas)
            engine = create_engine(postgres.url("psycopg"))
            Base.metadata.create_all(engine)
            rows = [
                {
                    "id": n,
                    "name": f"name {n}",
                    "city": f"city {n % 100}",
                    "email": f"user{n:07}@example.com",
                    "phone": f"+49 30 {n:07}",
                    "iban": f"DE89{n:018}",
                }
                for n in range(ROWS)
            ]
            with Veil.open(world.config) as veil, veil.purpose("support"):
                attach(engine, veil)
                models = (Plain, Shared, Own)
                for model in models:
                    with engine.begin() as connection:
                        start = time.perf_counter()
                        connection.execute(insert(model.__table__), rows)  # type: ignore
                        print(f"{model.__tablename__:8} inserted in {time.perf_counter() - start:.3f} s")
                rounds = [[seconds(engine, model) for model in models] for _ in range(RUNS)]
                plain, *_ = by_model = list(zip(*rounds, strict=True))
                for model, times in zip(models, by_model, strict=True):
                    best = min(times) / min(plain)
                    median = statistics.median(map(truediv, times, plain))
                    name, least = model.__tablename__, min(times) * 1000
                    print(f"{name:8} {least:7.1f} ms  best {best:.2f}  median {median:.2f}")
            engine.dispose()
    finally:
        postgres.stop()


if __name__ == "__main__":
    main()
