"""What ciphertext cannot do: it has no order, no parts and no equals."""

from __future__ import annotations

from typing import Any

from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.sql.selectable import Select
from sqlalchemy.types import TypeDecorator

from ..errors import NotSearchable

__all__ = ["ProtectedText", "refuse_misuse"]


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
        for clause in (*element._order_by_clauses, *element._group_by_clauses):
            _refuse_protected(clause, "order_by or group_by")
        if isinstance(element, Select):
            for clause in element._distinct_on:
                _refuse_protected(clause, "distinct")
    elif kind == "function" and element.name != "count":
        for argument in element.clause_expr.element.clauses:
            _refuse_protected(argument, f"{element.name}()")
    elif kind in ("cast", "type_coerce"):
        _refuse_protected(getattr(element, "clause", None), "a cast")


def _refuse_protected(element: Any, what: str) -> None:
    inner = element
    while inner is not None and not isinstance(getattr(inner, "type", None), ProtectedText):
        inner = getattr(inner, "element", None)
    if inner is None or isinstance(inner, BindParameter):
        return
    kind = inner.type
    advice = f"its index {kind.index} finds equal values" if kind.index else "it has no index here"
    raise NotSearchable(f"{kind.field}: {what} works on clear values only; {advice}")
