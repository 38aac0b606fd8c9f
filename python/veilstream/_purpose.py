"""The purpose in force, one for each thread and task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ._types import Purpose

_current: ContextVar[Purpose | None] = ContextVar("veilstream_purpose", default=None)


def current() -> Purpose | None:
    """The purpose of the innermost ``with veil.purpose(..)``, if any."""
    return _current.get()


@contextmanager
def purpose(name: str, reason: str | None = None) -> Iterator[None]:
    """Reads within the block are for this purpose."""
    token = _current.set(Purpose(name, reason))
    try:
        yield
    finally:
        _current.reset(token)
