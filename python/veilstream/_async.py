"""``AsyncVeil``: the calls of ``Veil`` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn, ParamSpec, Self, TypeVar

from ._types import FieldInfo, IndexValues, JsonScalar, RowResult, Value
from ._veil import Veil
from .errors import NotPicklable

__all__ = ["AsyncVeil"]

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 16
"""Calls that wait at once. Opening lets go of the interpreter, and so does the network."""


class AsyncVeil:
    """A ``Veil`` whose calls do not hold up the event loop: each runs on a thread of its own pool.

    ``purpose`` is a plain ``with`` block here too. It holds for the task that entered it.
    """

    __slots__ = ("__weakref__", "_threads", "_veil")

    def __init__(self, veil: Veil) -> None:
        self._veil = veil
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="veilstream")

    @classmethod
    def open(cls, *args: Any, **options: Any) -> Self:
        """``Veil.open``, with its arguments. It blocks: call it at start."""
        return cls(Veil.open(*args, **options))

    @classmethod
    def connect(cls, *args: Any, **options: Any) -> Self:
        """``Veil.connect``, with its arguments. Nothing is sent yet."""
        return cls(Veil.connect(*args, **options))

    @property
    def veil(self) -> Veil:
        """The same, for callers that may block."""
        return self._veil

    async def reveal(
        self,
        field: str,
        token: str,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> Value | bytes:
        """Opens one token."""
        return await self._run(self._veil.reveal, field, token, bind, subject)

    async def reveal_many(
        self,
        rows: Iterable[Mapping[str, object]],
        schema: str,
        fields: Sequence[str] | None = None,
    ) -> list[RowResult]:
        """Opens rows of a schema. Never raises for a row."""
        return await self._run(self._veil.reveal_many, rows, schema, fields)

    async def seal(
        self,
        field: str,
        value: Value,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> str:
        """A token of the value."""
        return await self._run(self._veil.seal, field, value, bind, subject)

    async def index(self, field: str, value: Value | Mapping[str, Value]) -> IndexValues:
        """What to search for."""
        return await self._run(self._veil.index, field, value)

    async def transform(self, schema: str, event: Mapping[str, object]) -> dict[str, Value]:
        """A whole event as the sidecar protects it."""
        return await self._run(self._veil.transform, schema, event)

    def field(self, name: str) -> FieldInfo:
        """What the schema in force says of ``<schema>.<id>``."""
        return self._veil.field(name)

    def purpose(
        self,
        name: str,
        reason: str | None = None,
        *,
        on_behalf_of: str | None = None,
        request_id: str | None = None,
    ) -> AbstractContextManager[None]:
        """What is read for, within the ``with`` block."""
        return self._veil.purpose(name, reason, on_behalf_of=on_behalf_of, request_id=request_id)

    async def close(self) -> None:
        """Waits for calls that run, and ends it."""
        await self._run(self._veil.close)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncVeil {self._veil!r}>"

    def __reduce__(self) -> NoReturn:
        raise NotPicklable("an AsyncVeil does not pickle: make one in each process")

    async def _run(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        bound = partial(copy_context().run, call, *args, **options)
        return await loop.run_in_executor(self._threads, bound)
