"""``Veil.connect``: the protocol of ``veilstream serve``. Holds no keys."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, cast

from . import _purpose
from ._http import Http, TokenSource
from ._problems import Denied, ServiceError
from ._schemas import Schemas
from ._types import FieldInfo, FieldStatus, IndexValues, JsonScalar, RowResult, Value
from .errors import (
    BindingError,
    ConfigError,
    NeedsKeys,
    NotRevealed,
    NotSearchable,
    PurposeError,
    Rejected,
)

__all__ = ["SHOWN", "Connection", "Masked", "Want"]

Want = Literal["auto", "reveal", "mask"]

ITEMS_MAX = 1000
BODY_MAX = 8 << 20
"""Limits of the service for one request: items, and bytes of the body."""
HEAD_ROOM = 4096
"""Bytes that the members of a request beside its items take at most."""

SHOWN = ("revealed", "masked")
"""Statuses of an item that has something to show."""


class Masked(str):
    """What is shown to those who may only see a mask. It is no value: it cannot be sealed."""

    __slots__ = ()


class Connection:
    """Asks a reading service. Threads share it."""

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        schemas: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        want: Want = "auto",
        timeout: float = 30.0,
        patience: float = 60.0,
    ) -> None:
        self._http = Http(url, token, ca, cert, timeout, patience)
        self._schemas = None if schemas is None else Schemas(schemas)
        self._want = want

    def reveal(
        self,
        field: str,
        token: str,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> Value | bytes:
        """Opens one token; of those who may only mask, a ``Masked``."""
        return self.reveal_tokens([_place(field, bind, subject, token=token)])[0]

    def reveal_tokens(self, items: Sequence[Mapping[str, Any]]) -> list[Value | bytes]:
        """Opens token items of the protocol, in their order. The first that fails is raised."""
        values: list[Value | bytes] = []
        for item, (status, value) in zip(items, self.open_tokens(items), strict=True):
            if status not in SHOWN:
                raise NotRevealed(item["field"], status)
            values.append(value)
        return values

    def open_tokens(
        self, items: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[str, Value | bytes]]:
        """Status and value of each token item of the protocol; ``None`` where it is withheld."""
        for answer in self._items("/v1/reveal", items):
            status = str(answer.get("status"))
            value: Value | bytes = answer.get("value") if status in SHOWN else None
            if status == "masked":
                value = Masked(value)
            elif status == "revealed" and "base64" in answer:
                value = base64.b64decode(answer["base64"])
            yield status, value

    def reveal_many(
        self,
        rows: Iterable[Mapping[str, object]],
        schema: str,
        fields: Sequence[str] | None = None,
    ) -> list[RowResult]:
        """Opens records of a schema: all protected fields, or these. Never raises for a row."""
        head: dict[str, Any] = {"schema": schema}
        if fields is not None:
            head["fields"] = list(fields)
        items = [{**head, "record": row} for row in rows]
        return [_row(answer) for answer in self._items("/v1/reveal", items)]

    def seal(
        self,
        field: str,
        value: Value,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> str:
        """A token of the value, or what stands in its place in a hashed field."""
        return self.seal_items([_place(field, bind, subject, value=value)])[0]

    def seal_items(self, items: Sequence[Mapping[str, Any]]) -> list[str]:
        """Seals items of the protocol, in their order."""
        if any(isinstance(item.get("value"), Masked) for item in items):
            raise Rejected("masked_value")
        tokens = []
        for item, answer in zip(items, self._items("/v1/seal", items), strict=True):
            if answer.get("status") != "sealed":
                _not_sealed(item["field"], answer.get("status"))
            tokens.append(cast(str, answer.get("token")))
        return tokens

    def index(self, field: str, value: Value | Mapping[str, Value]) -> IndexValues:
        """What to search for. The parts of a compound index stand in a mapping, by name."""
        query: dict[str, Any] = {"field": field}
        if isinstance(value, Mapping):
            if self._schemas is None:
                raise ConfigError(f"{field}: a compound index needs schemas= of Veil.connect")
            query["values"] = self._schemas.ordered(field, value)
        elif isinstance(value, list | tuple):
            query["values"] = list(value)
        else:
            query["value"] = value
        return self.index_items([query])[0]

    def index_items(self, queries: Sequence[Mapping[str, Any]]) -> list[IndexValues]:
        """What to search for, of queries of the protocol."""
        answers = self._items("/v1/index", queries, "queries")
        return [
            _index(query["field"], answer) for query, answer in zip(queries, answers, strict=True)
        ]

    def transform(self, schema: str, event: Mapping[str, object]) -> dict[str, Value]:
        """Needs keys in process."""
        raise NeedsKeys(
            "transform needs keys in process: use Veil.open, or send through the sidecar"
        )

    def field(self, name: str) -> FieldInfo:
        """What the schema documents on this side say."""
        if self._schemas is None:
            raise ConfigError(
                "what a field is, schemas= of Veil.connect says: name files or folders"
            )
        return self._schemas.field(name)

    def close(self) -> None:
        """Closes the connections that are kept."""
        self._http.close()

    def __repr__(self) -> str:
        return f"<Connection {self._http.address}>"

    def _items(
        self, path: str, items: Sequence[Mapping[str, Any]], name: str = "items"
    ) -> Iterator[dict[str, Any]]:
        """The answers to these items, in requests that the service takes."""
        purpose = _purpose.current()
        if purpose is None:
            raise PurposeError('no purpose: call within "with veil.purpose(..)"')
        head: dict[str, Any] = {"purpose": purpose.name}
        if purpose.reason is not None:
            head["reason"] = purpose.reason
        if purpose.on_behalf_of is not None:
            head["on_behalf_of"] = purpose.on_behalf_of
        if path == "/v1/reveal":
            head["want"] = self._want
        for batch in _batches(items):
            head["request_id"] = _purpose.request_id() or uuid.uuid4().hex
            text = json.dumps(head)[:-1].encode()
            body = b'%s,"%s":[%s]}' % (text, name.encode(), b",".join(batch))
            answers = self._http.post(path, body).get(name)
            if not isinstance(answers, list) or len(answers) != len(batch):
                raise ServiceError("the answer has not one item for each; look at the address", 200)
            for answer in answers:
                if not isinstance(answer, dict):
                    raise ServiceError("the answer is none of a reading service", 200)
                yield answer


def _place(
    field: str,
    bind: Mapping[str, JsonScalar] | None,
    subject: str | int | None,
    **members: Any,
) -> dict[str, Any]:
    item: dict[str, Any] = {"field": field, **members}
    if bind:
        item["bind"] = dict(bind)
    if subject is not None:
        item["subject"] = subject
    return item


def _batches(items: Sequence[Mapping[str, Any]]) -> Iterator[list[bytes]]:
    """JSON texts, as many as one request takes."""
    batch: list[bytes] = []
    size = 0
    for item in items:
        try:
            text = json.dumps(item, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError):
            # The fault would quote the value.
            raise Rejected("unsupported_value") from None
        if batch and (len(batch) == ITEMS_MAX or size + len(text) + HEAD_ROOM > BODY_MAX):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text) + 1
    if batch:
        yield batch


def _row(answer: Mapping[str, Any]) -> RowResult:
    status = str(answer.get("status", "ok"))
    fields = {
        name: FieldStatus(
            str(told.get("status")),
            tuple((place["path"], place["status"]) for place in told.get("places", ())),
        )
        for name, told in (answer.get("fields") or {}).items()
    }
    return RowResult(status, answer.get("record"), fields)


def _index(field: str, answer: Mapping[str, Any]) -> IndexValues:
    status = answer.get("status")
    if status == "denied":
        raise Denied(f"{field}: the service's policies do not let this caller search it")
    if status == "malformed":
        raise NotSearchable(f"{field}: the service knows no index for this; look at its schema")
    if status not in (None, "no_index"):
        raise ServiceError(f"{field}: the service answers {str(status)[:40]!r}", 200)
    return IndexValues(answer.get("into"), tuple(answer["values"]), bool(answer.get("recheck")))


def _not_sealed(field: str, status: object) -> NoReturn:
    schema, _, name = field.partition(".")
    if status == "denied":
        raise Denied(f"{field}: the service's policies do not let this caller seal it")
    if status == "erased":
        raise Rejected("erased_subject", schema, name)
    if status == "unsupported":
        raise Rejected("unsupported_value", schema, name)
    raise BindingError(
        f"{field}: value, bind or subject is not what the schema asks for; nothing was sealed"
    )
