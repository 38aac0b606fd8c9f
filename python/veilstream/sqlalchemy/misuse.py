"""What ciphertext cannot do: it has no order, no parts and no equals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.sql.selectable import FromClause, Select
from sqlalchemy.types import TypeDecorator

from ..errors import NotSearchable

__all__ = ["ProtectedText", "attribute_of", "refuse", "refuse_misuse"]

# What asks for the order of values.
_ORDERS = {"asc", "between", "desc", "ge", "gt", "le", "lt", "nulls_first", "nulls_last", "order_by"}


class ProtectedText(TypeDecorator[Any]):
    """A column of tokens, as far as statements are judged by it."""

    cache_ok = True
    field: str
    index: str | None


def refuse_misuse(element: Any) -> None:
    """Raises where a part of a statement takes tokens for clear values."""
    kind = element.__visit_name__
    if kind == "binary":
        if element.operator not in (operators.is_, operators.is_not):
            for side in (element.left, element.right):
                _refuse_protected(side, "a comparison")
    elif kind in ("select", "compound_select"):
        for clause in element._order_by_clauses:
            _refuse_protected(_named(element, clause), "order_by")
        for clause in element._group_by_clauses:
            _refuse_protected(_named(element, clause), "group_by")
        if isinstance(element, Select):
            for clause in element._distinct_on:
                _refuse_protected(clause, "distinct")
    elif kind == "function" and element.name != "count":
        for argument in element.clause_expr.element.clauses:
            _refuse_protected(argument, f"{element.name}()")
    elif kind in ("cast", "type_coerce"):
        _refuse_protected(getattr(element, "clause", None), "a cast")


def refuse(column: Any, what: str) -> NoReturn:
    """Raises: a protected column cannot do this. It says what can be done instead."""
    kind = column.type
    own = attribute_of(column)
    index = kind.index or f"{own}_bidx"
    raise NotSearchable(
        f"{kind.field}: {what} is not possible over ciphertext."
        + (" No index gives an order: sort or compare what was opened." if what in _ORDERS else "")
        + f" The index {index} finds equal values: use ==, in_ or is_(None)"
        + ("" if kind.index else f', after {index} = blind_index("{kind.field}") and index=')
    )


def attribute_of(column: Any) -> str:
    """The name of the attribute that a column is mapped as."""
    annotated = getattr(column, "_annotations", {}).get("proxy_key")
    return str(annotated or getattr(column, "key", None) or "column")


def _named(statement: Any, clause: Any) -> Any:
    """What a clause sorts or groups by: itself, or the column that it gives the name of."""
    label = next((one for one in _nested(clause) if isinstance(one, str)), None)
    if label is None:
        return clause
    tables = [one for one in visitors.iterate(statement) if isinstance(one, FromClause)]
    if isinstance(statement, Select):
        tables += statement.columns_clause_froms
    columns = (*statement.selected_columns, *(own for table in tables for own in table.c))
    return next((own for own in columns if label in (own.key, getattr(own, "name", None))), None)


def _refuse_protected(element: Any, what: str) -> None:
    # The innermost: a label is of its column's type, under another name.
    protected = [one for one in _nested(element) if _is_protected(one)]
    if protected and not isinstance(protected[-1], BindParameter):
        refuse(protected[-1], what)


def _nested(element: Any) -> Iterator[Any]:
    """An element, what it labels, sorts or groups, and so on; a text names a column."""
    while element is not None:
        yield element
        element = getattr(element, "element", None)


def _is_protected(element: Any) -> bool:
    return isinstance(getattr(element, "type", None), ProtectedText)
