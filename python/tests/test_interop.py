"""Fields in the form of Fernet and pgcrypto, with keys in process: the other system reads them too."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
from cryptography.fernet import Fernet, MultiFernet

from in_process import AUDIT, CONFIG, Site
from veilstream import BindingError, ColumnError, ColumnNotRevealed, ConfigError, NotRevealed, Rejected, UnknownField, Veil

OLD, NEW, PAY = (Fernet.generate_key() for _ in range(3))
LEGACY: dict[str, object] = {
    "veilstream": 1,
    "name": "legacy",
    "version": 1,
    "fields": [
        {"id": "mail", "path": "$.mail", "type": "string", "format": "fernet", "index": {"normalize": "email"}},
        {"id": "age", "path": "$.age", "type": "integer", "format": "fernet"},
        {"id": "pay", "path": "$.pay", "type": "string", "format": "fernet", "keys_file": "pay.keys"},
        {"id": "note", "path": "$.note", "type": "string", "format": "pgcrypto"},
    ],
}
INTEROP = """
[interop.fernet]
keys_file = "fernet.keys"
[interop.pgcrypto]
passphrases_file = "pgcrypto.passphrases"
"""
VALUES = {"mail": "ada@example.com", "age": 36, "pay": "DE02 \"\\ Ü", "note": "of hers"}


def secret(site: Site, name: str, *keys: bytes) -> None:
    path = site.folder / name
    path.touch(mode=0o600)
    path.write_bytes(b"\n".join(keys) + b"\n")


@pytest.fixture
def legacy(site: Site) -> Site:
    """A folder whose schemas have such fields, and the keys of the other systems."""
    site.document(LEGACY)
    secret(site, "fernet.keys", NEW, OLD)
    secret(site, "pay.keys", PAY)
    secret(site, "pgcrypto.passphrases", b"correct horse")
    site.config.write_text(CONFIG + AUDIT + INTEROP)
    return site


@pytest.fixture
def other(legacy: Site) -> Iterator[Veil]:
    with Veil.open(legacy.config) as veil:
        yield veil


def test_a_value_is_one_of_the_other_system(legacy: Site, other: Veil) -> None:
    sealed = {name: other.seal(f"legacy.{name}", value) for name, value in VALUES.items()}
    assert Fernet(NEW).decrypt(sealed["mail"]).decode() == "ada@example.com"
    assert Fernet(NEW).decrypt(sealed["age"]) == b"36"
    assert Fernet(PAY).decrypt(sealed["pay"]).decode() == VALUES["pay"]
    assert abs(Fernet(NEW).extract_timestamp(sealed["mail"]) - time.time()) < 120
    for name, value in VALUES.items():
        assert other.reveal(f"legacy.{name}", sealed[name]) == value
    # What the other system wrote, under a key that seals no more too.
    assert other.reveal("legacy.mail", Fernet(OLD).encrypt(b"bob@example.com").decode()) == "bob@example.com"
    # In rows as alone, and as the program reads it.
    (row,) = other.reveal_many([sealed], schema="legacy")
    assert row.record == VALUES and {told.status for told in row.fields.values()} == {"revealed"}
    told = legacy.cli(
        *("reveal", "--config", "veilstream.toml", "--schema", "schemas/legacy.json"),
        input=json.dumps(sealed),
    )
    assert json.loads(told) == VALUES
    lines = [line["fields"] for line in legacy.lines("reveal")]
    assert lines.count({"mail": "revealed"}) == 2 and lines.count({"note": "revealed"}) == 1
    other.close()
    legacy.verify()


def test_a_whole_event_is_protected(other: Veil) -> None:
    written = other.transform("legacy", VALUES)
    assert Fernet(NEW).decrypt(str(written["mail"])).decode() == "ada@example.com"
    assert written["mail_bidx"] in other.index("legacy.mail", "ADA@example.com").values
    (row,) = other.reveal_many([written], schema="legacy")
    assert row.record == VALUES


def test_what_does_not_open_is_no_value(other: Veil) -> None:
    text, stranger = other.seal("legacy.mail", "ada@example.com"), Fernet.generate_key()
    note = other.seal("legacy.note", "of hers")
    token = other.seal("customers.email", "ada@example.com")
    flipped = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    cases = [
        ("mail", Fernet(stranger).encrypt(b"x").decode(), "corrupt"),
        ("mail", flipped, "corrupt"),
        ("pay", text, "corrupt"),
        ("age", text, "corrupt"),
        # Cut, as by a narrow column: ciphertext all the same.
        ("mail", text[:-3], "corrupt"),
        ("note", note[:-3], "corrupt"),
        # A token of ours, as versions before wrote it here.
        ("mail", token, "corrupt"),
        ("note", token, "corrupt"),
        ("mail", "ada@example.com", "clear"),
        ("note", "of hers", "clear"),
    ]
    for field, given, status in cases:
        with pytest.raises(NotRevealed) as refused:
            other.reveal(f"legacy.{field}", given)
        assert refused.value.status == status, (field, given)
        opened = other.arrow.reveal(pa.array([given]), f"legacy.{field}", errors="null")
        assert (pa.array(opened).to_pylist(), opened.counts) == ([None], {status: 1}), (field, given)


def test_nothing_ties_a_text_to_a_row(other: Veil) -> None:
    text = other.seal("legacy.mail", "ada@example.com")
    for more in ({"bind": {"id": 1}}, {"subject": 7}):
        with pytest.raises(BindingError):
            other.seal("legacy.mail", "ada@example.com", **more)  # type: ignore[arg-type]
        with pytest.raises(BindingError):
            other.reveal("legacy.mail", text, **more)  # type: ignore[arg-type]
        with pytest.raises(BindingError):
            other.arrow.seal(pa.array(["x"]), "legacy.mail", **more)  # type: ignore[arg-type]
        with pytest.raises(BindingError):
            other.arrow.reveal(pa.array([text]), "legacy.mail", **more)  # type: ignore[arg-type]


def test_what_the_schema_does_not_take_is_rejected(other: Veil) -> None:
    for field, value, code in [
        ("age", "many", "wrong_type"),
        ("mail", 1, "wrong_type"),
        ("note", "a\0b", "unsupported_value"),
    ]:
        with pytest.raises(Rejected) as rejected:
            other.seal(f"legacy.{field}", value)
        assert rejected.value.code == code
        with pytest.raises(Rejected) as rejected:
            other.arrow.seal(pa.array([value]), f"legacy.{field}")
        assert rejected.value.code == code


def test_columns_are_the_other_system_s(other: Veil) -> None:
    values = [f"{n}@example.com" for n in range(50)] + [None, 'Ü "\\']
    sealed = other.arrow.seal(pa.array(values), "legacy.mail")
    assert sealed.counts == {"sealed": 51}
    texts = pa.array(sealed).to_pylist()
    assert [t and Fernet(NEW).decrypt(t).decode() for t in texts] == values
    assert len(set(texts)) == 52
    opened = other.arrow.reveal(pa.array(texts), "legacy.mail")
    assert pa.array(opened).to_pylist() == values and opened.counts == {"revealed": 51}
    notes = pa.array(other.arrow.seal(pa.array(["a", "b"]), "legacy.note"))
    assert pa.array(other.arrow.reveal(notes, "legacy.note")).to_pylist() == ["a", "b"]
    ages = pa.array(other.arrow.seal(pa.array([1, 2]), "legacy.age"))
    assert pa.array(other.arrow.reveal(ages, "legacy.age")).to_pylist() == ["1", "2"]
    with pytest.raises(ColumnNotRevealed):
        other.arrow.reveal(pa.array([Fernet(Fernet.generate_key()).encrypt(b"x").decode()]), "legacy.mail")
    assert pa.array(other.arrow.index(pa.array(["ADA@example.com"]), "legacy.mail"))[0].as_py() in other.index("legacy.mail", "ada@example.com").values


def test_a_column_rotates_where_its_keys_are(other: Veil) -> None:
    texts = pa.array([Fernet(OLD).encrypt(b"ada@example.com").decode()])
    with pytest.raises(ColumnError, match=r"legacy\.mail.*fernet.*reveal.*seal"):
        other.arrow.rotate(texts, "legacy.mail")
    again = pa.array(other.arrow.seal(other.arrow.reveal(texts, "legacy.mail"), "legacy.mail"))
    assert Fernet(NEW).decrypt(again[0].as_py()) == b"ada@example.com"
    assert MultiFernet([Fernet(OLD), Fernet(NEW)]).decrypt(again[0].as_py()) == b"ada@example.com"


def test_without_their_keys_nothing_opens(legacy: Site) -> None:
    legacy.config.write_text(CONFIG + AUDIT)
    with pytest.raises(ConfigError, match=r"field legacy\.\w+ is \w+, and no file has its keys; set interop"):
        Veil.open(legacy.config)
    legacy.config.write_text(CONFIG + AUDIT + INTEROP)
    (legacy.folder / "pay.keys").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Veil.open(legacy.config)


def test_a_schema_that_comes_later_brings_its_keys(site: Site) -> None:
    secret(site, "fernet.keys", NEW)
    reload = CONFIG.replace("[schemas]", '[schemas]\nreload_interval = "1s"')
    site.config.write_text(reload + AUDIT + INTEROP)
    with Veil.open(site.config) as veil:
        fields = LEGACY["fields"]
        assert isinstance(fields, list)
        # Without its keys it does not come into force, look after look.
        site.document(LEGACY | {"fields": fields[:1] + fields[3:]})
        end = time.monotonic() + 3
        while time.monotonic() < end:
            with pytest.raises(UnknownField):
                veil.seal("legacy.mail", "ada@example.com")
        secret(site, "pgcrypto.passphrases", b"correct horse")
        text, end = None, time.monotonic() + 60
        while text is None:
            assert time.monotonic() < end
            with contextlib.suppress(UnknownField):
                text = veil.seal("legacy.mail", "ada@example.com")
        assert Fernet(NEW).decrypt(text) == b"ada@example.com"
        assert veil.reveal("legacy.mail", text) == "ada@example.com"
