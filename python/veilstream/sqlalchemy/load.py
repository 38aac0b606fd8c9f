"""Loading: the protected values of one statement are opened together, before a row is handed out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import attrgetter
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

from .._columns import AttributeColumn, EntityColumns, open_attributes
from .._native import Sealed
from .._veil import Veil
from ..errors import NotRevealed
from .attached import veil_of_session
from .plans import Cell, check_plan, names_of_mapper, plan_of, scalar
from .recheck import Rechecks
from .search import resolve_entities
from .types import Encrypted, Protected
from .unreadable import guard, withhold
from .write import default_of, listen_to_flushes

__all__ = ["clear_seen", "listen"]

_log = logging.getLogger("veilstream")
_SCALARS = {str, int, float, bool, type(None)}
_clear_seen: Counter[str] = Counter()


def clear_seen() -> dict[str, int]:
    """How many clear values were read, of each field that is mapped with ``clear="count"``."""
    return dict(_clear_seen)


def listen() -> None:
    """Sees every statement of every session, and every mapping."""
    event.listen(Session, "do_orm_execute", _on_execute)
    event.listen(Mapper, "mapper_configured", _on_mapper)


@dataclass(slots=True)
class _Attribute:
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


@dataclass(slots=True, eq=False)
class _Loading:
    """What a statement loaded and nobody has opened yet."""

    states: list[InstanceState[Any]] = field(default_factory=list)
    # Of entities that were read again: the attributes that were asked for.
    asked: dict[InstanceState[Any], frozenset[str]] = field(default_factory=dict)

    def read(self) -> Callable[[InstanceState[Any], str], bool]:
        """Whether an attribute of an entity was read."""
        states = set(self.states)

        def is_read(state: InstanceState[Any], key: str) -> bool:
            asked = self.asked.get(state)
            return state in states and (asked is None or key in asked)

        return is_read

    def of_classes(self) -> dict[type[Any], list[InstanceState[Any]]]:
        """Entities by their class."""
        found: dict[type[Any], list[InstanceState[Any]]] = {}
        for cls, states in groupby(self.states, attrgetter("class_")):
            found.setdefault(cls, []).extend(states)
        return found

    def taken(self) -> _Loading:
        """What there is so far, which is then gone from here."""
        taken = _Loading(self.states.copy(), self.asked.copy())
        self.states.clear()
        self.asked.clear()
        return taken


# Names what a statement loads, among what SQLAlchemy keeps of it.
_LOADING = "veilstream.loading"
_attributes: dict[type[Any], list[_Attribute]] = {}
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
        found.append(_Attribute(attribute.key, cell, subject, binds, opens))
        guard(getattr(cls, attribute.key))
        if not opens:
            _take_values(cls, attribute.key, column.type.field)
    if found:
        _attributes[cls] = found
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
        states = context.attributes[_LOADING].states
    except KeyError:
        states = _loading_of(state, context).states
    states.append(state)


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
        for own in _attributes.get(type(target), []):
            if own.key not in attributes.instance_dict(target):
                setattr(target, own.key, None)
    for key in {key for own in _attributes.get(type(target), []) for key in own.context}:
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
    found = _attributes.get(type(target), [])
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
    loading = _Loading()
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
        _open_together(session, connection, loading)
    except BaseException:
        _expire(session, loading)
        raise


def _expire(session: Session, loading: _Loading) -> None:
    """Takes out what nobody opened: entities outlive their statement, and read it again."""
    for cls, states in loading.of_classes().items():
        for state in states:
            keys = [
                own.key
                for own in _attributes_of(cls)
                if own.opens
                and _is_sealed(state.dict, own.key)
                and own.key not in state.committed_state
            ]
            if keys and state.session is session:
                session.expire(state.obj(), keys)


def _open_together(session: Session, connection: Connection | None, loading: _Loading) -> None:
    """One call, one line of the audit log a schema."""
    veil = veil_of_session(session, connection)
    work: list[tuple[_Attribute, list[InstanceState[Any]]]] = []
    entities: list[EntityColumns] = []
    for cls, states in loading.of_classes().items():
        # As `state.dict`, with less work.
        alive = [state.obj() for state in states]
        whole = [{} if one is None else attributes.instance_dict(one) for one in alive]
        together = EntityColumns(whole, [])
        entities.append(together)
        apart: list[tuple[_Attribute, list[InstanceState[Any]]]] = []
        for own in _attributes_of(cls):
            plan = plan_of(own.cell.column.table)
            assert plan is not None
            check_plan(veil, plan)
            found, dicts = states, whole
            if not all([name in row for name in own.context for row in whole]):
                found = [s for s in states if _is_sealed(s.dict, own.key) and _has_context(own, s)]
                dicts = [state.dict for state in found]
            if not own.opens:
                _place(veil, own, dicts)
            elif found is states:
                together.attributes.append(_column(own, dicts))
                work.append((own, found))
            else:
                entities.append(EntityColumns(dicts, [_column(own, dicts)]))
                apart.append((own, found))
        work += apart
    if not work:
        return
    for (own, found), failed in zip(work, open_attributes(veil, entities), strict=True):
        for row, status in failed:
            _not_opened(own, found[row], status)


def _is_sealed(row: dict[str, Any], key: str) -> bool:
    return type(row.get(key)) is Sealed


def _has_context(own: _Attribute, state: InstanceState[Any]) -> bool:
    """Whether all is loaded that a value is tied to: loader options may leave it out."""
    for name in own.context:
        if name not in state.dict:
            status = f"tied to {name}, which is not loaded; load it too"
            withhold(state, own.key, own.cell.kind.field, status, needs=name)
            return False
    return True


def _attributes_of(cls: type[Any]) -> list[_Attribute]:
    return _attributes.get(cls, [])


def _column(own: _Attribute, dicts: list[dict[str, Any]]) -> AttributeColumn:
    subjects = None if own.subject is None else _scalars(dicts, own.subject)
    binds = {name: _scalars(dicts, bound) for name, bound in own.binds} or None
    return AttributeColumn(own.cell.kind.field, own.key, subjects, binds)


def _place(veil: Veil, own: _Attribute, dicts: list[dict[str, Any]]) -> None:
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


def _not_opened(own: _Attribute, state: InstanceState[Any], status: str) -> None:
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
