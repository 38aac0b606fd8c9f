"""Fields that veilstream protects: read, seal and search them from Python."""

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
    NotSearchable,
    PurposeError,
    Rejected,
    UnknownField,
    VeilError,
)

__all__ = [
    "AuditError",
    "BindingError",
    "ColumnError",
    "ColumnNotRevealed",
    "ConfigError",
    "FieldInfo",
    "FieldStatus",
    "IndexInfo",
    "IndexValues",
    "KeysUnavailable",
    "NeedsKeys",
    "NotPicklable",
    "NotRevealed",
    "NotSearchable",
    "Purpose",
    "PurposeError",
    "Rejected",
    "RowResult",
    "UnknownField",
    "Value",
    "Veil",
    "VeilError",
]
