"""Bucketed searches: what was found is compared again, by what the statement itself read.

An entity that its session had before keeps its values, and loader options leave attributes out. So
the statement also selects the tokens that were searched, and what they are tied to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from sqlalchemy.engine import Result
from sqlalchemy.orm import InstanceState, Mapper, attributes
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.sql.elements import ColumnElement

from .._columns import RowColumn, normalized, open_columns
from .._veil import Veil
from ..errors import NotRevealed
from .plans import Cell, plan_of, scalar
from .search import Recheck, refuse_bucketed
from .types import Encrypted

__all__ = ["Rechecks"]

# Whether a statement read an attribute of an entity, by its name.
IsRead = Callable[[InstanceState[Any], str], bool]


@dataclass(slots=True)
class _Compared:
    """A check, and where the rows have its token and what that is tied to."""

    check: Recheck
    cell: Cell
    token: int
    subject: int | None
    binds: tuple[tuple[str, int], ...]
    # The attribute that opens on load, of each mapper; ``None`` where it has none.
    _keys: dict[Mapper[Any], str | None] = field(default_factory=dict)

    def column(self, rows: Sequence[Any]) -> RowColumn:
        """The tokens of rows."""
        tokens = [row[self.token].token for row in rows]
        subjects = None if self.subject is None else [scalar(row[self.subject]) for row in rows]
        binds = {name: [scalar(row[at]) for row in rows] for name, at in self.binds} or None
        return RowColumn(self.cell.kind.field, tokens, subjects, binds)

    def loaded(self, state: InstanceState[Any], is_read: IsRead) -> Any:
        """The value of the row, where it was just opened with its entity; else ``None``."""
        mapper = state.mapper
        if mapper not in self._keys:
            self._keys[mapper] = self._key(mapper)
        key = self._keys[mapper]
        # A change that is not flushed is not what stands in the row.
        if key is None or key in state.committed_state or not is_read(state, key):
            return None
        return state.dict.get(key)

    def _key(self, mapper: Mapper[Any]) -> str | None:
        if not isinstance(self.cell.kind, Encrypted):
            return None
        try:
            return mapper.get_property_by_column(self.cell.column).key
        except UnmappedColumnError:
            return None


class Rechecks:
    """The checks of one statement."""

    def __init__(self, checks: Sequence[Recheck]) -> None:
        self._places: dict[ColumnElement[Any], int] = {}
        self._compared = [self._of(check) for check in checks]

    def selected(self, statement: Any) -> Any:
        """The statement, which also selects what is compared."""
        return statement.add_columns(*self._places)

    def kept(self, veil: Veil, rows: Sequence[Any], is_read: IsRead) -> list[Any]:
        """The rows that have what was looked for. Values are opened once, and together."""
        found: list[list[Any]] = []
        closed: list[tuple[_Compared, list[Any], list[int]]] = []
        states = [attributes.instance_state(row[0]) for row in rows]
        for one in self._compared:
            values = [one.loaded(state, is_read) for state in states]
            found.append(values)
            missing = [
                n for n, row in enumerate(rows) if values[n] is None and row[one.token] is not None
            ]
            if missing:
                closed.append((one, values, missing))
        columns = [one.column([rows[n] for n in missing]) for one, _, missing in closed]
        opened = open_columns(veil, columns) if columns else []
        for (one, values, missing), (clear, statuses) in zip(closed, opened, strict=True):
            for place, n in enumerate(missing):
                values[n] = clear[place]
                if statuses is not None and statuses[place] == "clear":
                    with suppress(NotRevealed):
                        values[n] = one.cell.kind.old_value(rows[n][one.token].token)
        return [
            row
            for n, row in enumerate(rows)
            if all(
                _holds(veil, one.check, values[n])
                for one, values in zip(self._compared, found, strict=True)
            )
        ]

    def refuse(self) -> NoReturn:
        """Raises: rows come from elsewhere, and nobody knows what was read."""
        refuse_bucketed(self._compared[0].check.field, "a result that SQLAlchemy did not load")

    def without_columns(self, result: Result[Any], is_single: bool) -> Result[Any]:
        """The result as the statement was written: of its entity alone."""
        # By this, a legacy Query takes scalars.
        parts = cast(Any, result)
        parts._attributes = parts._attributes.union({"is_single_entity": is_single})
        return result.columns(0)

    def _of(self, check: Recheck) -> _Compared:
        token: Any = check.column
        bases = token.base_columns
        cell = next(
            cell
            for base in bases
            if (plan := plan_of(base.table)) is not None
            for cell in plan.cells
            if cell.column in bases
        )
        # Of the same table or alias as the search.
        own = token.table.c
        subject = None if cell.subject is None else self._place(own[cell.subject.key])
        binds = tuple((name, self._place(own[column.key])) for name, column in cell.binds)
        return _Compared(check, cell, self._place(own[cell.key]), subject, binds)

    def _place(self, column: ColumnElement[Any]) -> int:
        # The entity stands first.
        return self._places.setdefault(column, len(self._places) + 1)


def _holds(veil: Veil, check: Recheck, value: Any) -> bool:
    return value is not None and normalized(veil, check.field, value) in check.wanted
