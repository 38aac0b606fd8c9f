"""Column types of protected values, and the mapped columns that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

from sqlalchemy import Dialect, FetchedValue, Text
from sqlalchemy.orm import MappedColumn, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from .._native import ColumnReader
from ..errors import NotRevealed, NotSealed
from .misuse import ProtectedText
from .search import EncryptedComparator

__all__ = [
    "BlindIndex",
    "Clear",
    "Encrypted",
    "Protected",
    "SealedType",
    "TokenText",
    "blind_index",
    "encrypted",
    "sealed",
]

Clear: TypeAlias = Literal["reject", "count", "allow"]
Old: TypeAlias = Callable[[str], str] | None
Bind: TypeAlias = Mapping[str, str] | Iterable[str] | None


class TokenText(str):
    """A token that was made for the row it is written to."""

    __slots__ = ()


def _text(dialect: Dialect) -> TypeEngine[Any]:
    # Tokens and indexes differ in case: other collations would make different ones equal.
    collation = "C" if dialect.name == "postgresql" else None
    return Text(collation=collation)


class Protected(ProtectedText):
    """A column of tokens.

    ``index``, ``subject`` and the values of ``bind`` are names of attributes of the same table.
    """

    impl = Text
    cache_ok = True
    opens_on_load = False
    comparator_factory: Any = EncryptedComparator

    def __init__(
        self,
        field: str,
        index: str | None = None,
        subject: str | None = None,
        bind: Bind = None,
        clear: Clear = "reject",
        old: Old = None,
    ) -> None:
        super().__init__()
        if clear not in ("reject", "count", "allow"):
            raise ValueError(f'{field}: clear is "reject", "count" or "allow"')
        pairs = bind.items() if isinstance(bind, Mapping) else ((name, name) for name in bind or ())
        self.field = field
        self.index = index
        self.subject = subject
        self.bind = tuple(sorted(pairs))
        self.clear = clear
        self.old = old

    def old_value(self, text: str) -> Any:
        """A value from before there were tokens, where the mapping allows it; else ``None``."""
        if self.clear == "reject":
            return None
        try:
            return text if self.old is None else self.old(text)
        except Exception:
            # Its message could quote what it was given.
            raise NotRevealed(self.field, "corrupt") from None

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return _text(dialect)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None or isinstance(value, TokenText):
            return value
        raise NotSealed(f"{self.field}: a value arrived here that was not sealed")

    def process_literal_param(self, value: Any, dialect: Dialect) -> str:
        raise NotSealed(f"{self.field}: a protected value is no literal of a statement's text")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return ColumnReader(self.field).read(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        # One call for each value of each row: what TypeDecorator puts around it is left out.
        return ColumnReader(self.field).read

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        return self

    def compare_values(self, x: Any, y: Any) -> bool:
        return bool(x == y)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.field!r})"


class Encrypted(Protected):
    """Opened when its row is loaded as an entity."""

    cache_ok = True
    opens_on_load = True


class SealedType(Protected):
    """Stays sealed until ``Sealed.reveal``."""

    cache_ok = True


class BlindIndex(TypeDecorator[Any]):
    """A column of index values. The column that it indexes fills it."""

    impl = Text
    cache_ok = True

    def __init__(self, field: str) -> None:
        super().__init__()
        self.field = field

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return _text(dialect)

    def __repr__(self) -> str:
        return f"BlindIndex({self.field!r})"


def encrypted(
    field: str,
    *,
    index: str | None = None,
    subject: str | None = None,
    bind: Bind = None,
    clear: Clear = "reject",
    old: Old = None,
    **options: Any,
) -> MappedColumn[Any]:
    """A value that is sealed in the database and opened on load. Needs ``Veil.open``.

    ``index`` names the attribute of its blind index, ``subject`` and ``bind`` those that the
    field's schema ties its tokens to. ``clear`` says what happens to old values that are no
    tokens: ``reject`` raises where they are read, ``allow`` reads them, ``count`` also counts them
    (``clear_seen``). ``old`` opens such values, where they are of an older encryption. Other options are those of ``mapped_column``.
    """
    return mapped_column(Encrypted(field, index, subject, bind, clear, old), **options)


def sealed(
    field: str,
    *,
    index: str | None = None,
    subject: str | None = None,
    bind: Bind = None,
    **options: Any,
) -> MappedColumn[Any]:
    """A value that is sealed in the database and in Python: ``Sealed``, until ``reveal``."""
    return mapped_column(SealedType(field, index, subject, bind), **options)


def blind_index(field: str, **options: Any) -> MappedColumn[Any]:
    """The blind index of a field: ``index`` of its column names this attribute.

    It is written with its column, and is nullable: a value without an index has none.
    """
    # Made while the statement is executed, as if the server had made it: so it is fetched back.
    written: dict[str, Any] = {"server_default": FetchedValue(), "server_onupdate": FetchedValue()}
    written |= {"nullable": True, "index": True}
    return mapped_column(BlindIndex(field), **(written | options))
