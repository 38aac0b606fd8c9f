"""A real Spark, in local mode: files in, files out. It starts once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark import TaskContext
from pyspark.sql import SparkSession

import veilstream.arrow
from in_process import ROOT, Site
from veilstream import Veil
from veilstream.spark import ProtectedColumn, count_key_ids, reveal, rotate

ROWS = 5000
EMAILS = [f"canary-{n}@example.com" for n in range(ROWS)]
IBANS = [f"DE-canary-{n:09}" for n in range(ROWS)]
COLUMNS = {
    "email": ProtectedColumn("customers.email"),
    "iban": ProtectedColumn("people.iban", subject="person"),
    "ssn": ProtectedColumn("customers.ssn", bind={"customer": "id"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spark")


@pytest.fixture(scope="module")
def site(make_site: Callable[[], Site]) -> Site:
    return make_site()


@pytest.fixture(scope="module")
def spark(folder: Path) -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = f"{ROOT}/python:{ROOT}/python/tests"
    for name in ("events", "local"):
        (folder / name).mkdir()
    # A task may fail three times.
    builder = SparkSession.builder.master("local[2,3]").appName("rotate")
    settings = {
        "spark.ui.enabled": "false",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file://{folder}/events",
        "spark.local.dir": str(folder / "local"),
        "spark.sql.shuffle.partitions": "4",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "700",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def old(folder: Path, site: Site) -> Path:
    """Parquet files under keys that were rotated since."""
    out = folder / "old"
    out.mkdir()
    with Veil.open(site.config) as veil:
        ids, people = pa.array(range(ROWS)), pa.array([n % 50 for n in range(ROWS)])
        emails, ibans = pa.array(EMAILS), pa.array(IBANS)
        ssn = veil.arrow.seal(ibans, "customers.ssn", bind={"customer": ids})
        table = pa.table(
            {
                "id": ids,
                "person": people,
                "email": pa.array(veil.arrow.seal(emails, "customers.email")),
                "iban": pa.array(veil.arrow.seal(ibans, "people.iban", subject=people)),
                "ssn": pa.array(ssn),
            }
        )
    for part in range(4):
        pq.write_table(table.slice(part * ROWS // 4, ROWS // 4), out / f"{part}.parquet")
    site.cli("keys", "rotate", "--config", "veilstream.toml", "--shared", "customers")
    return out


def fails_once(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Breaks the first attempt of a partition, when all of it was sealed."""
    context = TaskContext.get()
    yield from batches
    if context is not None and context.partitionId() == 0 and context.attemptNumber() == 0:
        raise RuntimeError("a worker that is lost")


def test_a_table_is_rotated_and_nothing_is_lost(
    spark: SparkSession, site: Site, folder: Path, old: Path
) -> None:
    frame = spark.read.parquet(str(old))
    before = count_key_ids(frame, "email")
    assert list(before.values()) == [ROWS]
    rotated = rotate(frame, COLUMNS, config=str(site.config), purpose="support", reason="ticket 1")
    # Across a shuffle, and with a task that runs twice.
    rotated = rotated.mapInArrow(fails_once, rotated.schema).repartition(4, "person")
    rotated.write.parquet(str(folder / "new"))
    written = spark.read.parquet(str(folder / "new"))
    after = count_key_ids(written, "email")
    assert list(after.values()) == [ROWS] and not set(before) & set(after)
    tokens = pq.read_table(folder / "new").sort_by("id")
    assert tokens.num_rows == ROWS
    with Veil.open(site.config) as veil:
        ids, people = tokens["id"], tokens["person"]
        assert pa.array(veil.arrow.reveal(tokens["email"], "customers.email")).to_pylist() == EMAILS
        assert pa.array(veil.arrow.reveal(tokens["iban"], "people.iban", subject=people)).to_pylist() == IBANS
        assert pa.array(veil.arrow.reveal(tokens["ssn"], "customers.ssn", bind={"customer": ids})).to_pylist() == IBANS
    # People's keys are as new as they were: their tokens stayed.
    assert veilstream.arrow.key_ids(tokens["iban"]) == veilstream.arrow.key_ids(pq.read_table(old)["iban"])
    tasks = [str(line["query_id"]) for line in site.lines("rotate")]
    application = spark.sparkContext.applicationId
    assert {task.split("/")[0] for task in tasks} == {application}
    assert {task.split(".")[-1] for task in tasks} == {"0", "1"}, "no task ran twice"
    again = rotate(written, COLUMNS, config=str(site.config))
    assert count_key_ids(again, "email") == after
    site.verify()


def test_neither_key_nor_value_is_left_behind(
    spark: SparkSession, site: Site, folder: Path, old: Path
) -> None:
    """In what Spark keeps of a rotation: its settings, event log, shuffle files, the result."""
    secrets = [line.split()[-1].encode() for line in (site.folder / "kek").read_text().splitlines()]
    assert secrets and all(len(secret) == 44 for secret in secrets)
    frame = rotate(spark.read.parquet(str(old)), COLUMNS, config=str(site.config))
    kept = frame.repartition(3, "person").persist()
    assert kept.count() == ROWS
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any("events" in str(path) for path in files)
    assert any("shuffle" in path.name for path in files), "nothing was shuffled"
    conf = repr(spark.sparkContext.getConf().getAll()).encode()
    for name, content in [("conf", conf), *((str(p), p.read_bytes()) for p in files)]:
        for secret in [*secrets, b"canary-"]:
            assert secret not in content, f"{name} has it"
    kept.unpersist()


def test_rows_open_on_executors(spark: SparkSession, site: Site, old: Path) -> None:
    opened = reveal(spark.read.parquet(str(old)), COLUMNS, config=str(site.config))
    rows = {row["id"]: row for row in opened.collect()}
    assert len(rows) == ROWS
    assert all(rows[n]["email"] == EMAILS[n] and rows[n]["iban"] == IBANS[n] for n in range(ROWS))
