"""Sealed values in Pydantic models: the token goes out, and comes in where a field is named.

>>> class Account(BaseModel):
...     iban: Annotated[Sealed[str], Of("customers.iban")]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError, core_schema

from .sealed import Sealed

__all__ = ["Of", "sealed_schema"]


@dataclass(frozen=True, slots=True)
class Of:
    """The field whose tokens are taken as text too. Without it, only ``Sealed`` are."""

    field: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return sealed_schema(self.field)


def sealed_schema(field: str | None = None) -> core_schema.CoreSchema:
    """Takes ``Sealed``, and tokens of the field; serialises as the token."""

    def check(value: object) -> Sealed[Any]:
        if isinstance(value, Sealed) and field in (None, value.field):
            return value
        if field is not None and isinstance(value, str) and value.startswith("vs1."):
            return Sealed(field, value)
        # The fault has no input: it could be the value in clear.
        raise PydanticCustomError("sealed", "not a sealed value")

    token = core_schema.str_schema(pattern=r"^vs1\.")
    return core_schema.json_or_python_schema(
        json_schema=core_schema.chain_schema(
            [token, core_schema.no_info_plain_validator_function(check)]
        ),
        python_schema=core_schema.no_info_plain_validator_function(check),
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda value: value.token, return_schema=core_schema.str_schema()
        ),
    )
