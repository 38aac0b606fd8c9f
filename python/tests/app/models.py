"""Tables of the tests, and the schemas that protect them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from veilstream import Sealed
from veilstream.sqlalchemy import blind_index, encrypted, sealed

PEOPLE: dict[str, Any] = {
    "veilstream": 1,
    "name": "people",
    "version": 1,
    "topics": {"from": "people.raw", "to": "people.sanitized"},
    "subject": "$.id",
    "subject_domain": "people",
    "fields": [
        {"id": "email", "path": "$.email", "index": {"normalize": "email", "bits": 8}},
        {"id": "city", "path": "$.city", "index": {"normalize": "text", "bits": 8}},
        {
            "id": "ssn",
            "path": "$.ssn",
            "bind": [{"name": "person", "path": "$.id"}, {"name": "region", "path": "$.region"}],
            "index": {"normalize": "digits"},
        },
        {"id": "iban", "path": "$.iban"},
        {"id": "age", "path": "$.age", "type": "integer"},
    ],
}
NOTES: dict[str, Any] = {
    "veilstream": 1,
    "name": "notes",
    "version": 1,
    "topics": {"from": "notes.raw", "to": "notes.sanitized"},
    "fields": [{"id": "text", "path": "$.text", "index": {"normalize": "text"}}],
}
SCHEMAS = {"people": PEOPLE, "notes": NOTES}


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    region: Mapped[str] = mapped_column(default="eu")
    name: Mapped[str | None]
    # The attribute's name and the column's differ.
    mail: Mapped[str | None] = encrypted("people.email", index="email_bidx", subject="id")
    city: Mapped[str | None] = encrypted("people.city", index="city_bidx", subject="id")
    ssn: Mapped[str | None] = encrypted(
        "people.ssn",
        index="ssn_bidx",
        subject="id",
        bind={"person": "id", "region": "region"},
    )
    iban: Mapped[Sealed[str] | None] = sealed("people.iban", subject="id")
    age: Mapped[int | None] = encrypted("people.age", subject="id")
    email_bidx: Mapped[str | None] = blind_index("people.email")
    city_bidx: Mapped[str | None] = blind_index("people.city")
    ssn_bidx: Mapped[str | None] = blind_index("people.ssn", unique=True)

    notes: Mapped[list[Note]] = relationship(back_populates="person", cascade="all, delete-orphan")


class Note(Base):
    """Its schema names nobody, so its id may come from the server."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))
    kind: Mapped[int] = mapped_column(Integer, default=0)
    plain: Mapped[str | None] = mapped_column(Text)
    text: Mapped[str | None] = encrypted("notes.text", index="text_bidx")
    text_bidx: Mapped[str | None] = blind_index("notes.text")

    person: Mapped[Person | None] = relationship(back_populates="notes")


class Vault(Base):
    """Nothing is opened on load: works without keys in process."""

    __tablename__ = "vaults"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    iban: Mapped[Sealed[str] | None] = sealed("people.iban", subject="id")
    ssn: Mapped[Sealed[str] | None] = sealed(
        "people.ssn", index="ssn_bidx", subject="id", bind={"person": "id", "region": "region"}
    )
    region: Mapped[str] = mapped_column(default="eu")
    ssn_bidx: Mapped[str | None] = blind_index("people.ssn")
