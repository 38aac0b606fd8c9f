"""Loading: the protected values of one statement are opened together, before a row is handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, cast
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.engine import Connection, IteratorResult, Result
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    ORMExecuteState,
    Session,
    attributes,
    object_session,
)

from .._native import Sealed
from .._veil import Veil
from ..errors import NotRevealed
from .attached import veil_of_session
from .opening import Attribute, Opening, by_class, is_sealed, protected, protected_of
from .plans import names_of_mapper, plan_of
from .recheck import Rechecks
from .search import resolve_entities
from .types import Encrypted, Protected
from .unreadable import guard
from .write import default_of, listen_to_flushes

__all__ = ["listen"]

# So many entities of a statement are opened while it loads the next ones.
_AHEAD = 1024


def listen() -> None:
    """Sees every statement of every session, and every mapping."""
    event.listen(Session, "do_orm_execute", _on_execute)
    event.listen(Mapper, "mapper_configured", _on_mapper)


@dataclass(slots=True, eq=False)
class _Loading:
    """What a statement loaded and nobody has opened yet."""

    session: Session
    bind_arguments: dict[str, Any]
    states: list[InstanceState[Any]] = field(default_factory=list)
    # Of entities that were read again: the attributes that were asked for.
    asked: dict[InstanceState[Any], frozenset[str]] = field(default_factory=dict)
    # Opens the first of the entities already; how many these are.
    opening: Opening | None = None
    begun: int = 0

    def read(self) -> Callable[[InstanceState[Any], str], bool]:
        """Whether an attribute of an entity was read."""
        states = set(self.states)

        def is_read(state: InstanceState[Any], key: str) -> bool:
            asked = self.asked.get(state)
            return state in states and (asked is None or key in asked)

        return is_read

    def begin(self) -> None:
        """Begins to open what there is so far."""
        if self.opening is None:
            connection = self.session.connection(self.bind_arguments)
            self.opening = Opening(veil_of_session(self.session, connection))
        begun, self.begun = self.begun, len(self.states)
        self.opening.begin(self.states[begun:])

    def finish(self, connection: Connection | None) -> None:
        """Opens the rest, and puts all values in their place."""
        opening = self.opening or Opening(veil_of_session(self.session, connection))
        opening.finish(self.states[self.begun :])

    def taken(self) -> _Loading:
        """What there is so far, which is then gone from here."""
        taken = replace(self)
        self.states, self.asked, self.opening, self.begun = [], {}, None, 0
        return taken


# Names what a statement loads, among what SQLAlchemy keeps of it.
_LOADING = "veilstream.loading"
_loadings: WeakKeyDictionary[Session, list[_Loading]] = WeakKeyDictionary()


def _on_mapper(mapper: Mapper[Any], cls: type[Any]) -> None:
    names_of_mapper(mapper)
    found = []
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        plan = plan_of(getattr(column, "table", None))
        if plan is None or not isinstance(column.type, Protected):
            continue
        cell = next(cell for cell in plan.cells if cell.column is column)
        by_column = {c: own.key for own in mapper.column_attrs for c in own.columns}
        subject = None if cell.subject is None else by_column[cell.subject]
        binds = tuple((name, by_column[bound]) for name, bound in cell.binds)
        opens = isinstance(column.type, Encrypted)
        found.append(Attribute(attribute.key, cell, subject, binds, opens))
        guard(getattr(cls, attribute.key))
        if not opens:
            _take_values(cls, attribute.key, column.type.field)
    if found:
        protected[cls] = found
        event.listen(cls, "load", _on_load, raw=True)
        event.listen(cls, "refresh", _on_refresh, raw=True)
        event.listen(cls, "before_insert", _before_insert)
        event.listen(cls, "before_update", _before_update)
        listen_to_flushes(cls)


def _take_values(cls: type[Any], key: str, name: str) -> None:
    """A value that is assigned to a sealed attribute waits for its row there, out of sight."""

    def put(target: Any, value: Any, old: Any, initiator: Any) -> Any:
        return value if value is None or isinstance(value, Sealed) else Sealed.waiting(name, value)

    event.listen(getattr(cls, key), "set", put, retval=True)


def _on_load(state: InstanceState[Any], context: Any) -> None:
    if context is None:
        # Session.merge made it: nothing was read.
        return
    # Called for each row: what the rows of a statement have in common is looked up once.
    try:
        loading = context.attributes[_LOADING]
    except KeyError:
        loading = _loading_of(state, context)
    states = loading.states
    states.append(state)
    if not len(states) % _AHEAD:
        loading.begin()


def _on_refresh(state: InstanceState[Any], context: Any, names: Any) -> None:
    _on_load(state, context)
    if names is not None:
        _loading_of(state, context).asked[state] = frozenset(names)


def _loading_of(state: InstanceState[Any], context: Any) -> _Loading:
    """That of the statement whose rows a session loads now."""
    loadings = _loadings.get(context.session)
    if not loadings:
        raise NotRevealed(state.class_.__name__, "loaded outside of Session.execute")
    loading: _Loading = context.attributes.setdefault(_LOADING, loadings[-1])
    return loading


def _before_insert(mapper: Any, connection: Any, target: Any) -> None:
    """Defaults that tokens are tied to are made now, so that the entity has them too.

    In the place of an entity that the same flush deletes, SQLAlchemy updates its row with what the
    new one was given. What it was not given would stay, and it is the other one's.
    """
    if _is_replacing(mapper, target):
        for own in protected_of(type(target)):
            if own.key not in attributes.instance_dict(target):
                setattr(target, own.key, None)
    for key in {key for own in protected_of(type(target)) for key in own.context}:
        if getattr(target, key) is None:
            made = default_of(mapper.column_attrs[key].columns[0])
            if made is not None:
                setattr(target, key, made)


def _is_replacing(mapper: Any, target: Any) -> bool:
    session = object_session(target)
    return session is not None and mapper.identity_key_from_instance(target) in session.identity_map


def _before_update(mapper: Any, connection: Any, target: Any) -> None:
    """A value that changes takes the columns along that it is tied to, and the other way round."""
    state = attributes.instance_state(target)
    found = protected_of(type(target))
    changed = {key for own in found for key in own.context if _is_changed(target, key)}
    for own in found:
        moved = changed.intersection(own.context)
        if own.key not in state.dict:
            if moved:
                raise NotRevealed(own.cell.kind.field, "tied to what changed, and not loaded")
            continue
        value = state.dict[own.key]
        is_changed = _is_changed(target, own.key)
        if moved and not is_changed and value is not None:
            if isinstance(value, Sealed):
                state.dict[own.key] = Sealed.waiting(own.cell.kind.field, value.reveal())
            attributes.flag_modified(target, own.key)
            is_changed = True
        for key in own.context if is_changed else ():
            # The primary key stands in WHERE.
            if not mapper.column_attrs[key].columns[0].primary_key:
                attributes.flag_modified(target, key)


def _is_changed(target: Any, key: str) -> bool:
    return attributes.get_history(target, key).has_changes()


def _on_execute(state: ORMExecuteState) -> Result[Any] | None:
    # Mappers may not be configured yet: what is protected is known while rows are loaded.
    session = state.session
    rechecks: Rechecks | None = None
    is_single = True
    statement = state.statement
    if state.is_select:

        def own() -> Veil:
            return veil_of_session(session, session.connection(state.bind_arguments))

        statement, checks = resolve_entities(statement, own)
        if checks:
            rechecks = Rechecks(checks)
            statement = rechecks.selected(statement)
            is_single = not cast(Any, state.load_options)._only_return_tuples
    loading = _Loading(session, state.bind_arguments)
    with _Collected(session, loading):
        result = state.invoke_statement(
            statement=None if statement is state.statement else statement
        )
    result = _wrapped(state, result, loading, rechecks)
    return result if rechecks is None else rechecks.without_columns(result, is_single)


def _wrapped(
    state: ORMExecuteState, result: Result[Any], loading: _Loading, rechecks: Rechecks | None
) -> Result[Any]:
    """The result with rows that are opened chunk by chunk."""
    session = state.session
    rows: Any = result
    chunks = getattr(rows, "chunks", None)
    if chunks is None:
        if rechecks is not None:
            rechecks.refuse()
        if isinstance(rows, IteratorResult):
            # Another listener made it, of what else loads: all its rows are opened together.
            with _Collected(session, loading):
                rows.iterator = iter(list(rows.iterator))
        if loading.states:
            _open(session, session.connection(state.bind_arguments), loading)
        return result
    connection = getattr(getattr(rows, "raw", None), "connection", None)
    opened: Callable[[int | None], Iterator[Sequence[Any]]]
    opened = _Chunks(session, connection, chunks, rechecks, loading)
    if state.execution_options.get("prebuffer_rows"):
        # Rows were fetched already (asyncio): they are opened while nobody has changed an entity.
        opened = _Buffered(list(opened(None)))
    rows.chunks = opened
    rows.iterator = chain.from_iterable(opened(rows._yield_per))
    return result


class _Collected:
    """While it is entered, entities that a session loads belong to one statement."""

    def __init__(self, session: Session, loading: _Loading) -> None:
        self._session = session
        self._stack = _loadings.setdefault(session, [])
        self._loading = loading

    def __enter__(self) -> None:
        self._stack.append(self._loading)

    def __exit__(self, fault: object, *_: object) -> None:
        self._stack.remove(self._loading)
        if fault is not None:
            _expire(self._session, self._loading)


@dataclass(slots=True)
class _Buffered:
    """Chunks that were opened already."""

    chunks: list[Sequence[Any]]

    def __call__(self, size: int | None) -> Iterator[Sequence[Any]]:
        return iter(self.chunks)


class _Chunks:
    """Rows of a result, chunk by chunk, opened and compared again."""

    def __init__(
        self,
        session: Session,
        connection: Connection | None,
        chunks: Callable[[int | None], Iterator[Sequence[Any]]],
        rechecks: Rechecks | None,
        loading: _Loading,
    ) -> None:
        self._session = session
        self._connection = connection
        self._chunks = chunks
        self._rechecks = rechecks
        self._loading = loading

    def __call__(self, size: int | None) -> Iterator[Sequence[Any]]:
        chunks = self._chunks(size)
        while True:
            with _Collected(self._session, self._loading):
                rows = next(chunks, None)
            loading = self._loading.taken()
            if loading.states:
                _open(self._session, self._connection, loading)
            if rows is None:
                return
            if self._rechecks is not None:
                veil = veil_of_session(self._session, self._connection)
                rows = self._rechecks.kept(veil, rows, loading.read())
            yield rows


def _open(session: Session, connection: Connection | None, loading: _Loading) -> None:
    """Opens all that a statement loaded, or nothing where that fails."""
    try:
        loading.finish(connection)
    except BaseException:
        _expire(session, loading)
        raise


def _expire(session: Session, loading: _Loading) -> None:
    """Takes out what nobody opened: entities outlive their statement, and read it again."""
    for cls, states in by_class(loading.states).items():
        for state in states:
            keys = [
                own.key
                for own in protected_of(cls)
                if own.opens
                and is_sealed(state.dict, own.key)
                and own.key not in state.committed_state
            ]
            if keys and state.session is session:
                session.expire(state.obj(), keys)
