"""Protected columns of SQLAlchemy 2: opened on load, sealed on write, found by blind indexes.

>>> class Customer(Base):
...     id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
...     email: Mapped[str] = encrypted("customers.email", index="email_bidx", subject="id")
...     iban: Mapped[Sealed[str]] = sealed("customers.iban", subject="id")
...     email_bidx: Mapped[str | None] = blind_index("customers.email")
>>> attach(engine, veil)

What each module does:

* ``types``: the column types, and what may be written in Python with them.
* ``plans``: which columns of a table belong together, and what is wrong with a mapping.
* ``search``: comparisons become ``IN`` over an index.
* ``recheck``: what a bucketed index found is opened and compared again.
* ``write``: INSERT and UPDATE get tokens and index values in place of values.
* ``load``: which entities a statement loads.
* ``opening``: these are opened together.
* ``unreadable``: attributes whose value does not open.
* ``attached``: on which engine or session a ``Veil`` hangs.
"""

from .._native import Sealed
from ..errors import NotSealed, NotSearchable
from . import load as _load
from . import write as _write
from .attached import attach
from .opening import clear_seen
from .plans import MappingError, check
from .types import BlindIndex, Encrypted, SealedType, blind_index, encrypted, sealed

__all__ = [
    "BlindIndex",
    "Encrypted",
    "MappingError",
    "NotSealed",
    "NotSearchable",
    "Sealed",
    "SealedType",
    "attach",
    "blind_index",
    "check",
    "clear_seen",
    "encrypted",
    "sealed",
]

_load.listen()
_write.listen()
