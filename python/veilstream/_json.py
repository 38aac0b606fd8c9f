"""Values to JSON texts and back. What goes wrong is told without the value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from ._types import JsonScalar, Value
from .errors import BindingError, Rejected


def dumps(value: object) -> str | None:
    """The JSON text of a value, or ``None`` where it has none."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Half of a pair of surrogates has no UTF-8.
        text.encode()
    except (TypeError, ValueError, RecursionError):
        return None
    return text


def value_text(value: object) -> str:
    """The JSON text of a value to protect."""
    text = dumps(value)
    if text is None:
        raise Rejected("unsupported_value")
    return text


def scalar_text(value: object, what: str) -> str:
    """The JSON text of a bound value or subject."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BindingError(f"{what} must be a string or an integer")
    text = dumps(value)
    if text is None:
        raise BindingError(f"{what} has no UTF-8 text")
    return text


def bind_texts(bind: Mapping[str, JsonScalar] | None) -> list[tuple[str, str]]:
    """The members of ``bind``, as JSON texts."""
    return [(name, scalar_text(value, f"bind[{name!r}]")) for name, value in (bind or {}).items()]


def loads(text: str) -> Value:
    """The value of a JSON text that was opened."""
    return cast("Value", json.loads(text))
