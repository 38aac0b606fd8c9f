"""What calls take and give, with keys in process or without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = [
    "Backend",
    "FieldInfo",
    "FieldStatus",
    "IndexInfo",
    "IndexValues",
    "JsonScalar",
    "Purpose",
    "RowResult",
    "Value",
]

JsonScalar: TypeAlias = str | int | float | bool | None
Value: TypeAlias = JsonScalar | Sequence["Value"] | Mapping[str, "Value"]
"""A JSON value. Numbers with a fraction are read as ``float``."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What the caller reads for, and who says so. It stands in the audit log.

    ``on_behalf_of`` is a claim, which grants nothing. ``request_id`` names the block's first
    request; those after it get it with ``-2``, ``-3``. A block that runs again with the same one is
    the same disclosure.
    """

    name: str
    reason: str | None = None
    on_behalf_of: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """A blind index of a field.

    ``into`` is the column or member it stands in. Equal values have equal tags. Where ``unique``
    is false, other values have them too: open what was found and compare.
    """

    into: str | None
    bits: int
    unique: bool


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """What a schema says of a field.

    ``binds`` are the names that ``bind`` must have, sorted. ``format`` is ``vs1``, ``fernet`` or
    ``pgcrypto``.
    """

    schema: str
    field: str
    binds: tuple[str, ...]
    has_subject: bool
    subject_optional: bool
    indexes: tuple[IndexInfo, ...]
    format: str
    deterministic: bool


@dataclass(frozen=True, slots=True)
class IndexValues:
    """What to search for: ``into IN values``. No values means that no row has the value.

    ``recheck``: other values have these tags too, so open what was found and compare.
    """

    into: str | None
    values: tuple[str, ...]
    recheck: bool


@dataclass(frozen=True, slots=True)
class FieldStatus:
    """What became of a field, and of its places where they differ (path, status)."""

    status: str
    places: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class RowResult:
    """What became of one row. Its repr shows no value.

    ``status`` is ``ok``, or ``malformed`` or ``denied`` for the row as a whole, whose ``record``
    is then ``None``. Places that did not open are ``None`` in ``record``.
    """

    status: str
    record: Mapping[str, Value] | None
    fields: Mapping[str, FieldStatus]

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={what.status}" for name, what in self.fields.items())
        return f"<RowResult {self.status}: {told}>"


class Backend(Protocol):
    """What ``Veil.open`` and ``Veil.connect`` have in common."""

    def reveal(
        self,
        field: str,
        token: str,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> Value | bytes:
        """Opens one token.

        ``subject`` says whose row it stands in. A token of somebody else then does not open.
        """
        ...

    def reveal_many(
        self,
        rows: Iterable[Mapping[str, object]],
        schema: str,
        fields: Sequence[str] | None = None,
    ) -> list[RowResult]:
        """Opens rows of a schema: all protected fields, or these. Never raises for a row."""
        ...

    def seal(
        self,
        field: str,
        value: Value,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> str:
        """A token of the value, or what stands in its place in a hashed field."""
        ...

    def index(self, field: str, value: Value | Mapping[str, Value]) -> IndexValues:
        """What to search for. A compound index takes its parts by name, in a mapping."""
        ...

    def transform(self, schema: str, event: Mapping[str, object]) -> dict[str, Value]:
        """A whole event as the sidecar protects it."""
        ...

    def field(self, name: str) -> FieldInfo:
        """What the schema in force says of ``<schema>.<id>``."""
        ...

    def close(self) -> None:
        """Ends it: the audit chain gets its end line, keys are dropped."""
        ...
