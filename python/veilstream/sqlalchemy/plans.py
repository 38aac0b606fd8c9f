"""Which columns of a table belong together, and what is wrong with a mapping."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Integer, Table
from sqlalchemy.orm import Mapper

from .._columns import has_keys
from .._types import FieldInfo
from .._veil import Veil
from ..errors import VeilError
from .types import BlindIndex, Encrypted, Protected

__all__ = ["Cell", "MappingError", "Plan", "check", "names_of_mapper", "plan_of", "scalar"]

INFO = "veilstream"


class MappingError(VeilError):
    """A mapping that cannot protect what it names, or would protect it less than its schema asks."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A protected column, and the columns of its table that it is tied to."""

    column: Column[Any]
    kind: Protected
    index: Column[Any] | None
    subject: Column[Any] | None
    binds: tuple[tuple[str, Column[Any]], ...]

    @property
    def context(self) -> list[Column[Any]]:
        """The columns that say whose row it is."""
        own = [] if self.subject is None else [self.subject]
        return own + [column for _, column in self.binds]

    @property
    def key(self) -> str:
        """The column's name in statements."""
        return self.column.key


@dataclass(frozen=True, slots=True)
class Plan:
    """The protected columns of a table."""

    table: Table
    cells: tuple[Cell, ...]


_plans: WeakKeyDictionary[Table, Plan] = WeakKeyDictionary()
_checked: WeakKeyDictionary[Veil, WeakKeyDictionary[Table, Plan]] = WeakKeyDictionary()


def plan_of(table: Any) -> Plan | None:
    """The plan of a table with protected columns; of others ``None``."""
    own = table.metadata.tables.get(table.key, table) if isinstance(table, Table) else None
    if own is None:
        return None
    plan = _plans.get(own)
    if plan is None:
        cells = tuple(_cell(own, column) for column in own.c if isinstance(column.type, Protected))
        plan = Plan(own, cells)
        _plans[own] = plan
    return plan if plan.cells else None


def scalar(value: Any) -> Any:
    """A subject or bound value as it stands in a token's context."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def names_of_mapper(mapper: Mapper[Any]) -> None:
    """Notes which columns the names of attributes mean, and refuses what cannot work."""
    for attribute in mapper.column_attrs:
        for column in attribute.columns:
            if isinstance(column, Column) and isinstance(column.type, Protected):
                kind = column.type
                names = [kind.index, kind.subject, *(name for _, name in kind.bind)]
                column.info[INFO] = {
                    name: _named(mapper, column, name) for name in names if name is not None
                }
                _plans.pop(column.table, None)
                plan_of(column.table)


def _named(mapper: Mapper[Any], column: Column[Any], name: str) -> str:
    """The key of the column that an attribute is, in the table of ``column``."""
    found = mapper.column_attrs.get(name)
    for own in found.columns if found is not None else ():
        if isinstance(own, Column) and own.table is column.table:
            return own.key
    raise MappingError(
        f"{mapper.class_.__name__}.{column.key}: {name} is no mapped column of {column.table.name}"
    )


def _cell(table: Table, column: Column[Any]) -> Cell:
    kind = cast(Protected, column.type)
    names = column.info.get(INFO, {})
    where = f"{table.name}.{column.key}"

    def own(name: str) -> Column[Any]:
        key = names.get(name, name)
        if key not in table.c:
            raise MappingError(f"{where}: {name} is no column of {table.name}")
        found: Column[Any] = table.c[key]
        return found

    index = None if kind.index is None else own(kind.index)
    if index is not None and not (
        isinstance(index.type, BlindIndex) and index.type.field == kind.field
    ):
        raise MappingError(f'{where}: {kind.index} is not blind_index("{kind.field}")')
    subject = None if kind.subject is None else own(kind.subject)
    binds = tuple((name, own(attribute)) for name, attribute in kind.bind)
    cell = Cell(column, kind, index, subject, binds)
    for context in cell.context:
        _must_be_known_before(where, context)
    return cell


def _must_be_known_before(where: str, column: Column[Any]) -> None:
    """A value that the server makes comes after the token that is tied to it."""
    if isinstance(column.type, Protected):
        raise MappingError(f"{where}: {column.key} is protected itself, so nothing is tied to it")
    is_autoincrement = column.table._autoincrement_column is column
    if column.default is not None:
        return
    if column.identity is not None or column.computed is not None or is_autoincrement:
        what = "made by the server, after the token that is tied to it"
    elif column.server_default is not None:
        what = "set by the server where no value is given, after the token that is tied to it"
    else:
        return
    integer = isinstance(column.type, Integer)
    advice = (
        "default=Sequence(..), which is asked before, or autoincrement=False"
        if integer
        else "default=uuid4"
    )
    raise MappingError(
        f"{where}: {column.key} is {what}. Give it {advice}; or take a schema without subject"
    )


def check(veil: Veil, tables: Iterable[Table]) -> None:
    """Raises ``MappingError`` where mappings and schemas in force do not agree.

    Statements check it by themselves, once for each table; at start it is said earlier.
    """
    for table in tables:
        plan = plan_of(table)
        if plan is not None:
            check_plan(veil, plan)


def check_plan(veil: Veil, plan: Plan) -> None:
    """As ``check``, of one table, once."""
    done = _checked.setdefault(veil, WeakKeyDictionary())
    if done.get(plan.table) is plan:
        return
    for cell in plan.cells:
        where = f"{plan.table.name}.{cell.key}"
        if has_keys(veil):
            _check_cell(where, cell, veil.field(cell.kind.field))
        elif isinstance(cell.kind, Encrypted):
            raise MappingError(
                f"{where}: encrypted() opens on load and needs keys in process (Veil.open); with"
                " Veil.connect use sealed()"
            )
        elif getattr(veil.backend, "_schemas", None) is not None:
            _check_cell(where, cell, veil.field(cell.kind.field))
    done[plan.table] = plan


def _check_cell(where: str, cell: Cell, info: FieldInfo) -> None:
    name = cell.kind.field
    if info.has_subject and not info.subject_optional and cell.subject is None:
        raise MappingError(
            f"{where}: tokens of {name} are tied to a person; name its column with subject=, or a"
            " token that was planted in another row would open"
        )
    if cell.subject is not None and not info.has_subject:
        raise MappingError(f"{where}: the schema of {name} has no subject; leave subject= out")
    mapped = tuple(sorted(bind for bind, _ in cell.binds))
    if mapped != tuple(sorted(info.binds)):
        wanted = ", ".join(info.binds) or "nothing"
        raise MappingError(
            f"{where}: tokens of {name} are bound to {wanted}; name the columns with bind=, or a"
            " token that was planted in another row would open"
        )
    if cell.index is not None and not info.indexes:
        raise MappingError(
            f"{where}: {name} has no index in its schema; add one, or leave index= out"
        )
