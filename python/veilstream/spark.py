"""Columns on Spark: data beyond one machine is read, rotated and back-filled where it lies.

Each task makes a ``Veil`` of its own from the configuration file on its executor, under the
executor's own identity at the key service. No key, password or token goes into a closure, a
broadcast or Spark's configuration: its UI and event log show them. Tasks run twice, so each line of
the audit log names application, stage, partition and attempt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from pyspark import TaskContext

from ._veil import Veil
from .arrow import ArrowColumns, Column, key_ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["ProtectedColumn", "count_key_ids", "reveal", "rotate"]

Batches = Iterator[pa.RecordBatch]


@dataclasses.dataclass(frozen=True, slots=True)
class ProtectedColumn:
    """A column of tokens: its field, and the columns that its tokens are tied to."""

    field: str
    subject: str | None = None
    bind: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
    return frame.mapInArrow(_Task("rotate", dict(columns), config, purpose, reason), frame.schema)


def reveal(
    frame: DataFrame,
    columns: Mapping[str, ProtectedColumn],
    *,
    config: str,
    purpose: str | None = None,
    reason: str | None = None,
) -> DataFrame:
    """The frame with these columns opened. A row that does not open fails the task.

    Call it last: from here on Spark's memory, spill and shuffle files have plaintext.
    """
    return frame.mapInArrow(_Task("reveal", dict(columns), config, purpose, reason), frame.schema)


def count_key_ids(frame: DataFrame, column: str) -> dict[str, int]:
    """How many tokens of a column are under which key. Needs no key; what is no token is ``""``."""
    counted = frame.select(column).mapInArrow(_count, "key_id string, tokens long")
    counts: dict[str, int] = {}
    for row in counted.groupBy("key_id").sum("tokens").collect():
        counts[row[0]] = row[1]
    return counts


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
    """What an executor is sent: names, and where its configuration stands."""

    call: str
    columns: dict[str, ProtectedColumn]
    config: str
    purpose: str | None
    reason: str | None

    def __call__(self, batches: Batches) -> Batches:
        with Veil.open(self.config, query_id=_task_id()) as veil:
            for batch in batches:
                if self.purpose is None:
                    yield self._batch(veil.arrow, batch)
                else:
                    with veil.purpose(self.purpose, self.reason):
                        done = self._batch(veil.arrow, batch)
                    yield done

    def _batch(self, arrow: ArrowColumns, batch: pa.RecordBatch) -> pa.RecordBatch:
        call: Callable[..., Column] = arrow.rotate if self.call == "rotate" else arrow.reveal
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        done = dict(columns)
        for name, protected in self.columns.items():
            # Tokens are tied to what stands in the row as it came.
            subject = None if protected.subject is None else columns[protected.subject]
            bind = {bound: columns[column] for bound, column in protected.bind.items()}
            column = call(columns[name], protected.field, subject=subject, bind=bind)
            done[name] = pa.array(cast("Any", column)).cast(batch.schema.field(name).type)
        return pa.RecordBatch.from_arrays(list(done.values()), schema=batch.schema)


def _task_id() -> str | None:
    task = TaskContext.get()
    if task is None:
        return None
    application = task.getLocalProperty("spark.app.id") or "spark"
    place = f"{task.stageId()}.{task.partitionId()}.{task.attemptNumber()}"
    return f"{application}/{place}"
