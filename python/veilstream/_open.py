"""Keys in process: what ``Veil.open`` makes."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

from . import _json, _purpose
from ._columns import AttributeColumn, EntityColumns, RowColumn
from ._native import AttributeOpener, Engine, normalized, open_statement, seal_statement
from ._types import (
    FieldInfo,
    FieldStatus,
    IndexInfo,
    IndexValues,
    JsonScalar,
    RowResult,
    Value,
)
from .errors import NotPicklable, NotRevealed, Rejected

_log = logging.getLogger("veilstream")
_Binds = list[tuple[str, list[Any]]]


class NativeBackend:
    """Reads, seals and searches with keys of this process."""

    def __init__(self, config: str, *, unaudited: bool, query_id: str | None) -> None:
        self._settings = (config, unaudited, query_id)
        self._engine = Engine(*self._settings)
        # Before it opens: a fork meanwhile must wait for it.
        _live.add(self)
        self._engine.open()

    @property
    def engine(self) -> Engine:
        """The native part. After a fork it is another one."""
        return self._engine

    def reveal(
        self,
        field: str,
        token: str,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> Value | bytes:
        """Opens one token."""
        try:
            opened = self._engine.reveal(
                field, token, _json.bind_texts(bind), _subject(subject), claims()
            )
        except NotRevealed as refused:
            if refused.status == "denied":
                alarm(refused.field)
            raise
        return opened if isinstance(opened, bytes) else _json.loads(opened)

    def reveal_many(
        self,
        rows: Iterable[Mapping[str, object]],
        schema: str,
        fields: Sequence[str] | None = None,
    ) -> list[RowResult]:
        """Opens rows of a schema: all protected fields, or these. Never raises for a row."""
        texts = [_json.dumps(row) if isinstance(row, Mapping) else None for row in rows]
        asked = None if fields is None else list(fields)
        opened = self._engine.reveal_rows(schema, asked, texts, claims())
        results = [_row(record, told) for record, told in opened]
        # All that is asked for is permitted here: what is denied all the same was a honey token.
        denied = {
            name for row in results for name, told in row.fields.items() if told.status == "denied"
        }
        for name in sorted(denied):
            alarm(f"{schema}.{name}")
        return results

    def seal(
        self,
        field: str,
        value: Value,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> str:
        """A token of the value, or what stands in its place in a hashed field."""
        text = _json.value_text(value)
        token = self._engine.seal(field, text, _json.bind_texts(bind), _subject(subject), claims())
        if token is None:
            # Nothing is left of it to hash. In an event null would stand there.
            raise Rejected("unsupported_value", None, field)
        return token

    def index(self, field: str, value: Value | Mapping[str, Value]) -> IndexValues:
        """What to search for. A compound index takes its parts by name, in a mapping."""
        parts = list(value.values()) if isinstance(value, Mapping) else [value]
        texts = [_json.value_text(part) for part in parts]
        into, values, is_unique = self._engine.index(field, texts, claims())
        return IndexValues(into, tuple(values), not is_unique)

    def transform(self, schema: str, event: Mapping[str, object]) -> dict[str, Value]:
        """A whole event as the sidecar protects it."""
        text = self._engine.transform(schema, _json.value_text(event), claims())
        return cast("dict[str, Value]", _json.loads(text))

    def field(self, name: str) -> FieldInfo:
        """What the schema in force says of ``<schema>.<id>``."""
        schema, field, binds, has_subject, optional, indexes, is_deterministic, form = (
            self._engine.field(name)
        )
        return FieldInfo(
            schema=schema,
            field=field,
            binds=tuple(binds),
            has_subject=has_subject,
            subject_optional=optional,
            indexes=tuple(IndexInfo(*index) for index in indexes),
            format=form,
            deterministic=is_deterministic,
        )

    def open_columns(
        self, columns: Sequence[RowColumn]
    ) -> list[tuple[Sequence[Any], Sequence[str] | None]]:
        """Opens columns of rows at once: one disclosure. Statuses are ``None`` where all opened."""
        opened = open_statement(self._engine, [_given(one) for one in columns], claims())
        results: list[tuple[Sequence[Any], Sequence[str] | None]] = []
        for column, (values, json, failed) in zip(columns, opened, strict=True):
            for row in json:
                values[row] = _json.loads(cast(str, values[row]))
            statuses = None
            if failed:
                statuses = ["revealed"] * len(values)
                for row, status in failed:
                    statuses[row] = status
                if any(status == "denied" for _, status in failed):
                    alarm(column.field)
            results.append((values, statuses))
        return results

    def attribute_opening(self) -> AttributeOpening:
        """Opens attributes of entities."""
        return AttributeOpening(self._engine)

    def seal_columns(
        self, columns: Sequence[RowColumn], indexed: Sequence[bool]
    ) -> list[tuple[list[str], list[str | None] | None]]:
        """Tokens of columns of rows, and of those that are indexed the tags of the newest root."""
        asked = []
        for column, with_index in zip(columns, indexed, strict=True):
            field, values, subjects, binds = _given(column)
            asked.append(
                ((field, [_json.value_text(v) for v in values], subjects, binds), with_index)
            )
        sealed = seal_statement(self._engine, asked, claims())
        return [(cast("list[str]", tokens), tags) for tokens, tags in sealed]

    def normalized(self, field: str, value: Value) -> bytes | None:
        """The form in which the field's index compares values; ``None``: nothing is left."""
        return normalized(self._engine, field, _json.value_text(value))

    def close(self) -> None:
        """Ends it: the audit chain gets its end line, keys are dropped."""
        self._engine.close()
        _live.discard(self)

    def _renew(self) -> None:
        """Takes an engine of this process: the one there is belongs to the parent."""
        _of_parents.append(self._engine)
        self._engine = Engine(*self._settings)

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(
            "keys do not pickle; make a Veil in each process, with Veil.connect or Veil.open"
        )


class AttributeOpening:
    """Opens attributes of entities, in batches: one disclosure."""

    def __init__(self, engine: Engine) -> None:
        self._native = AttributeOpener(engine, claims())
        self._asked: list[tuple[list[dict[str, Any]], AttributeColumn]] = []

    def begin(self, entities: Sequence[EntityColumns]) -> None:
        """Opens these while the caller goes on. What is wrong with them shows in ``finish``."""
        self._native.begin(self._batch(entities))

    def finish(self, entities: Sequence[EntityColumns]) -> list[Sequence[tuple[int, str]]]:
        """Opens these, and puts values in the place of all that are sealed still.

        What comes back are, for each attribute that was given, the entities that did not open,
        each with its status.
        """
        opened = self._native.finish(self._batch(entities))
        denied = set()
        for (dicts, attribute), (json, failed) in zip(self._asked, opened, strict=True):
            for row in json:
                dicts[row][attribute.name] = _json.loads(dicts[row][attribute.name])
            if any(status == "denied" for _, status in failed):
                denied.add(attribute.field)
        for name in sorted(denied):
            alarm(name)
        return [failed for _, failed in opened]

    def _batch(self, entities: Sequence[EntityColumns]) -> list[tuple[list[Any], list[Any]]]:
        self._asked += [(group.entities, one) for group in entities for one in group.attributes]
        return [
            (group.entities, [(one.field, one.name, *_tied(one)) for one in group.attributes])
            for group in entities
        ]


def _given(column: RowColumn) -> tuple[str, list[Any], list[Any] | None, _Binds]:
    return column.field, list(column.values), *_tied(column)


def _tied(column: RowColumn | AttributeColumn) -> tuple[list[Any] | None, _Binds]:
    subjects = None if column.subjects is None else list(column.subjects)
    return subjects, [(name, list(values)) for name, values in (column.binds or {}).items()]


def claims() -> tuple[str | None, str | None, str | None, str | None]:
    """Purpose, reason, for whom, and the request's id, for the audit log."""
    purpose = _purpose.current()
    if purpose is None:
        return None, None, None, None
    return purpose.name, purpose.reason, purpose.on_behalf_of, purpose.request_id


def alarm(field: str) -> None:
    """A honey token was opened. It stands in the audit log too."""
    _log.error("a honey token of %s was opened: somebody reads what nobody has a reason to", field)


def _subject(subject: str | int | None) -> str | None:
    return None if subject is None else _json.scalar_text(subject, "subject")


def _row(record: str | None, told: list[tuple[str, str, list[tuple[str, str]]]]) -> RowResult:
    if record is None:
        return RowResult("malformed", None, {})
    fields = {name: FieldStatus(status, tuple(places)) for name, status, places in told}
    return RowResult("ok", cast("dict[str, Value]", _json.loads(record)), fields)


_live: weakref.WeakSet[NativeBackend] = weakref.WeakSet()
# Never dropped: what they opened is the parent's to close.
_of_parents: list[Engine] = []


def _before_fork() -> None:
    for backend in list(_live):
        backend._engine.before_fork()


def _after_in_parent() -> None:
    for backend in list(_live):
        backend._engine.after_fork()


def _after_in_child() -> None:
    for backend in list(_live):
        backend._renew()


def _at_exit() -> None:
    for backend in list(_live):
        backend.close()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_in_parent,
    after_in_child=_after_in_child,
)
atexit.register(_at_exit)
