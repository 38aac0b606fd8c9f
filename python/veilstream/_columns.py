"""Columns of values at once, by whichever backend: what SQLAlchemy's rows are opened and sealed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from ._connect import Connection
from ._types import JsonScalar

if TYPE_CHECKING:
    from ._open import AttributeOpening, NativeBackend
    from ._veil import Veil

__all__ = [
    "AttributeColumn",
    "EntityColumns",
    "RowColumn",
    "attribute_opening",
    "has_keys",
    "normalized",
    "open_columns",
    "seal_columns",
]


@dataclass(slots=True)
class RowColumn:
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


@dataclass(slots=True)
class AttributeColumn:
    """An attribute of entities. What each is tied to stands as in ``RowColumn``."""

    field: str
    name: str
    subjects: Sequence[str | int | None] | None = None
    binds: Mapping[str, Sequence[JsonScalar]] | None = None


@dataclass(slots=True)
class EntityColumns:
    """Dicts of entities, and the attributes of them that are opened."""

    entities: list[dict[str, Any]]
    attributes: list[AttributeColumn]


def has_keys(veil: Veil) -> bool:
    """Whether it has keys in process."""
    return not isinstance(veil.backend, Connection)


def open_columns(
    veil: Veil, columns: Sequence[RowColumn]
) -> list[tuple[Sequence[Any], Sequence[str] | None]]:
    """Values in order, ``None`` where one does not open, and statuses; no statuses: all opened.

    With keys in process it is one disclosure, durable in the audit log before this returns.
    """
    backend = veil.backend
    if isinstance(backend, Connection):
        return [_asked(backend, column) for column in columns]
    return _native(veil).open_columns(columns)


def attribute_opening(veil: Veil) -> AttributeOpening:
    """Puts values in the place of sealed ones, with keys in process. One disclosure, as above."""
    return _native(veil).attribute_opening()


def seal_columns(
    veil: Veil, columns: Sequence[RowColumn], indexed: Sequence[bool]
) -> list[tuple[list[str], list[str | None] | None]]:
    """Tokens in order, and of an indexed column the newest index value of each (``None``: none)."""
    backend = veil.backend
    if not isinstance(backend, Connection):
        return _native(veil).seal_columns(columns, indexed)
    sealed: list[tuple[list[str], list[str | None] | None]] = []
    for column, with_index in zip(columns, indexed, strict=True):
        rows = range(len(column.values))
        tokens = backend.seal_items([_item(column, row, "value") for row in rows])
        tags: list[str | None] | None = None
        if with_index:
            queries = [{"field": column.field, "value": value} for value in column.values]
            tags = [next(iter(one.values), None) for one in backend.index_items(queries)]
        sealed.append((tokens, tags))
    return sealed


def normalized(veil: Veil, field: str, value: Any) -> bytes | None:
    """The form in which the field's index compares values; ``None`` where nothing is left."""
    return _native(veil).normalized(field, value)


def _native(veil: Veil) -> NativeBackend:
    return cast("NativeBackend", veil.backend)


def _asked(connection: Connection, column: RowColumn) -> tuple[list[Any], list[str]]:
    """Values and statuses of a column that the reading service opens."""
    values: list[Any] = [None] * len(column.values)
    # Without what it is tied to, a token would be asked for as one of any row.
    statuses = ["corrupt"] * len(values)
    rows = [row for row in range(len(values)) if _is_tied(column, row)]
    opened = connection.open_tokens([_item(column, row, "token") for row in rows])
    for row, (status, value) in zip(rows, opened, strict=True):
        values[row], statuses[row] = value, status
    return values, statuses


def _is_tied(column: RowColumn, row: int) -> bool:
    """Whether the row has all that its token is tied to."""
    has_subject = column.subjects is None or column.subject(row) is not None
    return has_subject and None not in (column.bind(row) or {}).values()


def _item(column: RowColumn, row: int, what: Literal["token", "value"]) -> dict[str, Any]:
    item: dict[str, Any] = {"field": column.field, what: column.values[row]}
    bind, subject = column.bind(row), column.subject(row)
    if bind:
        item["bind"] = bind
    if subject is not None:
        item["subject"] = subject
    return item
