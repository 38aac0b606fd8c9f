"""INSERT and UPDATE: tokens and index values stand in the place of values before SQLAlchemy
compiles, logs or quotes a statement. All ways end here: flush, bulk, Core, ON CONFLICT."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Connection, Delete, Engine, Insert, Update, event
from sqlalchemy import Sequence as SqlSequence
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, ClauseElement
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from .. import _columns
from .._connect import Masked
from .._native import Sealed
from .._veil import Veil
from ..errors import NotSealed
from .attached import veil_of
from .plans import Cell, Plan, check_plan, plan_of, scalar
from .search import resolve
from .types import TokenText

__all__ = ["default_of", "listen", "listen_to_flushes"]

T = TypeVar("T")
Row = dict[str, Any]

# On which connections a flush writes how many entities, each with all that goes with its changes.
_flushes: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()


def listen() -> None:
    """Sees every statement before it is compiled."""
    event.listen(Engine, "before_execute", _before_execute, retval=True)
    for ended in ("rollback", "rollback_savepoint"):
        event.listen(Engine, ended, _after_rollback)


def listen_to_flushes(cls: type[Any]) -> None:
    """Sees which statements a flush makes of entities."""
    event.listen(cls, "before_update", _before_update)
    event.listen(cls, "after_update", _after_update)


def _before_update(mapper: Any, connection: Connection, target: Any) -> None:
    _flushes[connection] = _flushes.get(connection, 0) + 1


def _after_update(mapper: Any, connection: Connection, target: Any) -> None:
    # An entity in the place of a deleted one ends with an update, and began with an insert.
    _flushes[connection] = max(0, _flushes.get(connection, 0) - 1)


def _after_rollback(connection: Connection, *_: Any) -> None:
    """A flush that failed is over."""
    _flushes.pop(connection, None)


def _before_execute(
    connection: Connection, clause: Any, many: Any, one: Any, options: Any
) -> tuple[Any, Any, Any]:
    if isinstance(clause, Insert | Update | Delete | SelectBase):
        if isinstance(clause, Insert | Update):
            plan = plan_of(clause.table)
            if plan is not None:
                veil = veil_of(connection)
                check_plan(veil, plan)
                clause, many, one = _Writing(connection, veil, plan, clause).done(many, one)
        clause = resolve(clause, lambda: veil_of(connection))
    return clause, many, one


class _Writing:
    """One statement that writes rows of a table with protected columns."""

    def __init__(self, connection: Connection, veil: Veil, plan: Plan, clause: Any) -> None:
        self.connection = connection
        self.veil = veil
        self.plan = plan
        self.clause: Any = clause
        self.names = {cell.key: cell for cell in plan.cells}

    def done(self, many: Any, one: Any) -> tuple[Any, Any, Any]:
        """Statement and parameters with tokens."""
        clause = self.clause
        if getattr(clause, "select", None) is not None:
            if set(map(_key, clause._select_names or ())) & set(self.names):
                raise self._unsealable("INSERT FROM SELECT moves tokens to other rows; seal values")
            return clause, many, one
        rows = [dict(row) for row in many] if many else [dict(one)]
        names = _named_in(clause, self.plan)
        fixed = {key: _plain(value) for key, (_, value) in names.items()}
        self._refuse_expressions(fixed)
        if isinstance(clause, Update) and not _flushes.get(self.connection):
            self._refuse_moves(rows, fixed)
        if getattr(clause, "_multi_values", ()):
            self._seal_lists()
            return self._with_conflict(), many, one
        if set(fixed) & set(self.names):
            if any(set(row) & set(self.names) for row in rows):
                raise self._unsealable("values() and parameters name protected columns; use one")
            if len(rows) > 1 and any(
                self.names[key].context for key in set(fixed) & set(self.names)
            ):
                raise self._unsealable("values() names one value for many rows; use parameters")
            whole = {**fixed, **rows[0]}
            before = dict(whole)
            self._seal([whole], rows)
            changed = {
                key: value for key, value in whole.items() if value is not before.get(key, _MISSING)
            }
            # A column keeps the name that values() gave it: one name more would be one value more.
            self.clause = clause.values(
                {names[key][0] if key in names else key: value for key, value in changed.items()}
            )
            return self._with_conflict(), many, one
        if any(set(row) & set(self.names) for row in rows):
            self._seal(rows, rows, fixed)
            if many:
                many = rows
            else:
                one = rows[0]
        return self._with_conflict(), many, one

    def _seal(self, rows: list[Row], params: Sequence[Row], fixed: Row | None = None) -> None:
        """Puts tokens and index values into rows."""
        if isinstance(self.clause, Insert):
            self._make_defaults(rows, fixed)
        work: list[tuple[Cell, list[int], _columns.RowColumn]] = []
        for cell in self.plan.cells:
            at = [n for n, row in enumerate(rows) if cell.key in row]
            if not at:
                continue
            wanted = []
            for n in at:
                value = rows[n][cell.key]
                if value is None:
                    self._index(cell, rows[n], None)
                elif isinstance(value, Sealed) and value._token is not None:
                    self._moved(cell, rows[n], value, params[min(n, len(params) - 1)], fixed)
                elif not isinstance(value, TokenText):
                    wanted.append(n)
            if wanted:
                work.append((cell, wanted, self._column(cell, rows, wanted, params, fixed)))
        if not work:
            return
        columns = [column for _, _, column in work]
        indexed = [cell.index is not None for cell, _, _ in work]
        done = _outside(self.veil, lambda: _columns.seal_columns(self.veil, columns, indexed))
        for (cell, at, column), (tokens, tags) in zip(work, done, strict=True):
            for place, n in enumerate(at):
                value = rows[n][cell.key]
                if isinstance(value, Sealed):
                    value._token, value._clear = tokens[place], None
                    value._place(self.veil, column.bind(place), column.subject(place))
                rows[n][cell.key] = TokenText(tokens[place])
                if tags is not None:
                    self._index(cell, rows[n], tags[place])

    def _column(
        self, cell: Cell, rows: list[Row], at: list[int], params: Sequence[Row], fixed: Row | None
    ) -> _columns.RowColumn:
        values = [rows[n][cell.key] for n in at]
        values = [one._clear if isinstance(one, Sealed) else one for one in values]
        if any(isinstance(value, Masked) for value in values):
            raise self._unsealable(f"{cell.kind.field}: what is shown as a mask is no value")
        known = [self._context(cell, rows[n], params[min(n, len(params) - 1)], fixed) for n in at]
        subjects = None if cell.subject is None else [subject for subject, _ in known]
        binds = {name: [bind[name] for _, bind in known] for name, _ in cell.binds} or None
        return _columns.RowColumn(cell.kind.field, values, subjects, binds)

    def _context(
        self, cell: Cell, row: Row, params: Row, fixed: Row | None
    ) -> tuple[Any, dict[str, Any]]:
        """Subject and bound values of a row, made where the client makes them."""
        subject = (
            None if cell.subject is None else self._known(cell, cell.subject, row, params, fixed)
        )
        bind = {name: self._known(cell, column, row, params, fixed) for name, column in cell.binds}
        return subject, bind

    def _known(
        self, cell: Cell, column: Column[Any], row: Row, params: Row, fixed: Row | None
    ) -> Any:
        key = column.key
        value = row.get(key, (fixed or {}).get(key, _MISSING))
        if value is _MISSING and isinstance(self.clause, Update):
            value = _equal_to(self.clause, column, params)
        if value is _MISSING or value is None or isinstance(value, ClauseElement):
            raise self._unsealable(
                f"{cell.kind.field} is tied to {column.key}, which this statement does not say."
                " Write it as a value, or change the entity and flush"
            )
        return scalar(value)

    def _make_defaults(self, rows: list[Row], fixed: Row | None) -> None:
        """Makes what tokens are tied to and SQLAlchemy would make later: of all rows or none."""
        present = [cell for cell in self.plan.cells if any(cell.key in row for row in rows)]
        for column in {column for cell in present for column in cell.context}:
            for row in rows:
                if column.key not in row and column.key not in (fixed or {}):
                    value = self._made(column)
                    if value is not _MISSING:
                        row[str(column.key)] = value

    def _made(self, column: Column[Any]) -> Any:
        """A default that is made on this side, or asked of the server before."""
        if isinstance(column.default, SqlSequence):
            return self.connection.scalar(column.default)
        made = default_of(column)
        return _MISSING if made is None else made

    def _moved(
        self, cell: Cell, row: Row, value: Sealed[Any], params: Row, fixed: Row | None
    ) -> None:
        """A token stays where it was: in another row it would not open."""
        if value.field != cell.kind.field:
            raise self._unsealable(f"a token of {value.field} stands in {cell.kind.field}")
        subject, bind = self._context(cell, row, params, fixed)
        of_row = (value._bind or None, value._subject)
        if cell.context and of_row != (bind or None, subject):
            raise self._unsealable(
                f"{cell.kind.field}: this token is of another row, where alone it opens; assign the"
                " value"
            )
        if cell.index is not None and cell.index.key not in row:
            raise self._unsealable(
                f"{cell.kind.field}: a token says nothing of its index; assign the value"
            )
        row[cell.key] = TokenText(value.token)

    def _index(self, cell: Cell, row: Row, tag: str | None) -> None:
        if cell.index is not None:
            row[str(cell.index.key)] = tag

    def _seal_lists(self) -> None:
        """``values([{..}, {..}])``."""
        lists: list[Any] = []
        for rows in self.clause._multi_values:
            if not all(isinstance(row, Mapping) for row in rows):
                raise self._unsealable("values() of lists without names; name the columns")
            named = [{_key(name): value for name, value in row.items()} for row in rows]
            named = [{k: _plain(v) for k, v in row.items()} for row in named]
            for row in named:
                self._refuse_expressions(row)
            self._seal(named, named)
            keys = {key for row in named for key in row}
            lists.append([{key: row.get(key) for key in keys} for row in named])
        self.clause = self.clause._clone()
        self.clause._multi_values = tuple(lists)

    def _with_conflict(self) -> Any:
        """``ON CONFLICT DO UPDATE`` takes over index and token together, and into the same row."""
        conflict: Any = getattr(self.clause, "_post_values_clause", None)
        update: Any = getattr(conflict, "update_values_to_set", None)
        if update is None:
            return self.clause
        pairs = dict(update.items() if isinstance(update, Mapping) else update)
        named = {_key(key): value for key, value in pairs.items()}
        excluded = self.clause.excluded
        added: dict[Any, Any] = {}
        targets = self._targets(conflict)
        for cell in self.plan.cells:
            if cell.key not in named:
                for column in cell.context:
                    key = str(column.key)
                    if key in named and not (key in targets and _is_excluded_of(named[key], key)):
                        raise self._moving(cell, column)
                continue
            value = named[cell.key]
            if value is None or getattr(value, "value", _MISSING) is None:
                new: Any = None
            elif _is_excluded_of(value, cell.key):
                self._must_be_the_same_row(cell, targets, named)
                new = None if cell.index is None else excluded[cell.index.key]
            else:
                raise self._unsealable(
                    f"{cell.kind.field}: set_ of ON CONFLICT takes excluded.{cell.key} or None"
                )
            if cell.index is not None:
                added[cell.index.key] = new
        if not added:
            return self.clause
        kept = {key: value for key, value in pairs.items() if _key(key) not in added}
        clause = self.clause._clone()
        clause._post_values_clause = copy.copy(conflict)
        merged = {**kept, **added}
        as_mapping = isinstance(update, Mapping)
        clause._post_values_clause.update_values_to_set = (
            {key: _bound(value) for key, value in merged.items()}
            if as_mapping
            else list(merged.items())
        )
        return clause

    def _targets(self, conflict: Any) -> set[str]:
        """In what two rows are equal that are in conflict."""
        if conflict.constraint_target == self.plan.table.primary_key.name is not None:
            return {str(column.key) for column in self.plan.table.primary_key.columns}
        return {_key(one) for one in conflict.inferred_target_elements or ()}

    def _must_be_the_same_row(self, cell: Cell, targets: set[str], named: Row) -> None:
        """The token is of the row that was to be inserted. The one that is there must be its."""
        for column in cell.context:
            key = str(column.key)
            if key not in targets and not _is_excluded_of(named.get(key), key):
                raise self._unsealable(
                    f"{cell.kind.field} is tied to {column.key}, and the row in conflict may have"
                    f" another; conflict over {column.key}, or set it too"
                )

    def _refuse_moves(self, rows: Sequence[Row], fixed: Row) -> None:
        """What a token is tied to changes with it, or it would not open afterwards."""
        for row in rows:
            values = {**fixed, **row}
            for cell in self.plan.cells:
                for column in cell.context if cell.key not in values else ():
                    new = values.get(str(column.key), _MISSING)
                    if new is _MISSING:
                        continue
                    if isinstance(new, ClauseElement) or new != _equal_to(self.clause, column, row):
                        raise self._moving(cell, column)

    def _moving(self, cell: Cell, column: Column[Any]) -> NotSealed:
        return self._unsealable(
            f"{cell.kind.field} is tied to {column.key}, which this statement sets: its token would"
            f" not open. Set {cell.key} too, or change the entity and flush"
        )

    def _refuse_expressions(self, row: Row) -> None:
        for key in set(row) & set(self.names):
            if isinstance(row[key], ClauseElement):
                raise self._unsealable(f"{self.names[key].kind.field} takes a value, no expression")

    def _unsealable(self, why: str) -> NotSealed:
        return NotSealed(f"{self.plan.table.name}: {why}")


_MISSING: Any = object()


def default_of(column: Column[Any]) -> Any:
    """A column's default where it is made on this side without a statement; else ``None``."""
    default: Any = column.default
    if default is None or isinstance(default, SqlSequence):
        return None
    if default.is_callable:
        try:
            return default.arg(None)
        except AttributeError:
            # It asks the statement's context for something.
            return None
    return default.arg if default.is_scalar else None


def _outside(veil: Veil, call: Callable[[], T]) -> T:
    """Asks a service on another thread where an event loop waits."""
    if _columns.has_keys(veil) or not in_greenlet():
        return call()
    return await_only(asyncio.to_thread(call))


def _key(name: Any) -> str:
    return name if isinstance(name, str) else str(name.key)


def _plain(value: Any) -> Any:
    """The value of a parameter that has one."""
    if isinstance(value, BindParameter) and not value.required:
        return value.effective_value
    return value


def _is_excluded_of(value: Any, key: str) -> bool:
    """Whether it is this column of the row that was to be inserted."""
    is_excluded = isinstance(value, Column) and getattr(value.table, "name", None) == "excluded"
    return is_excluded and value.key == key


def _bound(value: Any) -> Any:
    from sqlalchemy import null

    return null() if value is None else value


def _named_in(clause: Any, plan: Plan) -> dict[str, tuple[Any, Any]]:
    """What values() names of a plan's table: by key, the name as it stands there and the value."""
    values = dict(clause._values or {})
    values.update(dict(getattr(clause, "_ordered_values", None) or ()))
    # UPDATE over two tables may set columns of the other one, which may have the same names.
    return {
        _key(name): (name, value)
        for name, value in values.items()
        if not isinstance(name, Column) or _is_column(name, plan.table.c.get(name.key))
    }


def _equal_to(clause: Update, column: Column[Any], params: Row) -> Any:
    """What WHERE says that a column is equal to."""
    for element in _flat(clause._where_criteria):
        if (
            isinstance(element, BinaryExpression)
            and element.operator is operators.eq
            and _is_column(element.left, column)
            and isinstance(element.right, BindParameter)
        ):
            return params.get(element.right.key, _plain(element.right))
    return _MISSING


def _is_column(element: Any, column: Column[Any] | None) -> bool:
    """Whether it is this column itself: not one of its name, and not that of an alias."""
    return isinstance(element, Column) and element._deannotate() is column


def _flat(criteria: Any) -> Iterator[Any]:
    for element in criteria:
        if getattr(element, "operator", None) is operators.and_:
            yield from _flat(element.clauses)
        else:
            yield element
