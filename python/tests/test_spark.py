"""A real Spark, in local mode: files in, files out. It starts once."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark import TaskContext
from pyspark.sql import SparkSession
from sqlalchemy import Engine, create_engine, text

import veilstream.arrow
from blocks import blocks, run, take_schema
from in_process import AUDIT, CONFIG, ROOT, Site
from pg import Postgres
from veilstream import ConfigError, PurposeError, Veil
from veilstream.spark import ProtectedColumn, Server, count_key_ids, reveal, rotate
from world import Service, World

ROWS = 5000
EMAILS = [f"canary-{n}@example.com" for n in range(ROWS)]
IBANS = [f"DE-canary-{n:09}" for n in range(ROWS)]
COLUMNS = {
    "email": ProtectedColumn("customers.email"),
    "iban": ProtectedColumn("people.iban", subject="person"),
    "ssn": ProtectedColumn("customers.ssn", bind={"customer": "id"}),
}
# Where executors find what they ask a service with.
VARIABLE = "READING_SERVICE_TOKEN"
ASKED = {
    "email": ProtectedColumn("customers.email", subject="id"),
    "ssn": ProtectedColumn("customers.ssn", subject="id", bind={"customer": "id"}),
    "phone": ProtectedColumn("customers.phone", subject="id"),
}
SSN, PHONE = "078-05-1120", "+1 415 555 0101"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spark")


@pytest.fixture(scope="module")
def site(make_site: Callable[[], Site]) -> Site:
    return make_site()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def app_key(world: World) -> Path:
    return world.credential("app", "app")


@pytest.fixture(scope="module")
def desk_key(world: World) -> Path:
    return world.credential("desk", "desk")


@pytest.fixture(scope="module")
def service(world: World, app_key: Path, desk_key: Path) -> Iterator[Service]:
    running = Service(world)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def audit_database() -> Iterator[Engine]:
    """Takes the lines of executors, whose disks do not outlive their job."""
    running = Postgres()
    engine = create_engine(running.url("psycopg"))
    yield engine
    engine.dispose()
    running.stop()


@pytest.fixture(scope="module")
def spark(folder: Path, app_key: Path) -> Iterator[SparkSession]:
    os.environ[VARIABLE] = app_key.read_text()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = ":".join(f"{ROOT}/python{part}" for part in ("", "/tests", "/tests/app"))
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
    # Executors have it from their machine, and the driver has it not.
    del os.environ[VARIABLE]
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


def test_a_honey_token_does_not_stand_out_in_a_rotated_table(spark: SparkSession, site: Site) -> None:
    create = ("honey", "create", "--config", "veilstream.toml", "--schema", "schemas/customers.json")
    honey = site.cli(*create, "--field", "email", "mary.sample@example.org").strip()
    with Veil.open(site.config) as veil:
        tokens = pa.array(veil.arrow.seal(pa.array(EMAILS[:9]), "customers.email")).to_pylist()
    table = spark.createDataFrame([(token,) for token in [*tokens, honey]], "email string")
    rotated = rotate(table, {"email": ProtectedColumn("customers.email")}, config=str(site.config))
    assert sorted(count_key_ids(table, "email").values()) == [1, 9]
    assert list(count_key_ids(rotated, "email").values()) == [10]
    assert not site.lines("honey")


PASSWORD = "password-of-the-audit-log"


@pytest.fixture(scope="module")
def executor_config(site: Site, audit_database: Engine) -> Path:
    """The configuration of executors: without its line in PostgreSQL, nothing opens."""
    ddl = site.cli("audit", "ddl", "--role", "executor")
    with audit_database.begin() as connection:
        connection.execute(text(f"CREATE ROLE executor LOGIN PASSWORD '{PASSWORD}'"))
        connection.exec_driver_sql(ddl)
    url = site.folder / "audit.url"
    url.touch(mode=0o600)
    url.write_text(f"postgres://executor:{PASSWORD}@127.0.0.1:{audit_database.url.port}/postgres\n")
    config = site.folder / "executor.toml"
    copied = 'postgres_file = "audit.url"\npostgres_delivery = "required"'
    config.write_text(CONFIG + AUDIT.replace('copy = "none"', copied))
    return config


def test_neither_key_nor_value_is_left_behind(
    spark: SparkSession,
    site: Site,
    folder: Path,
    old: Path,
    audit_database: Engine,
    executor_config: Path,
) -> None:
    """In what Spark keeps of a rotation: its settings, event log, shuffle files, the result."""
    secrets = [line.split()[-1].encode() for line in (site.folder / "kek").read_text().splitlines()]
    assert secrets and all(len(secret) == 44 for secret in secrets)
    secrets += [PASSWORD.encode(), b"postgres://"]
    before = site.lines("rotate")
    table = spark.read.parquet(str(old))
    frame = rotate(table, COLUMNS, config=str(executor_config))
    kept = frame.repartition(3, "person").persist()
    assert kept.count() == ROWS
    shuffled = [path for path in folder.rglob("*") if "shuffle" in path.name]
    assert any(path.is_file() for path in shuffled), "nothing was shuffled"
    keeps_none_of(spark, folder, [*secrets, b"canary-"])
    kept.unpersist()
    # The lines of each task are in the second place.
    with audit_database.connect() as connection:
        copies = connection.scalars(text("SELECT line FROM pii_access_logs")).all()
    copied = [line for line in map(json.loads, copies) if line["event"] == "rotate"]
    written = [line for line in site.lines("rotate") if line not in before]
    assert sorted(copied, key=str) == sorted(written, key=str) and copied
    tasks = {line["query_id"] for line in copied}
    assert {task.split("/")[0] for task in tasks} == {spark.sparkContext.applicationId}
    assert len(tasks) == table.rdd.getNumPartitions() > 1


def keeps_none_of(spark: SparkSession, folder: Path, secrets: list[bytes]) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any("events" in str(path) for path in files)
    conf = repr(spark.sparkContext.getConf().getAll()).encode()
    for name, content in [("conf", conf), *((str(p), p.read_bytes()) for p in files)]:
        for secret in secrets:
            assert secret not in content, f"{name} has it"


def test_rows_open_on_executors(spark: SparkSession, site: Site, old: Path) -> None:
    opened = reveal(spark.read.parquet(str(old)), COLUMNS, config=str(site.config))
    rows = {row["id"]: row for row in opened.collect()}
    assert len(rows) == ROWS
    assert all(rows[n]["email"] == EMAILS[n] and rows[n]["iban"] == IBANS[n] for n in range(ROWS))


@pytest.fixture(scope="module")
def asked(world: World, folder: Path) -> Path:
    """A table of customers, each a person; every tenth row has no tokens."""
    out = folder / "asked"
    out.mkdir()
    ids = pa.array(range(ROWS))
    values = {"email": EMAILS, "ssn": [SSN] * ROWS, "phone": [PHONE] * ROWS}
    with Veil.open(world.config) as veil, veil.purpose("support"):
        table = pa.table({"id": ids})
        for name, texts in values.items():
            column = pa.array([text if n % 10 else None for n, text in enumerate(texts)])
            bind = {"customer": ids} if name == "ssn" else None
            sealed = veil.arrow.seal(column, f"customers.{name}", subject=ids, bind=bind)
            table = table.append_column(name, pa.array(sealed))
    for part in range(2):
        pq.write_table(table.slice(part * ROWS // 2, ROWS // 2), out / f"{part}.parquet")
    return out


def test_a_reading_service_opens_rows_for_executors(
    spark: SparkSession,
    world: World,
    service: Service,
    app_key: Path,
    desk_key: Path,
    folder: Path,
    asked: Path,
) -> None:
    url = f"http://{service.address}"
    frame = spark.read.parquet(str(asked))
    for server in (Server(url, token_variable=VARIABLE), Server(url, token_file=str(app_key))):
        before = len(world.audited())
        opened = reveal(frame, ASKED, server=server, purpose="support", reason="case 17")
        rows = {row["id"]: row for row in opened.collect()}
        assert len(rows) == ROWS
        for n, row in rows.items():
            shown = (EMAILS[n], SSN, PHONE) if n % 10 else (None, None, None)
            assert (row["email"], row["ssn"], row["phone"]) == shown
        lines = [line for line in world.audited()[before:] if line["event"] == "reveal"]
        assert {(line["actor"], line["purpose"], line["reason"]) for line in lines} == {
            ("key:app", "support", "case 17")
        }
        ids = {line["request_id"] for line in lines}
        assert len(ids) == len(lines) >= 2 * 3 * ROWS / 2 / 1000
        assert all(name.startswith(f"{spark.sparkContext.applicationId}-") for name in ids)

    # Those who may only mask get masks where they take them, and nothing else.
    phones, few = {"phone": ASKED["phone"]}, frame.where("id < 100")
    desk = Server(url, token_file=str(desk_key), want="auto")
    masked = reveal(few, phones, server=desk, purpose="support")
    assert {row["phone"] for row in masked.collect()} == {None, "********0101"}
    desk = Server(url, token_file=str(desk_key))
    with pytest.raises(Exception, match="ColumnNotRevealed: customers.phone: .*: denied") as refused:
        reveal(few, phones, server=desk, purpose="support").collect()
    assert "********" not in str(refused.value) and "vs1." not in str(refused.value)
    keeps_none_of(spark, folder, [app_key.read_bytes().strip(), desk_key.read_bytes().strip()])


def test_what_asks_a_service_wrongly_is_refused_before_a_job_starts(
    spark: SparkSession, app_key: Path, asked: Path
) -> None:
    url, frame = "https://reveal.internal", spark.read.parquet(str(asked))
    for credential in ({}, {"token_file": "a", "token_variable": "A"}):
        with pytest.raises(ConfigError, match="one of"):
            Server(url, **credential)
    key = app_key.read_text().strip()
    for name in ("token_file", "token_variable"):
        with pytest.raises(ConfigError) as shown:
            Server(url, **{name: key})
        assert key not in str(shown.value)
    server = Server(url, token_variable=VARIABLE)
    with pytest.raises(ConfigError, match="server= or config="):
        reveal(frame, ASKED, purpose="support")
    with pytest.raises(PurposeError):
        reveal(frame, ASKED, server=server)
    spark.conf.set(f"spark.executorEnv.{VARIABLE}", "in the event log")
    with pytest.raises(ConfigError, match="use a file"):
        reveal(frame, ASKED, server=server, purpose="support")
    spark.conf.unset(f"spark.executorEnv.{VARIABLE}")


def test_the_rotation_of_the_document_runs(
    spark: SparkSession,
    make_site: Callable[[], Site],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = make_site()
    take_schema(site)
    with Veil.open(site.config) as veil:
        ids, texts = pa.array(range(10)), pa.array([f"canary-{n}" for n in range(10)])
        columns = {
            name: pa.array(veil.arrow.seal(texts, f"customers.{name}", subject=ids))
            for name in ("email", "iban")
        }
    (tmp_path / "old").mkdir()
    pq.write_table(pa.table({"id": ids, **columns}), tmp_path / "old/0.parquet")
    _, code = blocks("python.md")["python-spark"]
    places = {
        '"old/"': f'"{tmp_path}/old"',
        '"new/"': f'"{tmp_path}/new"',
        '"/etc/veilstream/veilstream.toml"': f'"{site.config}"',
    }
    for written, here in places.items():
        assert written in code
        code = code.replace(written, here)
    run(code, {"spark": spark})
    before, after = map(ast.literal_eval, capsys.readouterr().out.replace("} {", "}\n{").splitlines())
    # A key for each person; theirs is as new as it was.
    assert len(before) == 10 and before == after
    opened = pq.read_table(tmp_path / "new").sort_by("id")
    with Veil.open(site.config) as veil:
        ibans = veil.arrow.reveal(opened["iban"], "customers.iban", subject=opened["id"])
        assert pa.array(ibans).to_pylist() == texts.to_pylist()
