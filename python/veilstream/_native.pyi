"""The native part: keys in process. Values are JSON texts; ``_open.py`` turns them."""

from collections.abc import Mapping
from typing import Any, Generic, NoReturn, TypeVar, final

from ._async import AsyncVeil
from ._types import JsonScalar
from ._veil import Veil

_Claims = tuple[str | None, str | None, str | None, str | None]
_Bind = list[tuple[str, str]]
_Facts = tuple[str, str, list[str], bool, bool, list[tuple[str | None, int, bool]], bool, str]
_Field = tuple[str, str, list[tuple[str, str]]]

_Column = tuple[str, list[str], list[Any] | None, list[tuple[str, list[Any]]]]

_Attribute = tuple[str, str, list[Any] | None, list[tuple[str, list[Any]]]]

_Entities = tuple[list[dict[str, Any]], list[_Attribute]]

_T = TypeVar("_T")

@final
class Sealed(Generic[_T]):
    """A protected value as its token. ``reveal`` opens it; nothing else does.

    It shows ``<sealed customers.iban>`` in texts, logs and tracebacks, and pickles as its token.
    ``json`` refuses it.
    """

    # No token: the value waits to be sealed.
    _token: str | None
    _clear: Any

    def __init__(
        self,
        field: str,
        token: str,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
        veil: Veil | None = None,
    ) -> None: ...
    @staticmethod
    def waiting(field: str, value: _T) -> Sealed[_T]:
        """A value that is sealed when its row is written."""

    @property
    def field(self) -> str:
        """``<schema>.<id>``."""

    @property
    def token(self) -> str:
        """What stands in the database."""

    def reveal(
        self,
        veil: Veil | None = None,
        *,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> _T:
        """The value. Row and ``Veil`` are those that it was loaded with, where none are given.

        Raises ``NotRevealed`` with the status where it does not open.
        """

    async def reveal_async(
        self,
        veil: AsyncVeil | None = None,
        *,
        bind: Mapping[str, JsonScalar] | None = None,
        subject: str | int | None = None,
    ) -> _T:
        """The value, without holding up the event loop."""

    @property
    def _bind(self) -> Mapping[str, JsonScalar] | None: ...
    @property
    def _subject(self) -> str | int | None: ...
    def _is_placed(self) -> bool: ...
    def _place(
        self,
        veil: Veil | None,
        bind: Mapping[str, JsonScalar] | None,
        subject: str | int | None,
    ) -> None: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __iter__(self) -> NoReturn: ...

@final
class ColumnReader:
    """Makes ``Sealed`` of the tokens of a column as they are read."""

    def __init__(self, field: str) -> None: ...
    def read(self, value: str | None) -> Sealed[Any] | None: ...

def open_statement(
    engine: Engine, columns: list[_Column], claims: _Claims
) -> list[tuple[list[Any], list[int], list[tuple[int, str]]]]: ...
def seal_statement(
    engine: Engine, columns: list[tuple[_Column, bool]], claims: _Claims
) -> list[tuple[list[str | None], list[str | None] | None]]: ...
def normalized(engine: Engine, field: str, json: str) -> bytes | None: ...

@final
class AttributeOpener:
    def __init__(self, engine: Engine, claims: _Claims) -> None: ...
    def begin(self, entities: list[_Entities]) -> None: ...
    def finish(
        self, entities: list[_Entities]
    ) -> list[tuple[list[int], list[tuple[int, str]]]]: ...

@final
class Engine:
    def __new__(
        cls, config: str, unaudited: bool = False, query_id: str | None = None
    ) -> Engine: ...
    def open(self) -> None: ...
    def guide(self) -> tuple[str | None, str | None]: ...
    def reveal(
        self, field: str, token: str, bind: _Bind, subject: str | None, claims: _Claims
    ) -> str | bytes: ...
    def seal(
        self, field: str, value: str, bind: _Bind, subject: str | None, claims: _Claims
    ) -> str | None: ...
    def index(
        self, field: str, parts: list[str], claims: _Claims
    ) -> tuple[str | None, list[str], bool]: ...
    def reveal_rows(
        self, schema: str, fields: list[str] | None, rows: list[str | None], claims: _Claims
    ) -> list[tuple[str | None, list[_Field]]]: ...
    def transform(self, schema: str, event: str, claims: _Claims) -> str: ...
    def field(self, name: str) -> _Facts: ...
    def before_fork(self) -> None: ...
    def after_fork(self) -> None: ...
    def close(self) -> None: ...

@final
class Column:
    """Strings by row, for whoever takes Arrow's C data interface: pyarrow, pandas, Polars."""

    @property
    def counts(self) -> dict[str, int]: ...
    @property
    def key_ids(self) -> dict[str, int]: ...
    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]: ...
    def __len__(self) -> int: ...

_Scalars = object
_ColumnBind = list[tuple[str, _Scalars]]

def reveal_column(
    engine: Engine,
    column: object,
    field: str,
    subject: _Scalars | None,
    bind: _ColumnBind,
    claims: _Claims,
) -> Column: ...
def seal_column(
    engine: Engine,
    column: object,
    field: str,
    subject: _Scalars | None,
    bind: _ColumnBind,
    claims: _Claims,
) -> Column: ...
def index_column(engine: Engine, column: object, field: str, claims: _Claims) -> Column: ...
def rotate_column(
    engine: Engine,
    column: object,
    field: str,
    subject: _Scalars | None,
    bind: _ColumnBind,
    claims: _Claims,
) -> Column: ...
def key_ids(column: object) -> dict[str, int]: ...
