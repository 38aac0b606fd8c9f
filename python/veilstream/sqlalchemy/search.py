"""Comparisons of protected columns: what becomes of them, and which are refused.

``==`` and ``in_`` become ``IN`` over the blind index. What is looked for stands in the statement
wrapped, and its tags are put there when the statement is executed, by the ``Veil`` of its session.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from sqlalchemy import Column, Table, Text, and_, bindparam, or_
from sqlalchemy import inspect as inspected
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.util import AliasedInsp
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ClauseElement,
    ColumnElement,
    Grouping,
)
from sqlalchemy.sql.selectable import Join, Select
from sqlalchemy.types import TypeDecorator

from .._columns import has_keys, normalized
from .._native import Sealed
from .._veil import Veil
from ..errors import NotSearchable
from .misuse import attribute_of, refuse, refuse_misuse

__all__ = [
    "EncryptedComparator",
    "Recheck",
    "Sought",
    "refuse_bucketed",
    "resolve",
    "resolve_entities",
]


class Sought:
    """Values that are looked for. It shows none of them."""

    __slots__ = ("column", "field", "original", "values")

    def __init__(self, field: str, column: ColumnElement[Any], values: Sequence[Any]) -> None:
        self.field = field
        self.column = column
        self.values = values
        self.original: object = None

    def __repr__(self) -> str:
        return f"<sought in {self.field}>"

    def __iter__(self) -> NoReturn:
        raise NotSearchable(
            f"{self.field}: this search was not seen before it was sent (in a loader criterion?);"
            " write it into the statement itself"
        )

    def __len__(self) -> int:
        return len(self.values)

    def __reduce__(self) -> NoReturn:
        raise NotSearchable(f"{self.field}: a statement that looks for a value does not pickle")


class SoughtTag(TypeDecorator[Any]):
    """Tags of an index, as parameters."""

    impl = Text
    cache_ok = True

    def __init__(self, field: str) -> None:
        super().__init__()
        self.field = field


class EncryptedComparator(TypeDecorator.Comparator[Any]):
    """``==``, ``!=``, ``in_``, ``not_in`` and ``is_(None)``; all else is refused."""

    def operate(self, op: Any, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
        first = other[0] if other else None
        if op in (operators.eq, operators.is_) and _is_null(first):
            return super().operate(operators.is_, None)
        if op in (operators.ne, operators.is_not) and _is_null(first):
            return super().operate(operators.is_not, None)
        if op in (operators.eq, operators.ne) and isinstance(first, ClauseElement):
            # Columns are keys of dictionaries. In a statement it is refused.
            return super().operate(op, first)
        if op is operators.eq:
            return self._search([first])
        if op is operators.ne:
            return self._search_others([first])
        if op is operators.in_op:
            return self._search(first)
        if op is operators.not_in_op:
            return self._search_others(first)
        refuse(self.expr, getattr(op, "__name__", str(op)).removesuffix("_op"))

    def reverse_operate(self, op: Any, other: Any, **kwargs: Any) -> ColumnElement[Any]:
        refuse(self.expr, getattr(op, "__name__", str(op)).removesuffix("_op"))

    def _search(self, values: Any) -> ColumnElement[Any]:
        return self._index().in_(self._sought(values))

    def _search_others(self, values: Any) -> ColumnElement[Any]:
        index = self._index()
        # A value without an index is another one too.
        others = or_(index.is_(None), index.not_in(self._sought(values)))
        return and_(cast(Any, super().operate(operators.is_not, None)), others)

    def _sought(self, values: Any) -> BindParameter[Any]:
        kind = cast(Any, self.type)
        if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
            refuse(self.expr, "in_ of something that is no list")
        listed = [value for value in values if value is not None]
        for value in listed:
            if isinstance(value, ClauseElement | Sealed) or hasattr(value, "__clause_element__"):
                refuse(self.expr, "comparing with anything but a value")
        sought = Sought(kind.field, self.expr, listed)
        parameter: BindParameter[Any] = bindparam(
            None, cast(Any, sought), type_=SoughtTag(kind.field), unique=True, expanding=True
        )
        # Its name is its address, and in_() takes a copy: no other may be made at that address.
        sought.original = parameter
        return parameter

    def _index(self) -> ColumnElement[Any]:
        kind = cast(Any, self.type)
        if kind.index is None:
            raise NotSearchable(
                f"{kind.field} is not searchable here: add a blind index,"
                f' index="{attribute_of(self.expr)}_bidx" of its column and'
                f' {attribute_of(self.expr)}_bidx = blind_index("{kind.field}")'
            )
        table = getattr(self.expr, "table", None)
        columns = getattr(table, "c", {})
        own = columns.get(getattr(self.expr, "key", None))
        plan = getattr(own, "info", {}).get("veilstream", {})
        name = plan.get(kind.index, kind.index)
        if name not in columns:
            raise NotSearchable(
                f"{kind.field}: its index {kind.index} does not stand beside it here; search before"
                " it becomes a subquery, or select the index too"
            )
        return cast("ColumnElement[Any]", columns[name])


@dataclass(slots=True)
class Recheck:
    """What a bucketed search found must be compared again: a column, and what may be in it."""

    field: str
    # Of tokens, in the table or alias that is searched.
    column: ColumnElement[Any]
    # In the form in which the index compares values.
    wanted: frozenset[bytes]


def _is_null(value: Any) -> bool:
    return value is None or getattr(value, "__visit_name__", None) == "null"


def _sought_in(statement: Any) -> list[BindParameter[Any]]:
    return [
        cast("BindParameter[Any]", element)
        for element in visitors.iterate(statement)
        if element.__visit_name__ == "bindparam" and isinstance(cast(Any, element).value, Sought)
    ]


def _tags(veil: Veil, sought: Sought) -> tuple[list[str], bool]:
    """Tags of all values, and whether other values have them too."""
    tags: list[str] = []
    recheck = False
    for value in sought.values:
        found = veil.index(sought.field, value)
        tags.extend(found.values)
        recheck = recheck or found.recheck
    return tags, recheck


def resolve(statement: Any, veil_of: Any) -> Any:
    """The statement with tags in place of values. Indexes must be unique: nobody checks again.

    Every statement comes through here, so what ciphertext cannot do is refused here too.
    """
    sought = []
    for element in visitors.iterate(statement):
        if element.__visit_name__ == "bindparam":
            if isinstance(cast(Any, element).value, Sought):
                sought.append(cast("BindParameter[Any]", element))
        else:
            refuse_misuse(element)
    if not sought:
        return statement
    veil = veil_of()
    tags: dict[str, list[str]] = {}
    for parameter in sought:
        wanted = cast(Sought, parameter.value)
        tags[parameter.key], recheck = _tags(veil, wanted)
        if recheck:
            refuse_bucketed(wanted.field, "this statement")
    return _with_tags(statement, tags)


def resolve_entities(statement: Any, veil_of: Any) -> tuple[Any, list[Recheck]]:
    """As ``resolve``, of a SELECT whose entities can be opened and compared again."""
    sought = _sought_in(statement)
    if not sought:
        return statement, []
    veil = veil_of()
    tags: dict[str, list[str]] = {}
    checks: list[Recheck] = []
    for parameter in sought:
        wanted = cast(Sought, parameter.value)
        tags[parameter.key], recheck = _tags(veil, wanted)
        if recheck:
            if not has_keys(veil):
                refuse_bucketed(wanted.field, "Veil.connect")
            _must_be_checkable(statement, parameter, wanted)
            forms = (normalized(veil, wanted.field, value) for value in wanted.values)
            known = frozenset(form for form in forms if form is not None)
            checks.append(Recheck(wanted.field, wanted.column, known))
    return _with_tags(statement, tags), checks


def _with_tags(statement: Any, tags: dict[str, list[str]]) -> Any:
    def put(parameter: Any) -> None:
        if parameter.key in tags:
            parameter.value = tags[parameter.key]

    options = {"maintain_key": True, "detect_subquery_cols": True}
    return visitors.cloned_traverse(statement, options, {"bindparam": put})


def refuse_bucketed(field: str, what: str) -> NoReturn:
    """Raises: something cannot tell what was looked for from its neighbours in the bucket."""
    raise NotSearchable(
        f"{field}: its index is bucketed, so it finds other values too, and {what} cannot open and"
        " compare them. Select entities with this condition alone or in and_(), without limit,"
        " join or count, and go on with what is found"
    )


def _must_be_checkable(statement: Any, parameter: BindParameter[Any], sought: Sought) -> None:
    """Only a SELECT of one entity, in which the search narrows and nothing else counts rows."""
    field = sought.field
    if not isinstance(statement, Select):
        refuse_bucketed(field, "this statement")
    for clause, name in (
        ("_limit_clause", "limit"),
        ("_offset_clause", "offset"),
        ("_fetch_clause", "fetch"),
        ("_distinct", "distinct"),
        ("_group_by_clauses", "group_by"),
        ("_having_criteria", "having"),
        ("_setup_joins", "join"),
    ):
        found = getattr(statement, clause, None)
        if found is not None and found is not False and found != ():
            refuse_bucketed(field, name)
    if any(isinstance(part, Join) for part in statement._from_obj):
        refuse_bucketed(field, "join")
    element = next(
        (one for one in _conjunction(statement.whereclause) if _searches(one, parameter)), None
    )
    if element is None:
        refuse_bucketed(field, "a condition in or_(), not_() or a subquery")
    columns = statement.column_descriptions
    if len(columns) != 1 or columns[0]["expr"] is not columns[0].get("entity"):
        refuse_bucketed(field, "a list of columns")
    entity: Any = inspected(columns[0]["entity"])
    table: Any = cast(Any, element).left.table
    if isinstance(entity, AliasedInsp):
        is_of_it = table is entity.selectable
    else:
        tables: Any = entity.tables if isinstance(entity, Mapper) else ()
        is_of_it = isinstance(table, Table) and any(table is own for own in tables)
    if not is_of_it:
        refuse_bucketed(field, "a search in another table")


def _conjunction(element: Any) -> Iterator[Any]:
    if isinstance(element, Grouping):
        yield from _conjunction(element.element)
    elif isinstance(element, BooleanClauseList) and element.operator is operators.and_:
        for part in element.clauses:
            yield from _conjunction(part)
    elif element is not None:
        yield element


def _searches(element: Any, parameter: BindParameter[Any]) -> bool:
    return (
        isinstance(element, BinaryExpression)
        and element.operator is operators.in_op
        and isinstance(element.left, Column)
        and getattr(element.right, "key", None) == parameter.key
    )
