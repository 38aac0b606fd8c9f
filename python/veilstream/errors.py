"""What goes wrong. No exception holds a value that was protected, a token or a key."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "AuditError",
    "BindingError",
    "ColumnError",
    "ColumnNotRevealed",
    "ConfigError",
    "KeysUnavailable",
    "NeedsKeys",
    "NotPicklable",
    "NotRevealed",
    "NotSealed",
    "NotSearchable",
    "PurposeError",
    "Rejected",
    "UnknownField",
    "VeilError",
]


class VeilError(Exception):
    """Anything that this package refuses or cannot do."""


class ConfigError(VeilError):
    """The configuration, or the way a ``Veil`` is opened, has a fault."""


class AuditError(VeilError):
    """The audit log takes no lines, so nothing was handed out."""


class KeysUnavailable(VeilError):
    """The key store or the key service cannot be reached. The call may be repeated."""


class NeedsKeys(VeilError):
    """The call needs keys in process: use ``Veil.open``."""


class UnknownField(VeilError):
    """No schema in force has this field or schema."""


class BindingError(VeilError):
    """``bind`` or ``subject`` is not what the field's schema asks for."""


class PurposeError(VeilError):
    """The purpose is none of those configured, or its reason does not do."""


class ColumnError(VeilError):
    """A column is not of a type that can be read, is not well formed, or does not rotate."""


class NotSealed(VeilError):
    """A value that was not sealed yet: it has no token to show, send or store."""


class NotSearchable(VeilError):
    """The field has no index for this search."""


class Rejected(VeilError):
    """A value or event that cannot be protected as its schema says.

    ``code`` is the reject code of the dead letters, for example ``wrong_type``.
    """

    def __init__(self, code: str, schema: str | None = None, field: str | None = None) -> None:
        where = ".".join(part for part in (schema, field) if part)
        place = f"{where}: " if where else ""
        super().__init__(f"{place}rejected as {code}; nothing was sealed")
        self.code = code
        self.schema = schema
        self.field = field

    def __reduce__(self) -> tuple[type[Rejected], tuple[str, str | None, str | None]]:
        return (type(self), (self.code, self.schema, self.field))


class NotRevealed(VeilError):
    """A token that did not open.

    ``status`` is one of ``denied``, ``erased``, ``key_unavailable``, ``corrupt``, ``clear`` and
    ``absent``, as the reading service answers it.
    """

    def __init__(self, field: str, status: str) -> None:
        super().__init__(f"{field}: not revealed: {status}")
        self.field = field
        self.status = status

    def __reduce__(self) -> tuple[type[NotRevealed], tuple[object, ...]]:
        return (type(self), (self.field, self.status))


class ColumnNotRevealed(NotRevealed):
    """Tokens of a column that did not open. ``counts`` has how many rows came to what."""

    def __init__(self, field: str, status: str, counts: Mapping[str, int]) -> None:
        super().__init__(field, status)
        self.counts = dict(counts)

    def __reduce__(self) -> tuple[type[ColumnNotRevealed], tuple[object, ...]]:
        return (type(self), (self.field, self.status, self.counts))


class NotPicklable(VeilError, TypeError):
    """A ``Veil`` holds keys or a token and stays in its process: make one where it is needed."""
