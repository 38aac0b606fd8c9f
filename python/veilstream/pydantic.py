"""Sealed values in Pydantic models: the token goes out, and comes in where a field is named.

>>> class Account(BaseModel):
...     iban: Annotated[Sealed[str], Of("customers.iban")]
...     mail: Annotated[Sealed[str], Of("legacy.mail", format="fernet")]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic_core import PydanticCustomError, core_schema

from ._native import Sealed

__all__ = ["Of", "sealed_schema"]


Format: TypeAlias = Literal["vs1", "fernet", "pgcrypto"]

# What texts of each form look like.
_PATTERNS: dict[Format, str] = {
    "vs1": r"^vs1\.",
    "fernet": r"^gAAAA[A-Za-z0-9_-]{93,}={0,2}$",
    # PostgreSQL breaks its base64 into lines.
    "pgcrypto": r"^[wj][A-Za-z0-9+/\n]{75,}={0,2}$",
}


@dataclass(frozen=True, slots=True)
class Of:
    """The field whose tokens are taken as text too. Without it, only ``Sealed`` are.

    ``format`` is that of the field in its schema: texts of another form are refused.
    """

    field: str
    format: Format = "vs1"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return sealed_schema(self.field, self.format)


def sealed_schema(field: str | None = None, format: Format = "vs1") -> core_schema.CoreSchema:
    """Takes ``Sealed``, and tokens of the field; serialises as the token."""
    pattern = _PATTERNS[format]

    def check(value: object) -> Sealed[Any]:
        if isinstance(value, Sealed) and field in (None, value.field):
            return value
        if field is not None and isinstance(value, str) and re.search(pattern, value):
            return Sealed(field, value)
        # The fault has no input: it could be the value in clear.
        raise PydanticCustomError("sealed", "not a sealed value")

    token = core_schema.str_schema(pattern=pattern)
    return core_schema.json_or_python_schema(
        json_schema=core_schema.chain_schema(
            [token, core_schema.no_info_plain_validator_function(check)]
        ),
        python_schema=core_schema.no_info_plain_validator_function(check),
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda value: value.token, return_schema=core_schema.str_schema()
        ),
    )
