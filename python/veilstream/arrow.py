"""Columns over Arrow: pandas, Polars, DuckDB, PySpark and pyarrow take and give them.

A column is any object with ``__arrow_c_array__`` or ``__arrow_c_stream__``. Buffers are not copied
on their way in. What comes out is plaintext in the engine's memory, spill and shuffle files:
encrypt those, and reveal last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from . import _json, _native
from ._native import Column
from ._open import NativeBackend, alarm, claims
from ._types import Backend
from .errors import ColumnNotRevealed, NeedsKeys

__all__ = ["ArrowArray", "ArrowColumns", "ArrowStream", "Column", "Scalars", "key_ids"]


@runtime_checkable
class ArrowArray(Protocol):
    """One array."""

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """Schema and array, in capsules."""
        ...


@runtime_checkable
class ArrowStream(Protocol):
    """An array in chunks."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The stream, in a capsule."""
        ...


Scalars: TypeAlias = str | int | ArrowArray | ArrowStream
"""A column, or one string or integer for all rows."""


class ArrowColumns:
    """``veil.arrow``: calls on whole columns, each with its lines in the audit log."""

    __slots__ = ("_backend",)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def reveal(
        self,
        column: ArrowArray | ArrowStream,
        field: str,
        *,
        subject: Scalars | None = None,
        bind: Mapping[str, Scalars] | None = None,
        errors: Literal["raise", "null"] = "raise",
    ) -> Column:
        """Opens a column of tokens.

        Strings come as they are, all else as JSON text; null stays null. ``subject`` and the
        values of ``bind`` are columns too, or one scalar for all rows. With ``errors="null"`` a
        row that does not open is null, and ``counts`` says how many came to what. Otherwise
        ``ColumnNotRevealed`` says so.
        """
        opened = _native.reveal_column(
            self._engine, column, field, _scalars(subject), _bind(bind), claims()
        )
        if "denied" in opened.counts:
            alarm(field)
        failed = {status: n for status, n in opened.counts.items() if status != "revealed"}
        if failed and errors == "raise":
            most = max(failed, key=failed.__getitem__)
            raise ColumnNotRevealed(field, most, opened.counts)
        return opened

    def seal(
        self,
        column: ArrowArray | ArrowStream,
        field: str,
        *,
        subject: Scalars | None = None,
        bind: Mapping[str, Scalars] | None = None,
    ) -> Column:
        """Seals a column of strings, integers, floats or booleans."""
        return _native.seal_column(
            self._engine, column, field, _scalars(subject), _bind(bind), claims()
        )

    def index(self, column: ArrowArray | ArrowStream, field: str) -> Column:
        """The index column of a column of values, under the newest root.

        A value without an index is null.
        """
        return _native.index_column(self._engine, column, field, claims())

    def rotate(
        self,
        column: ArrowArray | ArrowStream,
        field: str,
        *,
        subject: Scalars | None = None,
        bind: Mapping[str, Scalars] | None = None,
    ) -> Column:
        """Moves a column's tokens to the newest keys. No value is shown.

        What does not open stays as it is. ``counts`` says how many were ``rotated``, were under
        the ``newest`` key already, or did not open. ``key_ids`` counts tokens that open by key.
        Columns in the form of Fernet or pgcrypto are refused: reveal and seal those.
        """
        return _native.rotate_column(
            self._engine, column, field, _scalars(subject), _bind(bind), claims()
        )

    @property
    def _engine(self) -> _native.Engine:
        if not isinstance(self._backend, NativeBackend):
            raise NeedsKeys("columns need keys in process; make this Veil with Veil.open")
        return self._backend.engine


def key_ids(column: ArrowArray | ArrowStream) -> dict[str, int]:
    """How many tokens of a column are under which key, by its id. Nothing is opened.

    What is no token counts as ``""``.
    """
    return _native.key_ids(column)


def _scalars(given: Scalars | None) -> object | None:
    if given is None or isinstance(given, ArrowArray | ArrowStream):
        return given
    return _json.scalar_text(given, "subject or bound value")


def _bind(bind: Mapping[str, Scalars] | None) -> list[tuple[str, object]]:
    return [(name, _scalars(given)) for name, given in (bind or {}).items()]
