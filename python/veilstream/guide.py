"""The names of the common guide to encrypting personal data in Python, with veilstream behind them.

``EncryptionService``, ``EncryptedString``, ``KeyRotationService`` and ``audit_pii_access`` take the
place of the guide's own by one changed import. ``configure`` says once which field and purpose they
stand for. docs/from-the-guide.md walks through a whole application.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from sqlalchemy import Table, select
from sqlalchemy.orm import Session, attributes, class_mapper

from ._native import Sealed
from ._open import NativeBackend
from ._veil import Veil
from .errors import ConfigError, NotRevealed
from .sqlalchemy.plans import plan_of
from .sqlalchemy.types import Bind, Clear, Encrypted, Old

__all__ = [
    "EncryptedString",
    "EncryptionService",
    "KeyRotationService",
    "RotationResult",
    "audit_pii_access",
    "configure",
    "the_veil",
]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Guide:
    veil: Veil | None = None
    field: str | None = None
    purpose: str | None = None


_guide = _Guide()


def configure(
    veil: Veil | None = None, *, field: str | None = None, purpose: str | None = None
) -> None:
    """What the guide's names stand for.

    Without it they open what ``VEILSTREAM_CONFIG`` names, and take field and purpose from its
    section ``[guide]``.
    """
    _guide.veil = veil or _guide.veil
    _guide.field = field or _guide.field
    _guide.purpose = purpose or _guide.purpose


def the_veil() -> Veil:
    """The ``Veil`` behind the guide's names."""
    if _guide.veil is None:
        _guide.veil = Veil.open(os.environ.get("VEILSTREAM_CONFIG", "veilstream.toml"))
    return _guide.veil


def _configured(veil: Veil | None) -> tuple[str | None, str | None]:
    """Field and purpose of ``[guide]``; the reading service has none."""
    backend = (veil or the_veil()).backend
    return backend.engine.guide() if isinstance(backend, NativeBackend) else (None, None)


def _field(given: str | None, veil: Veil | None) -> str:
    field = given or _guide.field or _configured(veil)[0]
    if field is None:
        raise ConfigError(
            "which field is it? Say field=, or veilstream.guide.configure(field=..), or set"
            " guide.field in the configuration; it is one of a schema, as users.email"
        )
    return field


def _purpose(given: str | None, veil: Veil) -> str:
    purpose = given or _guide.purpose or _configured(veil)[1]
    if purpose is None:
        raise ConfigError(
            "what is it read for? Say purpose=, or veilstream.guide.configure(purpose=..), or set"
            " guide.purpose in the configuration; it is one of policy.purposes"
        )
    return purpose


class EncryptionService:
    """``encrypt``, ``decrypt`` and a hash to search by, for one field.

    Keys are those of the configuration: a key that is handed over is none of it, and refused.
    """

    def __init__(
        self, key: object = None, *, field: str | None = None, veil: Veil | None = None
    ) -> None:
        if key is not None:
            raise ConfigError(
                "keys stand in the key store of the configuration, not in the program; leave the"
                " key out, and move what it encrypted with `veilstream migrate`"
            )
        self._veil = veil or the_veil()
        self._field = _field(field, self._veil)

    def encrypt(self, plaintext: str | None, *, subject: str | int | None = None) -> str | None:
        """A token. Of a schema with ``subject``, it is tied to that person."""
        if plaintext is None:
            return None
        return self._veil.seal(self._field, plaintext, None, subject)

    def decrypt(self, ciphertext: str | None, *, subject: str | int | None = None) -> str | None:
        """The value of a token."""
        if ciphertext is None:
            return None
        return cast(str, self._veil.reveal(self._field, ciphertext, None, subject))

    def hash_for_search(self, value: str) -> str | None:
        """What stands in the index column of a new row; ``None``: the value has no index.

        To find rows, write ``IN`` with all of ``search_values``: roots rotate.
        """
        return next(iter(self.search_values(value)), None)

    def search_values(self, value: str) -> list[str]:
        """What to look for in the index column."""
        return list(self._veil.index(self._field, value).values)

    def __repr__(self) -> str:
        return f"EncryptionService({self._field!r})"


class EncryptedString(Encrypted):
    """The guide's column type. ``length`` is taken and unused: tokens are text of any length."""

    cache_ok = True

    def __init__(
        self,
        length: int | None = None,
        field: str | None = None,
        index: str | None = None,
        subject: str | None = None,
        bind: Bind = None,
        clear: Clear = "reject",
        old: Old = None,
    ) -> None:
        super().__init__(_field(field, None), index, subject, bind, clear, old)
        self.length = length


@dataclass(frozen=True, slots=True)
class RotationResult:
    """What a rotation did: rows that were sealed again, and values that did not open."""

    rows: int
    failed: int


class KeyRotationService:
    """Seals rows again, under the newest keys, by keyset and a commit a batch.

    ``veilstream rotate postgres`` does the same beside writers, many times as fast. This one needs
    the models alone.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def rotate(self, model: type[Any], batch_size: int = 1000) -> RotationResult:
        """Seals all protected values of a table again. It resumes where it is called again."""
        mapper = class_mapper(model)
        table = mapper.local_table
        plan = plan_of(table) if isinstance(table, Table) else None
        if plan is None or len(mapper.primary_key) != 1:
            raise ConfigError(f"{model.__name__}: no protected columns, or no single primary key")
        keys = [mapper.get_property_by_column(cell.column).key for cell in plan.cells]
        key = mapper.get_property_by_column(mapper.primary_key[0]).key
        own = getattr(model, key)
        rows = failed = 0
        last: Any = None
        while True:
            query = select(model).order_by(own).limit(batch_size).with_for_update()
            batch = self._session.scalars(query if last is None else query.where(own > last)).all()
            if not batch:
                return RotationResult(rows, failed)
            last = getattr(batch[-1], key)
            for row in batch:
                failed += self._again(row, keys)
            rows += len(batch)
            self._session.commit()
            self._session.expunge_all()

    def _again(self, row: Any, keys: Iterable[str]) -> int:
        """Has a row's values written again; how many did not open."""
        failed = 0
        for key in keys:
            try:
                value = getattr(row, key)
                if isinstance(value, Sealed):
                    setattr(row, key, value.reveal())
                elif value is not None:
                    attributes.flag_modified(row, key)
            except NotRevealed:
                failed += 1
        return failed


def audit_pii_access(
    access_type: str,
    fields: Sequence[str] = (),
    *,
    purpose: str | None = None,
    veil: Veil | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """What the function reads is for this purpose, and stands in the audit log.

    The function's arguments ``reason`` and ``actor`` are reason and ``on_behalf_of`` there; without
    a reason, ``access_type`` and ``fields`` are it.
    """
    default = f"{access_type}: {', '.join(fields)}" if fields else access_type

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        def block(args: Any, kwargs: Any) -> Any:
            given = signature.bind_partial(*args, **kwargs).arguments
            by = veil or the_veil()
            actor = given.get("actor")
            return by.purpose(
                _purpose(purpose, by),
                str(given.get("reason") or default),
                on_behalf_of=actor if isinstance(actor, str) else None,
            )

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def waiting(*args: P.args, **kwargs: P.kwargs) -> Any:
                with block(args, kwargs):
                    return await function(*args, **kwargs)

            return cast("Callable[P, T]", waiting)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            with block(args, kwargs):
                return function(*args, **kwargs)

        return called

    return decorate
