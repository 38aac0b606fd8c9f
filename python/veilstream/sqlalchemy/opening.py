"""The values of one statement, opened together: one disclosure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy.orm import InstanceState, attributes

from .._columns import AttributeColumn, EntityColumns, open_attributes
from .._native import Sealed
from .._veil import Veil
from ..errors import NotRevealed
from .plans import Cell, check_plan, plan_of, scalar
from .unreadable import withhold

__all__ = [
    "Attribute",
    "by_class",
    "clear_seen",
    "is_sealed",
    "open_together",
    "protected",
    "protected_of",
]

_SCALARS = {str, int, float, bool, type(None)}
_clear_seen: Counter[str] = Counter()
# Of each mapped class.
protected: dict[type[Any], list[Attribute]] = {}


def clear_seen() -> dict[str, int]:
    """How many clear values were read, of each field that is mapped with ``clear="count"``."""
    return dict(_clear_seen)


@dataclass(slots=True)
class Attribute:
    """A protected attribute of a mapped class, and the attributes that it is tied to."""

    key: str
    cell: Cell
    subject: str | None
    binds: tuple[tuple[str, str], ...]
    opens: bool

    @property
    def context(self) -> list[str]:
        """All of them."""
        return ([self.subject] if self.subject else []) + [name for _, name in self.binds]


def protected_of(cls: type[Any]) -> list[Attribute]:
    """Those of a class."""
    return protected.get(cls, [])


def by_class(states: Sequence[InstanceState[Any]]) -> dict[type[Any], list[InstanceState[Any]]]:
    """Entities by their class."""
    found: dict[type[Any], list[InstanceState[Any]]] = {}
    for cls, of_class in groupby(states, attrgetter("class_")):
        found.setdefault(cls, []).extend(of_class)
    return found


def is_sealed(row: dict[str, Any], key: str) -> bool:
    """Whether nobody opened an attribute of an entity."""
    return type(row.get(key)) is Sealed


def open_together(veil: Veil, all_states: Sequence[InstanceState[Any]]) -> None:
    """One call, one line of the audit log a schema."""
    work: list[tuple[Attribute, list[InstanceState[Any]]]] = []
    entities: list[EntityColumns] = []
    for cls, states in by_class(all_states).items():
        # As `state.dict`, with less work.
        alive = [state.obj() for state in states]
        whole = [{} if one is None else attributes.instance_dict(one) for one in alive]
        together = EntityColumns(whole, [])
        entities.append(together)
        apart: list[tuple[Attribute, list[InstanceState[Any]]]] = []
        for own in protected_of(cls):
            plan = plan_of(own.cell.column.table)
            assert plan is not None
            check_plan(veil, plan)
            found, dicts = states, whole
            if not all([name in row for name in own.context for row in whole]):
                found = [s for s in states if is_sealed(s.dict, own.key) and _has_context(own, s)]
                dicts = [state.dict for state in found]
            if not own.opens:
                _place(veil, own, dicts)
            elif found is states:
                together.attributes.append(_column(own, dicts))
                work.append((own, found))
            else:
                entities.append(EntityColumns(dicts, [_column(own, dicts)]))
                apart.append((own, found))
        work += apart
    if not work:
        return
    for (own, found), failed in zip(work, open_attributes(veil, entities), strict=True):
        for row, status in failed:
            _not_opened(own, found[row], status)


def _has_context(own: Attribute, state: InstanceState[Any]) -> bool:
    """Whether all is loaded that a value is tied to: loader options may leave it out."""
    for name in own.context:
        if name not in state.dict:
            status = f"tied to {name}, which is not loaded; load it too"
            withhold(state, own.key, own.cell.kind.field, status, needs=name)
            return False
    return True


def _column(own: Attribute, dicts: list[dict[str, Any]]) -> AttributeColumn:
    subjects = None if own.subject is None else _scalars(dicts, own.subject)
    binds = {name: _scalars(dicts, bound) for name, bound in own.binds} or None
    return AttributeColumn(own.cell.kind.field, own.key, subjects, binds)


def _place(veil: Veil, own: Attribute, dicts: list[dict[str, Any]]) -> None:
    """Says of values that stay sealed whose they are."""
    for row in dicts:
        value = row.get(own.key)
        if isinstance(value, Sealed) and not value._is_placed():
            subject = None if own.subject is None else scalar(row[own.subject])
            bind = {name: scalar(row[bound]) for name, bound in own.binds} or None
            value._place(veil, bind, subject)


def _scalars(dicts: list[dict[str, Any]], key: str) -> list[Any]:
    values = [row[key] for row in dicts]
    kinds = {type(value) for value in values}
    return values if kinds <= _SCALARS else [scalar(value) for value in values]


def _not_opened(own: Attribute, state: InstanceState[Any], status: str) -> None:
    """The row is handed out all the same. Who reads this attribute hears why."""
    kind = own.cell.kind
    if status == "clear" and kind.clear != "reject":
        try:
            state.dict[own.key] = kind.old_value(state.dict[own.key]._token)
        except NotRevealed as fault:
            status = fault.status
        else:
            _clear_seen[kind.field] += kind.clear == "count"
            return
    withhold(state, own.key, kind.field, status)
