"""Fields that veilstream protects: read, seal and search them from Python."""

from ._types import FieldInfo, FieldStatus, IndexInfo, IndexValues, Purpose, RowResult, Value
from ._veil import Veil
from .errors import (
    AuditError,
    BindingError,
    ConfigError,
    KeysUnavailable,
    NeedsKeys,
    NotPicklable,
    NotRevealed,
    NotSearchable,
    Rejected,
    UnknownField,
    VeilError,
)

__all__ = [
    "AuditError",
    "BindingError",
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
    "Rejected",
    "RowResult",
    "UnknownField",
    "Value",
    "Veil",
    "VeilError",
]
