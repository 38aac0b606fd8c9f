"""Attributes whose value does not open: who reads one hears why, and nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import InstanceState, QueryableAttribute
from sqlalchemy.orm.base import ATTR_WAS_SET, PASSIVE_NO_RESULT, PASSIVE_OFF, SQL_OK

from ..errors import NotRevealed

__all__ = ["guard", "withhold"]


def guard(attribute: QueryableAttribute[Any]) -> None:
    """Lets an attribute say what is wrong where a load of several has left it empty.

    SQLAlchemy does not tell a load which of its attributes is being read.
    """
    impl: Any = attribute.impl
    kind = type(impl)
    if not issubclass(kind, _Guarded):
        impl.__class__ = type(f"Guarded{kind.__name__}", (_Guarded, kind), {"__slots__": ()})


def withhold(
    state: InstanceState[Any], key: str, field: str, status: str, needs: str | None = None
) -> None:
    """Takes a value out of an entity. Its attribute raises ``NotRevealed`` until it is read again.

    ``needs`` names an attribute: once it is loaded, the value is read again.
    """
    del state.dict[key]
    # Without any, SQLAlchemy has one empty mapping for all entities.
    state.callables = {**state.callables, key: _Withheld(key, field, status, needs)}


class _Guarded:
    """What an attribute is, for those that may be withheld."""

    __slots__ = ()

    key: str

    def get(self, state: InstanceState[Any], dict_: Any, passive: Any = PASSIVE_OFF) -> Any:
        """The attribute's value."""
        try:
            return super().get(state, dict_, passive)  # type: ignore[misc]
        except KeyError:
            withheld = state.callables.get(self.key)
            if not isinstance(withheld, _Withheld):
                raise
            raise withheld.fault() from None


@dataclass(frozen=True, slots=True)
class _Withheld:
    """Stands where SQLAlchemy looks for what loads an attribute of one entity."""

    key: str
    field: str
    status: str
    needs: str | None

    def __call__(self, state: InstanceState[Any], passive: Any) -> Any:
        if not passive & SQL_OK:
            return PASSIVE_NO_RESULT
        session, target = state.session, state.obj()
        if self.needs in state.dict and session is not None and target is not None:
            with session.no_autoflush:
                session.refresh(target, [self.key])
            return ATTR_WAS_SET
        raise self.fault()

    def fault(self) -> NotRevealed:
        """What its reader is told."""
        return NotRevealed(self.field, self.status)
