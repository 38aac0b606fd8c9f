"""The purpose in force, one for each thread and task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

from ._types import Purpose

_requests: ContextVar[Iterator[int]] = ContextVar("veilstream_requests")
_current: ContextVar[Purpose | None] = ContextVar("veilstream_purpose", default=None)


def current() -> Purpose | None:
    """The purpose of the innermost ``with veil.purpose(..)``, if any."""
    return _current.get()


def request_id() -> str | None:
    """The id of the next request within the block, where the block has one."""
    purpose = _current.get()
    if purpose is None or purpose.request_id is None:
        return None
    number = next(_requests.get())
    return purpose.request_id if number == 1 else f"{purpose.request_id}-{number}"


@contextmanager
def purpose(
    name: str,
    reason: str | None = None,
    *,
    on_behalf_of: str | None = None,
    request_id: str | None = None,
) -> Iterator[None]:
    """Reads within the block are for this purpose."""
    token = _current.set(Purpose(name, reason, on_behalf_of, request_id))
    counter = _requests.set(count(1))
    try:
        yield
    finally:
        _requests.reset(counter)
        _current.reset(token)
