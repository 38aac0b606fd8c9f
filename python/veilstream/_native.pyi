"""The native part: keys in process. Values are JSON texts; ``_open.py`` turns them."""

from typing import Any, final

_Claims = tuple[str | None, str | None, str | None, str | None]
_Bind = list[tuple[str, str]]
_Facts = tuple[str, str, list[str], bool, bool, list[tuple[str | None, int, bool]], bool, str]
_Field = tuple[str, str, list[tuple[str, str]]]

_Column = tuple[str, list[str], list[Any] | None, list[tuple[str, list[Any]]]]

def open_statement(
    engine: Engine, columns: list[_Column], claims: _Claims
) -> list[tuple[list[Any], list[int], list[tuple[int, str]]]]: ...
def seal_statement(
    engine: Engine, columns: list[tuple[_Column, bool]], claims: _Claims
) -> list[tuple[list[str | None], list[str | None] | None]]: ...
def normalized(engine: Engine, field: str, json: str) -> bytes | None: ...

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
