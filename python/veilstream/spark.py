"""Columns on Spark: data beyond one machine is read, rotated and back-filled where it lies.

Each task makes a ``Veil`` of its own: one that asks ``veilstream serve``, or one with keys in
process, from the configuration file on its executor and under the executor's own identity at the
key service. No key, password or token goes into a closure, a broadcast or Spark's configuration:
its UI and event log show them. Tasks run twice, so each line of the audit log names application,
stage, partition and attempt.
"""

from __future__ import annotations

import dataclasses
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa
from pyspark import TaskContext

from . import _json
from ._columns import RowColumn, open_columns
from ._connect import SHOWN
from ._veil import Veil
from .arrow import key_ids
from .errors import ColumnNotRevealed, ConfigError, PurposeError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["ProtectedColumn", "Server", "count_key_ids", "reveal", "rotate"]

Batches = Iterator[pa.RecordBatch]

REQUEST_ID_MAX = 64
"""Characters of a request's id."""
REQUESTS_ROOM = 6
"""Of these, what a request's number within a batch takes."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProtectedColumn:
    """A column of tokens: its field, and the columns that its tokens are tied to."""

    field: str
    subject: str | None = None
    bind: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A reading service, and what an executor asks it with.

    The API key or JWT stands on each executor: in the file ``token_file``, or in the environment
    variable ``token_variable``. ``cert`` are files of a client certificate and its key instead.
    ``ca`` names the authorities instead of the system's. With ``want="auto"`` those who may only
    mask get masks.
    """

    url: str
    token_file: str | None = None
    token_variable: str | None = None
    ca: str | None = None
    cert: tuple[str, str] | None = None
    want: Literal["auto", "reveal", "mask"] = "reveal"

    def __post_init__(self) -> None:
        named = [one for one in (self.token_file, self.token_variable, self.cert) if one]
        if len(named) != 1:
            raise ConfigError("Server takes one of token_file=, token_variable= and cert=")
        if any(isinstance(one, str) and one.startswith(("vsk_", "eyJ")) for one in named):
            raise ConfigError("Server names a file or a variable; a credential ends up in logs")

    def connect(self) -> Veil:
        """Asks the service, from an executor."""
        token = self.token_file if self.token_variable is None else self._of_variable
        return Veil.connect(self.url, token=token, ca=self.ca, cert=self.cert, want=self.want)

    def _of_variable(self) -> str:
        token = os.environ.get(str(self.token_variable))
        if not token:
            raise ConfigError(f"the executor has no environment variable {self.token_variable}")
        return token


def rotate(
    frame: DataFrame,
    columns: Mapping[str, ProtectedColumn],
    *,
    config: str,
    purpose: str | None = None,
    reason: str | None = None,
) -> DataFrame:
    """The frame with the tokens of these columns under the newest keys.

    No value is shown. What does not open stays as it is: ``count_key_ids`` tells what is left.
    """
    task = _Task("rotate", dict(columns), config, purpose, reason)
    return frame.mapInArrow(task, frame.schema)


def reveal(
    frame: DataFrame,
    columns: Mapping[str, ProtectedColumn],
    *,
    server: Server | None = None,
    config: str | None = None,
    purpose: str | None = None,
    reason: str | None = None,
) -> DataFrame:
    """The frame with these columns opened. A row that does not open fails the task.

    Give ``server``: its policies decide, and no key leaves it. Executors with an identity at the
    key service may open keys by ``config`` instead. Call it last: from here on Spark's memory,
    spill and shuffle files have plaintext.
    """
    source = server if config is None else config
    if source is None or (server is not None and config is not None):
        raise ConfigError("reveal takes server= or config=")
    if isinstance(source, Server):
        if purpose is None:
            raise PurposeError("a reading service answers for a purpose alone; give purpose=")
        _refuse_shown(frame, source)
    task = _Task("reveal", dict(columns), source, purpose, reason)
    return frame.mapInArrow(task, frame.schema)


def count_key_ids(frame: DataFrame, column: str) -> dict[str, int]:
    """How many tokens of a column are under which key. Needs no key; what is no token is ``""``."""
    counted = frame.select(column).mapInArrow(_count, "key_id string, tokens long")
    counts: dict[str, int] = {}
    for row in counted.groupBy("key_id").sum("tokens").collect():
        counts[row[0]] = row[1]
    return counts


def _refuse_shown(frame: DataFrame, server: Server) -> None:
    """A variable that Spark's own settings hand to executors stands in its UI and event log."""
    setting = f"spark.executorEnv.{server.token_variable}"
    if server.token_variable and frame.sparkSession.conf.get(setting, None) is not None:
        raise ConfigError(f"Spark shows its settings, and {setting} has the token; use a file")


def _count(batches: Batches) -> Batches:
    counts: dict[str, int] = {}
    for batch in batches:
        for key_id, count in key_ids(batch.column(0)).items():
            counts[key_id] = counts.get(key_id, 0) + count
    ids: pa.Array[Any] = pa.array(list(counts), pa.string())
    tokens: pa.Array[Any] = pa.array(list(counts.values()), pa.int64())
    yield pa.RecordBatch.from_arrays([ids, tokens], names=["key_id", "tokens"])


@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    """What an executor is sent: names, and where its configuration stands or its server is."""

    call: Literal["reveal", "rotate"]
    columns: dict[str, ProtectedColumn]
    source: str | Server
    purpose: str | None
    reason: str | None
    # Two calls may meet in one task.
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex[:6])

    def __call__(self, batches: Batches) -> Batches:
        with self._veil() as veil:
            for number, batch in enumerate(batches):
                with self._purpose(veil, number):
                    done = self._batch(veil, batch)
                yield done

    def _veil(self) -> Veil:
        if isinstance(self.source, Server):
            return self.source.connect()
        return Veil.open(self.source, query_id=_query_id())

    def _purpose(self, veil: Veil, batch: int) -> AbstractContextManager[None]:
        if self.purpose is None:
            return nullcontext()
        is_asked = isinstance(self.source, Server)
        request_id = _request_id(self.id, batch) if is_asked else None
        return veil.purpose(self.purpose, self.reason, request_id=request_id)

    def _batch(self, veil: Veil, batch: pa.RecordBatch) -> pa.RecordBatch:
        if isinstance(self.source, Server):
            call: Callable[..., Any] = partial(_ask, veil)
        else:
            call = veil.arrow.rotate if self.call == "rotate" else veil.arrow.reveal
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        done = dict(columns)
        for name, protected in self.columns.items():
            # Tokens are tied to what stands in the row as it came.
            subject = None if protected.subject is None else columns[protected.subject]
            bind = {bound: columns[column] for bound, column in protected.bind.items()}
            column = call(columns[name], protected.field, subject=subject, bind=bind)
            done[name] = pa.array(cast("Any", column)).cast(batch.schema.field(name).type)
        return pa.RecordBatch.from_arrays(list(done.values()), schema=batch.schema)


def _ask(
    veil: Veil,
    column: pa.Array[Any],
    field: str,
    *,
    subject: pa.Array[Any] | None,
    bind: Mapping[str, pa.Array[Any]],
) -> pa.Array[Any]:
    """A column that the reading service opens: strings as they are, all else as JSON text."""
    tokens = column.to_pylist()
    rows = [row for row, token in enumerate(tokens) if token is not None]

    def of_rows(given: pa.Array[Any]) -> list[Any]:
        values = given.to_pylist()
        return [values[row] for row in rows]

    subjects = None if subject is None else of_rows(subject)
    binds = {name: of_rows(values) for name, values in bind.items()}
    asked = RowColumn(field, of_rows(column), subjects, binds or None)
    ((values, statuses),) = open_columns(veil, [asked])
    counts = Counter(statuses or ())
    failed = {status: n for status, n in counts.items() if status not in SHOWN}
    if failed:
        raise ColumnNotRevealed(field, max(failed, key=failed.__getitem__), counts)
    texts: list[str | None] = [None] * len(tokens)
    for row, value in zip(rows, values, strict=True):
        texts[row] = value if isinstance(value, str) else _json.value_text(value)
    return pa.array(texts, pa.string())


def _query_id() -> str | None:
    task = TaskContext.get()
    if task is None:
        return None
    application = task.getLocalProperty("spark.app.id") or "spark"
    place = f"{task.stageId()}.{task.partitionId()}.{task.attemptNumber()}"
    return f"{application}/{place}"


def _request_id(call: str, batch: int) -> str | None:
    """Never used twice: the rows of an attempt may stand in another order than the last one's."""
    task = TaskContext.get()
    if task is None:
        return None
    application = re.sub(r"[^A-Za-z0-9_-]", "_", task.getLocalProperty("spark.app.id") or "spark")
    place = f"-{call}-{task.stageId()}-{task.partitionId()}-{task.taskAttemptId()}-{batch}"
    room = max(1, REQUEST_ID_MAX - REQUESTS_ROOM - len(place))
    return application[-room:] + place
