"""Columns on real installations: pyarrow, pandas, Polars, DuckDB."""

from __future__ import annotations

import ctypes
import random
import threading
from collections.abc import Callable, Iterator

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import veilstream.arrow
from in_process import Site
from veilstream import BindingError, ColumnError, ColumnNotRevealed, Rejected, Veil

VALUES = ["ada@example.com", None, "", "Ünïcödé \"\\\u2028 😀", "x" * 5000] + [f"{n}@example.com" for n in range(40)]


@pytest.fixture(scope="module")
def shared(make_site: Callable[[], Site]) -> Iterator[tuple[Site, Veil]]:
    """One folder for the tests that only read and seal."""
    site = make_site()
    with Veil.open(site.config) as veil:
        yield site, veil


LAYOUTS: dict[str, Callable[[pa.Array], object]] = {
    "utf8": lambda a: a,
    "large": lambda a: a.cast(pa.large_string()),
    "view": lambda a: a.cast(pa.string_view()),
    "dictionary": lambda a: a.dictionary_encode(),
    "sliced": lambda a: pa.concat_arrays([pa.array(["no", None]), a, pa.array(["no"])]).slice(2, len(a)),
    "chunked": lambda a: pa.chunked_array([a.slice(0, 7), a.slice(7, 0), a.slice(7)]),
    "pandas": lambda a: pd.Series(a.to_pandas(), dtype="str"),
    "polars": lambda a: pl.Series(a),
    "polars chunks": lambda a: pl.Series(a.slice(0, 9)).append(pl.Series(a.slice(9))),
    "polars categorical": lambda a: pl.Series(a).cast(pl.Categorical),
    "duckdb": lambda a: duckdb.arrow(pa.table({"t": a})).to_arrow_table()["t"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_come_back_in_any_layout(shared: tuple[Site, Veil], layout: str) -> None:
    _, veil = shared
    sealed = veil.arrow.seal(pa.array(VALUES), "customers.email")
    assert sealed.counts == {"sealed": len(VALUES) - 1}
    tokens = pa.array(sealed)
    assert all(t is None or t.startswith("vs1.") for t in tokens.to_pylist())
    opened = veil.arrow.reveal(LAYOUTS[layout](tokens), "customers.email")
    assert pa.array(opened).to_pylist() == VALUES
    assert opened.counts == {"revealed": len(VALUES) - 1}
    # Rows and columns are one format.
    assert veil.reveal("customers.email", tokens[0].as_py()) == VALUES[0]
    again = LAYOUTS[layout](pa.array(VALUES))
    assert pa.array(veil.arrow.reveal(pa.array(veil.arrow.seal(again, "customers.email")), "customers.email")).to_pylist() == VALUES


def test_results_go_where_arrow_goes(shared: tuple[Site, Veil]) -> None:
    _, veil = shared
    tokens = pa.array(veil.arrow.seal(pa.array(VALUES), "customers.email"))
    opened = veil.arrow.reveal(tokens, "customers.email")
    assert pl.Series(opened).to_list() == VALUES
    frame = pd.DataFrame({"email": pd.Series.from_arrow(opened)})
    assert [None if pd.isna(v) else v for v in frame["email"]] == VALUES
    table = pa.table({"email": pa.array(opened)})
    with duckdb.connect() as connection:
        connection.register("opened", table)
        found = connection.execute("select count(*) from opened where email like '%@example.com'")
        assert found.fetchone() == (41,)


def test_values_that_are_no_strings(shared: tuple[Site, Veil]) -> None:
    _, veil = shared
    for array, told in [
        (pa.array([1, None, -(2**63)]), ["1", None, str(-(2**63))]),
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        (pa.array([1.5, 1e300, -0.0]), ["1.5", "1e+300", "-0.0"]),
        (pa.array([True, False, None]), ["true", "false", None]),
    ]:
        opened = veil.arrow.reveal(veil.arrow.seal(array, "customers.plan"), "customers.plan")
        assert pa.array(opened).to_pylist() == told
    with pytest.raises(Rejected):
        veil.arrow.seal(pa.array([float("nan")]), "customers.plan")
    for array in (pa.array([b"x"]), pa.array([[1]]), pa.array([{"a": 1}])):
        with pytest.raises(ColumnError):
            veil.arrow.seal(array, "customers.plan")
        with pytest.raises(ColumnError):
            veil.arrow.reveal(array, "customers.plan")
    with pytest.raises(TypeError):
        veil.arrow.reveal(["vs1.x"], "customers.plan")  # type: ignore[arg-type]


def test_each_row_is_tied_to_its_own(shared: tuple[Site, Veil]) -> None:
    site, veil = shared
    ids, values = pa.array(range(300)), pa.array([f"{n:09}" for n in range(300)])
    ssn = pa.array(veil.arrow.seal(values, "customers.ssn", bind={"customer": ids}))
    assert veil.reveal("customers.ssn", ssn[7].as_py(), bind={"customer": 7}) == "000000007"
    for bind in (ids, ids.cast(pa.string()), pl.Series(ids), pd.Series(range(300)), pa.chunked_array([ids.slice(0, 10), ids.slice(10)])):
        opened = veil.arrow.reveal(ssn, "customers.ssn", bind={"customer": bind})
        assert pa.array(opened).equals(values)
    moved = pa.concat_arrays([ids.slice(1), ids.slice(0, 1)])
    with pytest.raises(ColumnNotRevealed) as refused:
        veil.arrow.reveal(ssn, "customers.ssn", bind={"customer": moved})
    assert (refused.value.status, refused.value.counts) == ("corrupt", {"corrupt": 300})
    for bind in ({}, {"other": ids}, {"customer": ids.slice(1)}):
        with pytest.raises((BindingError, ColumnError)):
            veil.arrow.reveal(ssn, "customers.ssn", bind=bind)
    iban = pa.array(veil.arrow.seal(values, "people.iban", subject=ids))
    assert pa.array(veil.arrow.reveal(iban, "people.iban", subject=ids)).equals(values)
    assert pa.array(veil.arrow.reveal(iban, "people.iban")).equals(values)
    one = veil.arrow.reveal(iban, "people.iban", subject=7, errors="null")
    assert one.counts == {"revealed": 1, "corrupt": 299} and pa.array(one)[7].as_py() == "000000007"
    holes = pa.array([None if n == 3 else n for n in range(300)])
    assert veil.arrow.reveal(iban, "people.iban", subject=holes, errors="null").counts == {"revealed": 299, "corrupt": 1}
    with pytest.raises(BindingError):
        veil.arrow.seal(values, "people.iban", subject=holes)
    with pytest.raises(BindingError):
        veil.arrow.seal(values, "people.iban")
    line = site.lines("reveal")[-2]
    assert line["items"] == 300 and line["subjects"] == 300 or line["items"] == 299


def test_thousands_of_people_open_in_any_order(shared: tuple[Site, Veil]) -> None:
    site, veil = shared
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    rows = [(rng.randrange(3000), f"DE{rng.randrange(10**18):018}") for _ in range(9000)]
    people, values = pa.array([p for p, _ in rows]), pa.array([v for _, v in rows])
    tokens = pa.array(veil.arrow.seal(values, "people.iban", subject=people))
    opened = veil.arrow.reveal(pa.chunked_array([tokens.slice(0, 4001), tokens.slice(4001)]), "people.iban", subject=people)
    assert pa.array(opened).equals(values)
    line = site.lines("reveal")[-1]
    assert (line["items"], line["subjects"]) == (9000, len({p for p, _ in rows}))
    veil_lines = len(site.lines())
    assert veil_lines > 0


def test_what_does_not_open_is_null_and_counted(shared: tuple[Site, Veil]) -> None:
    site, veil = shared
    tokens = pa.array(veil.arrow.seal(pa.array(["a", "b"]), "customers.email")).to_pylist()
    other = veil.seal("customers.plan", "gold")
    unknown = tokens[0][:8] + "A" * 20 + tokens[0][28:]
    column = pa.array([tokens[0], None, "in clear", "vs1.x", other, unknown, tokens[1][:-2] + "AA", ""])
    opened = veil.arrow.reveal(column, "customers.email", errors="null")
    assert pa.array(opened).to_pylist() == ["a"] + [None] * 7
    assert opened.counts == {"revealed": 1, "clear": 2, "corrupt": 3, "key_unavailable": 1}
    with pytest.raises(ColumnNotRevealed) as refused:
        veil.arrow.reveal(column, "customers.email")
    assert refused.value.status == "corrupt" and "in clear" not in repr(refused.value.args)
    line = site.lines("reveal")[-1]
    assert line["fields"] == {"email": "revealed"} and line["items"] == 7


def test_index_columns_are_what_the_pipeline_writes(shared: tuple[Site, Veil]) -> None:
    _, veil = shared
    tags = pa.array(veil.arrow.index(pa.array(["Ada@Example.com", None, "\u200b"]), "customers.email")).to_pylist()
    assert tags[0] in veil.index("customers.email", "ada@example.com").values
    assert tags[1:] == [None, None]
    assert veil.transform("customers", {"email": "ada@example.com"})["email_bidx"] == tags[0]


def test_rotation_shows_nothing_and_loses_nothing(site: Site) -> None:
    with Veil.open(site.config) as veil:
        values = pa.array([f"{n}@example.com" for n in range(50)])
        old = pa.array(veil.arrow.seal(values, "customers.email"))
        same = veil.arrow.rotate(old, "customers.email")
        assert same.counts == {"newest": 50} and pa.array(same).equals(old)
    site.cli("keys", "rotate", "--config", "veilstream.toml", "--shared", "customers")
    with Veil.open(site.config) as veil:
        mixed = pa.concat_arrays([old, pa.array(["clear", None, "vs1.x"])])
        moved = veil.arrow.rotate(mixed, "customers.email")
        assert moved.counts == {"rotated": 50, "clear": 1, "corrupt": 1}
        tokens = pa.array(moved)
        assert tokens.slice(50).to_pylist() == ["clear", None, "vs1.x"]
        assert not set(tokens.slice(0, 50).to_pylist()) & set(old.to_pylist())
        before, after = veilstream.arrow.key_ids(old), veilstream.arrow.key_ids(tokens)
        assert list(before.values()) == [50] and sorted(after.values()) == [2, 50]
        assert not set(before) & set(after) and moved.key_ids == {k: n for k, n in after.items() if k}
        assert pa.array(veil.arrow.reveal(tokens.slice(0, 50), "customers.email")).equals(values)
        # A task that runs twice finds nothing to do.
        assert veil.arrow.rotate(tokens, "customers.email").counts == {"newest": 50, "clear": 1, "corrupt": 1}
        line = site.lines("rotate")[-1]
        assert line["schema"] == "customers" and line["items"] == 52


def test_a_honey_token_rotates_and_does_not_stand_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    create = ("honey", "create", "--config", "veilstream.toml", "--schema", "schemas/customers.json")
    honey = site.cli(*create, "--field", "email", "mary.sample@example.org").strip()
    with Veil.open(site.config) as veil:
        old = pa.array(veil.arrow.seal(pa.array([f"{n}@example.com" for n in range(4)]), "customers.email"))
    old = pa.concat_arrays([old.slice(0, 2), pa.array([honey]), old.slice(2)])
    site.cli("keys", "rotate", "--config", "veilstream.toml", "--shared", "customers")
    with Veil.open(site.config) as veil:
        moved = veil.arrow.rotate(old, "customers.email")
        tokens = pa.array(moved)
        assert moved.counts == {"rotated": 5} and list(moved.key_ids.values()) == [5]
        assert veilstream.arrow.key_ids(tokens) == moved.key_ids and tokens[2].as_py() != honey
        assert veil.arrow.rotate(tokens, "customers.email").counts == {"newest": 5}
        assert not site.lines("honey") and "honey" not in caplog.text
        assert all(line["fields"] == {"email": "revealed"} for line in site.lines("rotate"))
        # It is bait as before.
        shown = veil.arrow.reveal(tokens, "customers.email", errors="null")
        assert shown.counts == {"denied": 5} and pa.array(shown).null_count == 5
        assert len(site.lines("honey")) == 1


class _Schema(ctypes.Structure):
    _fields_ = [("format", ctypes.c_char_p), ("name", ctypes.c_char_p), ("metadata", ctypes.c_char_p),
                ("flags", ctypes.c_int64), ("n_children", ctypes.c_int64), ("children", ctypes.c_void_p),
                ("dictionary", ctypes.c_void_p), ("release", ctypes.c_void_p), ("private", ctypes.c_void_p)]


class _Array(ctypes.Structure):
    _fields_ = [("length", ctypes.c_int64), ("null_count", ctypes.c_int64), ("offset", ctypes.c_int64),
                ("n_buffers", ctypes.c_int64), ("n_children", ctypes.c_int64),
                ("buffers", ctypes.POINTER(ctypes.c_void_p)), ("children", ctypes.c_void_p),
                ("dictionary", ctypes.c_void_p), ("release", ctypes.c_void_p), ("private", ctypes.c_void_p)]


_RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Forged:
    """An array that another library got wrong."""

    def __init__(self, offsets: list[int], data: bytes, length: int) -> None:
        self._offsets = (ctypes.c_int32 * len(offsets))(*offsets)
        self._data = ctypes.create_string_buffer(data, max(len(data), 1))
        self._buffers = (ctypes.c_void_p * 3)(None, ctypes.addressof(self._offsets), ctypes.addressof(self._data))
        self._release_array = _RELEASE(lambda at: setattr(ctypes.cast(at, ctypes.POINTER(_Array)).contents, "release", None))
        self._release_schema = _RELEASE(lambda at: setattr(ctypes.cast(at, ctypes.POINTER(_Schema)).contents, "release", None))
        self._schema = _Schema(b"u", b"", None, 2, 0, None, None, ctypes.cast(self._release_schema, ctypes.c_void_p), None)
        self._array = _Array(length, 0, 0, 3, 0, self._buffers, None, None, ctypes.cast(self._release_array, ctypes.c_void_p), None)

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return (new(ctypes.addressof(self._schema), b"arrow_schema", None),
                new(ctypes.addressof(self._array), b"arrow_array", None))


def test_arrays_are_checked_before_they_are_read(shared: tuple[Site, Veil]) -> None:
    _, veil = shared
    good = Forged([0, 1, 3], b"abc", 2)
    assert veil.arrow.reveal(good, "customers.email", errors="null").counts == {"clear": 2}
    for forged in (
        Forged([0, 3, 1], b"abc", 2),
        Forged([2, 1, 3], b"abc", 2),
        Forged([-1, 1, 3], b"abc", 2),
        Forged([0, 1, 2], b"\xff\xfe", 2),
        Forged([0, 1, 2], "é".encode(), 2),
        Forged([0, 1, 2], b"ab", -1),
        Forged([0, 1, 2], b"ab", 2**62),
        Forged([0, 1, -5], b"ab", 2),
    ):
        with pytest.raises(ColumnError):
            veil.arrow.reveal(forged, "customers.email", errors="null")
    # Handed over once: the second time it is gone.
    capsules = pa.array(["vs1.x"]).__arrow_c_array__()

    class Twice:
        def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
            return capsules

    assert veil.arrow.reveal(Twice(), "customers.email", errors="null").counts == {"corrupt": 1}
    with pytest.raises(ColumnError):
        veil.arrow.reveal(Twice(), "customers.email")


def test_other_threads_run_meanwhile(shared: tuple[Site, Veil]) -> None:
    """Python's lock is free while a column is opened: another thread counts on."""
    _, veil = shared
    tokens = pa.array(veil.arrow.seal(pa.array(["ada@example.com"] * 50_000), "customers.email"))
    counted, stop = 0, threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = counted
        veil.arrow.reveal(tokens, "customers.email")
        assert counted - before > 1000
    finally:
        stop.set()
        thread.join()
