"""Columns of values at once, by whichever backend: what SQLAlchemy's rows are opened and sealed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._connect import Connection
from ._types import JsonScalar
from ._veil import Veil
from .errors import NotRevealed

__all__ = ["Column", "has_keys", "normalized", "open_columns", "seal_columns"]


@dataclass(slots=True)
class Column:
    """Values or tokens of one field, and of each the row that it stands in."""

    field: str
    values: Sequence[Any]
    subjects: Sequence[str | int | None] | None = None
    binds: Mapping[str, Sequence[JsonScalar]] | None = None

    def bind(self, row: int) -> dict[str, JsonScalar] | None:
        """The bound values of a row."""
        if self.binds is None:
            return None
        return {name: values[row] for name, values in self.binds.items()}

    def subject(self, row: int) -> str | int | None:
        """Whose row it is."""
        return None if self.subjects is None else self.subjects[row]


def has_keys(veil: Veil) -> bool:
    """Whether it has keys in process."""
    return not isinstance(veil.backend, Connection)


def open_columns(
    veil: Veil, columns: Sequence[Column]
) -> list[tuple[Sequence[Any], Sequence[str] | None]]:
    """Values in order, ``None`` where one does not open, and statuses; no statuses: all opened.

    One line of the audit log for each schema, durable before this returns.
    """
    native = getattr(veil.backend, "reveal_columns", None)
    if native is not None:
        asked = [(one.field, one.values, one.subjects, one.binds) for one in columns]
        return list(native(asked))
    opened: list[tuple[Sequence[Any], Sequence[str] | None]] = []
    for column in columns:
        values: list[Any] = []
        statuses: list[str] = []
        for row, token in enumerate(column.values):
            try:
                values.append(
                    veil.reveal(column.field, token, column.bind(row), column.subject(row))
                )
                statuses.append("revealed")
            except NotRevealed as fault:
                values.append(None)
                statuses.append(fault.status)
        opened.append((values, statuses))
    return opened


def seal_columns(
    veil: Veil, columns: Sequence[Column], indexed: Sequence[bool]
) -> list[tuple[list[str], list[str | None] | None]]:
    """Tokens in order, and of an indexed column the newest index value of each (``None``: none)."""
    backend = veil.backend
    native = getattr(backend, "seal_columns", None)
    if native is not None:
        asked = [
            (one.field, one.values, one.subjects, one.binds, with_index)
            for one, with_index in zip(columns, indexed, strict=True)
        ]
        return list(native(asked))
    sealed: list[tuple[list[str], list[str | None] | None]] = []
    for column, with_index in zip(columns, indexed, strict=True):
        rows = range(len(column.values))
        found: list[str | None] | None = None
        if isinstance(backend, Connection):
            tokens = backend.seal_items([_item(column, row) for row in rows])
            if with_index:
                queries = [{"field": column.field, "value": value} for value in column.values]
                found = [next(iter(one.values), None) for one in backend.index_items(queries)]
        else:
            tokens = [
                veil.seal(column.field, column.values[row], column.bind(row), column.subject(row))
                for row in rows
            ]
            if with_index:
                every = (veil.index(column.field, value) for value in column.values)
                found = [next(iter(one.values), None) for one in every]
        sealed.append((tokens, found))
    return sealed


def normalized(veil: Veil, field: str, value: Any) -> Any:
    """The form in which the field's index compares values; ``None`` where nothing is left."""
    return veil.backend.normalized(field, value)  # type: ignore[attr-defined]


def _item(column: Column, row: int) -> dict[str, Any]:
    item: dict[str, Any] = {"field": column.field, "value": column.values[row]}
    bind, subject = column.bind(row), column.subject(row)
    if bind:
        item["bind"] = bind
    if subject is not None:
        item["subject"] = subject
    return item
