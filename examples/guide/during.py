"""The guide's application while its table moves: it reads both forms, and writes tokens."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from cryptography.fernet import Fernet
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import (
    BigInteger,
    ForeignKey,
    LargeBinary,
    Sequence,
    Text,
    cast,
    create_engine,
    func,
    or_,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import UserDefinedType
from veilstream import Veil
from veilstream.guide import EncryptedString, audit_pii_access, configure
from veilstream.sqlalchemy import attach, blind_index

from settings import Settings

settings = Settings()  # type: ignore[call-arg]
engine = create_engine(settings.DATABASE_URL)


veil = Veil.open(settings.VEILSTREAM_CONFIG)
configure(veil, purpose="support")
attach(engine, veil)
fernet = Fernet(settings.OLD_ENCRYPTION_KEY)


def decrypt(ciphertext: str) -> str:
    return fernet.decrypt(ciphertext.encode()).decode()


class PgcryptoString(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "bytea"

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.pgp_sym_encrypt(cast(bindvalue, Text), settings.PGCRYPTO_KEY, type_=LargeBinary)

    def column_expression(self, colexpr: Any) -> Any:
        return func.pgp_sym_decrypt(colexpr, settings.PGCRYPTO_KEY, type_=Text)


def hash_for_search(value: str) -> str:
    return hashlib.sha256(value.strip().lower().encode()).hexdigest()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Sequence("users_id_seq"), primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = mapped_column(
        EncryptedString(
            field="users.email", index="email_bidx", subject="id", clear="count", old=decrypt
        )
    )
    email_bidx: Mapped[str | None] = blind_index("users.email")
    email_hash: Mapped[str | None] = mapped_column(index=True)
    phone: Mapped[str | None] = mapped_column(
        EncryptedString(field="users.phone", subject="id", clear="count", old=decrypt)
    )
    ssn_token: Mapped[str | None] = mapped_column(EncryptedString(field="users.ssn", subject="id"))
    ssn_old: Mapped[str | None] = mapped_column("ssn", PgcryptoString)

    @property
    def ssn(self) -> str | None:
        return self.ssn_token or self.ssn_old

    @ssn.setter
    def ssn(self, value: str | None) -> None:
        self.ssn_token, self.ssn_old = value, None


class PIIAccessLog(Base):
    __tablename__ = "pii_access_log"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    accessed_by: Mapped[str]
    access_type: Mapped[str]
    fields_accessed: Mapped[str]
    reason: Mapped[str | None]
    timestamp: Mapped[datetime] = mapped_column(
        default=lambda: datetime.now(UTC).replace(tzinfo=None)
    )


class UserIn(BaseModel):
    name: str
    email: str
    phone: str | None = None
    ssn: str | None = None


class UserOut(BaseModel):
    id: int
    name: str
    email: str
    phone: str | None
    ssn_last4: str | None


def database() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


Database = Annotated[Session, Depends(database)]
Actor = Annotated[str, Header(alias="X-Actor")]
app = FastAPI()


def log_access(
    db: Session, user: User, actor: str, kind: str, fields: str, reason: str | None
) -> None:
    db.add(
        PIIAccessLog(
            user_id=user.id,
            accessed_by=actor,
            access_type=kind,
            fields_accessed=fields,
            reason=reason,
        )
    )
    db.commit()


def shown(user: User) -> UserOut:
    return UserOut(
        id=user.id,
        name=user.name,
        email=user.email,
        phone=user.phone,
        ssn_last4=user.ssn[-4:] if user.ssn else None,
    )


def user_of(db: Session, user_id: int, for_update: bool = False) -> User:
    # With its row locked, a change does not meet the migration of the same row.
    user = db.get(User, user_id, with_for_update=for_update)
    if user is None:
        raise HTTPException(404, "no such user")
    return user


@app.post("/users", status_code=201)
@audit_pii_access("create", ["email", "phone", "ssn"])
def create_user(new: UserIn, db: Database, actor: Actor) -> UserOut:
    user = User(**new.model_dump())
    db.add(user)
    db.commit()
    log_access(db, user, actor, "create", "email,phone,ssn", None)
    return shown(user)


@app.get("/users/search")
@audit_pii_access("search", ["email"])
def search_users(email: str, db: Database, actor: Actor) -> list[UserOut]:
    # Rows that are not moved have no index yet. Rows that were written since have no hash.
    matches = or_(User.email == email, User.email_hash == hash_for_search(email))
    found = db.scalars(select(User).where(matches).order_by(User.id)).all()
    for user in found:
        log_access(db, user, actor, "search", "email", None)
    return [shown(user) for user in found]


@app.get("/users/{user_id}")
@audit_pii_access("read", ["email", "phone"])
def read_user(user_id: int, db: Database, actor: Actor) -> UserOut:
    user = user_of(db, user_id)
    log_access(db, user, actor, "read", "email,phone", None)
    return shown(user)


@app.put("/users/{user_id}")
@audit_pii_access("update", ["email", "phone", "ssn"])
def change_user(user_id: int, new: UserIn, db: Database, actor: Actor) -> UserOut:
    user = user_of(db, user_id, for_update=True)
    if user.email != new.email:
        user.email_hash = None
    for name, value in new.model_dump().items():
        setattr(user, name, value)
    db.commit()
    log_access(db, user, actor, "update", "email,phone,ssn", None)
    return shown(user)


@app.get("/users/{user_id}/ssn")
@audit_pii_access("read", ["ssn"])
def read_ssn(user_id: int, reason: str, db: Database, actor: Actor) -> dict[str, str | None]:
    user = user_of(db, user_id)
    log_access(db, user, actor, "read", "ssn", reason)
    return {"ssn": user.ssn}


@app.get("/users/{user_id}/access-log")
def access_log(user_id: int, db: Database) -> list[dict[str, str | None]]:
    lines = db.scalars(
        select(PIIAccessLog).where(PIIAccessLog.user_id == user_id).order_by(PIIAccessLog.id)
    )
    return [
        {
            "by": line.accessed_by,
            "type": line.access_type,
            "fields": line.fields_accessed,
            "reason": line.reason,
        }
        for line in lines
    ]
