"""The guide's application: Fernet, pgcrypto and plain hashes."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from cryptography.fernet import Fernet
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import BigInteger, ForeignKey, LargeBinary, Text, cast, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator, UserDefinedType

from settings import Settings

settings = Settings()  # type: ignore[call-arg]
engine = create_engine(settings.DATABASE_URL)


class EncryptionService:
    def __init__(self) -> None:
        self.fernet = Fernet(settings.ENCRYPTION_KEY)

    def encrypt(self, plaintext: str) -> str:
        return self.fernet.encrypt(plaintext.encode()).decode()

    def decrypt(self, ciphertext: str) -> str:
        return self.fernet.decrypt(ciphertext.encode()).decode()


class EncryptedString(TypeDecorator[str]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else EncryptionService().encrypt(value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else EncryptionService().decrypt(value)


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

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = mapped_column(EncryptedString)
    email_hash: Mapped[str] = mapped_column(index=True)
    phone: Mapped[str | None] = mapped_column(EncryptedString)
    ssn: Mapped[str | None] = mapped_column(PgcryptoString)


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


def user_of(db: Session, user_id: int) -> User:
    user = db.get(User, user_id)
    if user is None:
        raise HTTPException(404, "no such user")
    return user


@app.post("/users", status_code=201)
def create_user(new: UserIn, db: Database, actor: Actor) -> UserOut:
    user = User(**new.model_dump(), email_hash=hash_for_search(new.email))
    db.add(user)
    db.commit()
    log_access(db, user, actor, "create", "email,phone,ssn", None)
    return shown(user)


@app.get("/users/search")
def search_users(email: str, db: Database, actor: Actor) -> list[UserOut]:
    found = db.scalars(
        select(User).where(User.email_hash == hash_for_search(email)).order_by(User.id)
    ).all()
    for user in found:
        log_access(db, user, actor, "search", "email", None)
    return [shown(user) for user in found]


@app.get("/users/{user_id}")
def read_user(user_id: int, db: Database, actor: Actor) -> UserOut:
    user = user_of(db, user_id)
    log_access(db, user, actor, "read", "email,phone", None)
    return shown(user)


@app.put("/users/{user_id}")
def change_user(user_id: int, new: UserIn, db: Database, actor: Actor) -> UserOut:
    user = user_of(db, user_id)
    for name, value in new.model_dump().items():
        setattr(user, name, value)
    user.email_hash = hash_for_search(new.email)
    db.commit()
    log_access(db, user, actor, "update", "email,phone,ssn", None)
    return shown(user)


@app.get("/users/{user_id}/ssn")
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
