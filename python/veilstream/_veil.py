"""``Veil``: reads, seals and searches protected fields."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, NoReturn, Self

from . import _purpose
from ._types import Backend, FieldInfo, IndexValues, JsonScalar, RowResult, Value
from .errors import NotPicklable

if TYPE_CHECKING:
    from .arrow import ArrowColumns

__all__ = ["Veil"]


class Veil:
    """Reads, seals and searches protected fields.

    ``Veil.open`` has the keys in process, ``Veil.connect`` asks the reading service. Both take the
    same calls. A ``Veil`` may be shared by threads. It does not pickle.
    """

    __slots__ = ("__weakref__", "_backend")

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @classmethod
    def open(
        cls,
        config: str | os.PathLike[str] = "veilstream.toml",
        *,
        unaudited: bool = False,
        query_id: str | None = None,
    ) -> Self:
        """Opens keys, schemas and audit log that a configuration names.

        ``unaudited`` allows a configuration without ``[audit]``. ``query_id`` stands in each line
        of the audit log: the task of a larger job.
        """
        from ._open import NativeBackend

        return cls(NativeBackend(os.fspath(config), unaudited=unaudited, query_id=query_id))

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        token: str | os.PathLike[str] | Callable[[], str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        schemas: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        want: Literal["auto", "reveal", "mask"] = "auto",
        timeout: float = 30.0,
        patience: float = 60.0,
    ) -> Self:
        """Asks the reading service at ``url``; holds no keys.

        ``token`` is a file with an API key or JWT, or a callable that gives it; it is read for
        each request. ``cert`` are files of a client certificate and its key. ``ca`` names the
        authorities instead of the system's. ``schemas`` are schema documents or folders of them,
        for ``field`` and compound indexes. ``want`` is ``auto`` (the most that policies allow),
        ``reveal`` (no mask instead) or ``mask``. ``timeout`` is in seconds, for one request.
        ``patience`` is in seconds, for a limit of the service that is waited for.
        """
        from ._connect import Connection

        return cls(
            Connection(
                url,
                token=token,
                ca=ca,
                cert=cert,
                schemas=schemas,
                want=want,
                timeout=timeout,
                patience=patience,
            )
        )

    @property
    def backend(self) -> Backend:
        """Who does the work."""
        return self._backend

    @property
    def arrow(self) -> ArrowColumns:
        """Calls on whole columns. They need keys in process."""
        from .arrow import ArrowColumns

        return ArrowColumns(self._backend)

    def reveal(
        self,
        field: str,
        token: str,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> Value | bytes:
        """Opens one token. Raises ``NotRevealed`` with the status where it does not open."""
        return self._backend.reveal(field, token, bind, subject)

    def reveal_many(
        self,
        rows: Iterable[Mapping[str, object]],
        schema: str,
        fields: Sequence[str] | None = None,
    ) -> list[RowResult]:
        """Opens rows of a schema: all protected fields, or these. Never raises for a row."""
        return self._backend.reveal_many(rows, schema, fields)

    def seal(
        self,
        field: str,
        value: Value,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> str:
        """A token of the value. Raises ``Rejected`` where the schema does not take it."""
        return self._backend.seal(field, value, bind, subject)

    def index(self, field: str, value: Value | Mapping[str, Value]) -> IndexValues:
        """What to search for. A compound index takes its parts by name, in a mapping."""
        return self._backend.index(field, value)

    def transform(self, schema: str, event: Mapping[str, object]) -> dict[str, Value]:
        """A whole event as the sidecar protects it."""
        return self._backend.transform(schema, event)

    def field(self, name: str) -> FieldInfo:
        """What the schema in force says of ``<schema>.<id>``."""
        return self._backend.field(name)

    def purpose(
        self,
        name: str,
        reason: str | None = None,
        *,
        on_behalf_of: str | None = None,
        request_id: str | None = None,
    ) -> AbstractContextManager[None]:
        """What is read for, within the ``with`` block. It stands in the audit log.

        ``on_behalf_of`` is a claim and grants nothing. ``request_id`` makes a block that runs
        again within ten minutes the same disclosure: budgets count it once.
        """
        return _purpose.purpose(name, reason, on_behalf_of=on_behalf_of, request_id=request_id)

    def close(self) -> None:
        """Ends it: the audit chain gets its end line, keys are dropped."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Veil {type(self._backend).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(
            "a Veil does not pickle: it holds keys or a token. Make one in each process, with"
            " Veil.connect or Veil.open"
        )
