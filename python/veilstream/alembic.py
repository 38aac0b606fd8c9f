"""Alembic: protected columns in migrations are plain text columns.

A migration then needs neither this package nor keys. In ``env.py``:

>>> context.configure(..., render_item=veilstream.alembic.render_item)
"""

from __future__ import annotations

from typing import Any, Literal

from .sqlalchemy.types import BlindIndex, Protected

__all__ = ["render_item"]


def render_item(type_: str, obj: Any, autogen_context: Any) -> str | Literal[False]:
    """What Alembic writes for a column's type; ``False``: what it would write itself."""
    if type_ == "type" and isinstance(obj, Protected | BlindIndex):
        # Tokens and indexes differ in case: other collations would make different ones equal.
        return "sa.Text(collation='C')"
    if type_ == "server_default" and type(obj).__name__ == "FetchedValue":
        return "None"
    return False
