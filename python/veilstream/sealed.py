"""``Sealed``: a token in the place of a value, opened only where somebody asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from ._types import JsonScalar
from .errors import ConfigError, NotPicklable, NotRevealed, VeilError

if TYPE_CHECKING:
    from ._async import AsyncVeil
    from ._veil import Veil

__all__ = ["NotSealed", "Sealed", "SealedContext"]

T = TypeVar("T")


class NotSealed(VeilError):
    """A value that was not sealed yet: it has no token to show, send or store."""


class SealedContext:
    """Whose row a token stands in, and who can open it."""

    __slots__ = ("bind", "subject", "veil")

    def __init__(
        self,
        veil: Veil | None,
        bind: Mapping[str, JsonScalar] | None,
        subject: str | int | None,
    ) -> None:
        self.veil = veil
        self.bind = bind
        self.subject = subject

    def is_of(self, bind: Mapping[str, JsonScalar] | None, subject: str | int | None) -> bool:
        """Whether it is this row."""
        return (self.bind or None, self.subject) == (bind or None, subject)


class Sealed(Generic[T]):
    """A protected value as its token. ``reveal`` opens it; nothing else does.

    It shows ``<sealed customers.iban>`` in texts, logs and tracebacks, and pickles as its token.
    ``json`` refuses it.
    """

    __slots__ = ("_clear", "_context", "_field", "_token")

    _clear: Any
    _context: SealedContext | None
    _field: str
    _token: str | None

    def __init__(
        self,
        field: str,
        token: str,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
        veil: Veil | None = None,
    ) -> None:
        self._field = field
        self._token = token
        self._clear = None
        has_context = veil is not None or bind is not None or subject is not None
        self._context = SealedContext(veil, bind, subject) if has_context else None

    @classmethod
    def waiting(cls, field: str, value: T) -> Sealed[T]:
        """A value that is sealed when its row is written."""
        new: Sealed[T] = cls.__new__(cls)
        new._field, new._token, new._clear, new._context = field, None, value, None
        return new

    @property
    def field(self) -> str:
        """``<schema>.<id>``."""
        return self._field

    @property
    def token(self) -> str:
        """What stands in the database."""
        if self._token is None:
            raise NotSealed(f"{self._field}: the value is sealed when its row is written; flush it")
        return self._token

    def reveal(
        self,
        veil: Veil | None = None,
        *,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> T:
        """The value. Row and ``Veil`` are those that it was loaded with, where none are given.

        Raises ``NotRevealed`` with the status where it does not open.
        """
        if self._token is None:
            return cast(T, self._clear)
        context = self._context or SealedContext(None, None, None)
        by = veil or context.veil
        if by is None:
            raise ConfigError(f"{self._field}: reveal needs a Veil: none came with the value")
        of_row = context.bind if bind is None else bind
        of_whom = context.subject if subject is None else subject
        return cast(T, by.reveal(self._field, self._token, of_row, of_whom))

    async def reveal_async(
        self,
        veil: AsyncVeil | None = None,
        *,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> T:
        """The value, without holding up the event loop."""
        by = None if veil is None else veil.veil
        return await asyncio.to_thread(self.reveal, by, bind=bind, subject=subject)

    def __repr__(self) -> str:
        return f"<sealed {self._field}>"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, _: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same token. Tokens of equal values differ."""
        if self is other:
            return True
        if not isinstance(other, Sealed) or self._token is None:
            return False
        return self._field == other._field and self._token == other._token

    def __hash__(self) -> int:
        return id(self) if self._token is None else hash((self._field, self._token))

    def __copy__(self) -> Sealed[T]:
        return self

    def __deepcopy__(self, _: object) -> Sealed[T]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._token is None:
            raise NotPicklable(f"{self._field}: a value that waits to be sealed does not pickle")
        context = self._context
        if context is None:
            return (Sealed, (self._field, self._token))
        bind = None if context.bind is None else dict(context.bind)
        return (Sealed, (self._field, self._token, bind, context.subject))

    def __iter__(self) -> NoReturn:
        raise NotRevealed(self._field, "sealed")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from .pydantic import sealed_schema

        return sealed_schema()
