"""The table `people` as an application reads it, through SQLAlchemy: JSON lines of its rows.

Arguments: the configuration, the database's URL, and an e-mail address that is searched first.
"""

import json
import sys

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from veilstream import NotRevealed, Veil
from veilstream.sqlalchemy import attach, blind_index, encrypted


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"

    person: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int]
    email: Mapped[str] = encrypted("people.email", index="email_bidx", subject="id")
    age: Mapped[int] = encrypted("people.age", subject="id")
    vip: Mapped[bool] = encrypted("people.vip", subject="id")
    city: Mapped[str] = encrypted("people.city", name="address_city", subject="id")
    country: Mapped[str] = mapped_column("address_country")
    email_bidx: Mapped[str] = blind_index("people.email")


def told(person: Person) -> list[object]:
    """Its attributes, or why one has no value."""
    values = []
    for name in ("id", "email", "age", "vip", "city", "country"):
        try:
            values.append(getattr(person, name))
        except NotRevealed as fault:
            values.append({"not revealed": fault.status})
    return values


config, url, email = sys.argv[1:]
engine = create_engine(url.replace("postgres://", "postgresql+psycopg://"))
with Veil.open(config, unaudited=True) as veil, Session(engine) as session:
    attach(engine, veil, metadata=Base.metadata)
    for search in (select(Person).where(Person.email == email), select(Person).order_by(Person.id)):
        print(json.dumps([told(person) for person in session.scalars(search)]))
