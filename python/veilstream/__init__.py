"""Fields that veilstream protects: read, seal and search them from Python."""

from ._async import AsyncVeil
from ._connect import Masked
from ._problems import (
    Denied,
    RateLimited,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
    Unauthorized,
)
from ._native import Sealed
from ._types import FieldInfo, FieldStatus, IndexInfo, IndexValues, Purpose, RowResult, Value
from ._veil import Veil
from .errors import (
    AuditError,
    BindingError,
    ColumnError,
    ColumnNotRevealed,
    ConfigError,
    KeysUnavailable,
    NeedsKeys,
    NotPicklable,
    NotRevealed,
    NotSealed,
    NotSearchable,
    PurposeError,
    Rejected,
    UnknownField,
    VeilError,
)

__all__ = [
    "AsyncVeil",
    "AuditError",
    "BindingError",
    "ColumnError",
    "ColumnNotRevealed",
    "ConfigError",
    "Denied",
    "FieldInfo",
    "FieldStatus",
    "IndexInfo",
    "IndexValues",
    "KeysUnavailable",
    "Masked",
    "NeedsKeys",
    "NotPicklable",
    "NotRevealed",
    "NotSealed",
    "NotSearchable",
    "Purpose",
    "PurposeError",
    "RateLimited",
    "Rejected",
    "RequestRefused",
    "RowResult",
    "Sealed",
    "ServiceError",
    "ServiceUnavailable",
    "Unauthorized",
    "UnknownField",
    "Value",
    "Veil",
    "VeilError",
]
