"""The values of one statement, opened together: one disclosure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import InstanceState, attributes

from .._columns import AttributeColumn, EntityColumns, attribute_opening
from .._native import Sealed
from .._veil import Veil
from ..errors import NotRevealed
from .plans import Cell, check_plan, plan_of, scalar
from .unreadable import withhold

if TYPE_CHECKING:
    from .._open import AttributeOpening

__all__ = [
    "Attribute",
    "Opening",
    "by_class",
    "clear_seen",
    "is_sealed",
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


class Opening:
    """Opens what a statement loads: one call, one line of the audit log a schema.

    Values are put in their place at the end, all of them or none.
    """

    def __init__(self, veil: Veil) -> None:
        self._veil = veil
        self._native: AttributeOpening | None = None
        # Attributes in the order in which they were given, with their entities.
        self._given: list[tuple[Attribute, list[InstanceState[Any]]]] = []
        # Those of which not every entity has all that its value is tied to, or that stay sealed.
        self._others: list[tuple[Attribute, list[InstanceState[Any]]]] = []

    def begin(self, states: Sequence[InstanceState[Any]]) -> None:
        """Begins to open entities, while the next ones are loaded."""
        entities = self._take(states)
        if entities:
            self._opening().begin(entities)

    def finish(self, states: Sequence[InstanceState[Any]]) -> None:
        """Opens these, and puts all values in their place."""
        entities = self._take(states)
        for own, of_class in self._others:
            found = [s for s in of_class if is_sealed(s.dict, own.key) and _has_context(own, s)]
            dicts = [state.dict for state in found]
            if own.opens:
                entities.append(EntityColumns(dicts, [_column(own, dicts)]))
                self._given.append((own, found))
            else:
                _place(self._veil, own, dicts)
        if not self._given:
            return
        for (own, found), failed in zip(self._given, self._opening().finish(entities), strict=True):
            for row, status in failed:
                _not_opened(own, found[row], status)

    def _opening(self) -> AttributeOpening:
        if self._native is None:
            self._native = attribute_opening(self._veil)
        return self._native

    def _take(self, states: Sequence[InstanceState[Any]]) -> list[EntityColumns]:
        """What can be opened of entities as they are."""
        entities: list[EntityColumns] = []
        for cls, of_class in by_class(states).items():
            # As `state.dict`, with less work.
            alive = [state.obj() for state in of_class]
            dicts = [{} if one is None else attributes.instance_dict(one) for one in alive]
            together = EntityColumns(dicts, [])
            for own in protected_of(cls):
                plan = plan_of(own.cell.column.table)
                assert plan is not None
                check_plan(self._veil, plan)
                if own.opens and all([name in row for name in own.context for row in dicts]):
                    together.attributes.append(_column(own, dicts))
                    self._given.append((own, of_class))
                else:
                    self._others.append((own, of_class))
            if together.attributes:
                entities.append(together)
        return entities


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
