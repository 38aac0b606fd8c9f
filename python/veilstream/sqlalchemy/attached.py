"""On which engine or session a ``Veil`` hangs."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine, MetaData, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from .._veil import Veil
from ..errors import ConfigError
from .plans import check

__all__ = ["attach", "veil_of", "veil_of_session"]

INFO = "veilstream"

# An engine and those that execution_options() makes of it have one dialect.
_of_dialects: WeakKeyDictionary[Dialect, Veil] = WeakKeyDictionary()
_of_connections: WeakKeyDictionary[Connection, Veil] = WeakKeyDictionary()


def attach(
    target: Engine
    | AsyncEngine
    | Session
    | AsyncSession
    | sessionmaker[Any]
    | async_sessionmaker[Any],
    veil: Veil,
    *,
    metadata: MetaData | None = None,
) -> None:
    """Lets statements of an engine, or of sessions, work with a ``Veil``.

    A session's own goes before its engine's. Parameters are hidden in errors and logs of the
    engine from then on. ``metadata``: its tables are checked at once.
    """
    if metadata is not None:
        check(veil, metadata.tables.values())
    if isinstance(target, AsyncEngine):
        target = target.sync_engine
    if isinstance(target, AsyncSession):
        target = target.sync_session
    if isinstance(target, Engine):
        target.hide_parameters = True
        _of_dialects[target.dialect] = veil
    elif isinstance(target, Session):
        target.info[INFO] = veil
    else:
        target.kw["info"] = {**(target.kw.get("info") or {}), INFO: veil}


def veil_of(connection: Connection) -> Veil:
    """The ``Veil`` of a statement on this connection."""
    veil = _of_connections.get(connection) or _of_dialects.get(connection.dialect)
    if veil is None:
        raise _nobody()
    return veil


def veil_of_session(session: Session, connection: Connection | None) -> Veil:
    """The ``Veil`` of a session's statement."""
    veil = session.info.get(INFO)
    if veil is None and connection is not None:
        return veil_of(connection)
    if veil is None:
        raise _nobody()
    assert isinstance(veil, Veil)
    return veil


def _nobody() -> ConfigError:
    return ConfigError(
        "a statement with protected columns, and no Veil: call"
        " veilstream.sqlalchemy.attach(engine, veil)"
    )


def _after_begin(session: Session, transaction: Any, connection: Connection) -> None:
    veil = session.info.get(INFO)
    if veil is not None:
        connection.engine.hide_parameters = True
        _of_connections[connection] = veil


event.listen(Session, "after_begin", _after_begin)
