"""Values and rows with keys in process."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable

import pytest

from in_process import CONFIG, Site
from veilstream import (
    AsyncVeil,
    BindingError,
    ConfigError,
    FieldInfo,
    IndexInfo,
    NotPicklable,
    NotRevealed,
    NotSearchable,
    PurposeError,
    Rejected,
    UnknownField,
    Veil,
    VeilError,
)

CANARY = "canary-4242-ada@example.com"
VALUES = ["ada@example.com", "", "Ünïcödé \"\\ \u2028", 0, -7, 10**15, 1.5, True, [1, "a"], {"b": None}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_was_sealed_opens_again(veil: Veil, value: object) -> None:
    token = veil.seal("customers.plan" if not isinstance(value, str) else "customers.email", value)  # type: ignore[arg-type]
    assert token.startswith("vs1.")
    field = "customers.email" if isinstance(value, str) else "customers.plan"
    assert veil.reveal(field, token) == value


def test_a_bound_token_opens_with_its_values_alone(veil: Veil) -> None:
    token = veil.seal("customers.ssn", "078-05-1120", bind={"customer": 42})
    assert veil.reveal("customers.ssn", token, bind={"customer": 42}) == "078-05-1120"
    with pytest.raises(NotRevealed) as refused:
        veil.reveal("customers.ssn", token, bind={"customer": 43})
    assert refused.value.status == "corrupt"
    for bind in (None, {}, {"other": 1}, {"customer": 1, "other": 1}, {"customer": 1.5}, {"customer": True}):
        with pytest.raises(BindingError):
            veil.reveal("customers.ssn", token, bind=bind)
    with pytest.raises(BindingError):
        veil.reveal("customers.email", token, bind={"customer": 42})


def test_a_token_opens_in_the_row_of_its_subject_alone(veil: Veil) -> None:
    token = veil.seal("people.iban", "DE02", subject=7)
    assert veil.reveal("people.iban", token, subject=7) == "DE02"
    assert veil.reveal("people.iban", token, subject="7") == "DE02"
    assert veil.reveal("people.iban", token) == "DE02"
    with pytest.raises(NotRevealed) as refused:
        veil.reveal("people.iban", token, subject=8)
    assert refused.value.status == "corrupt"
    with pytest.raises(BindingError, match="asks for a subject"):
        veil.seal("people.iban", "DE02")
    with pytest.raises(BindingError, match="has no subject"):
        veil.reveal("customers.email", token, subject=7)
    with pytest.raises(BindingError):
        veil.reveal("people.iban", token, subject="")


def test_what_does_not_open_says_why(site: Site, veil: Veil) -> None:
    token = veil.seal("people.iban", "DE02", subject=7)
    other = veil.seal("customers.email", "ada@example.com")
    cases = [
        (token[:-1] + ("A" if token[-1] != "A" else "B"), "corrupt"),
        (other, "corrupt"),
        ("DE02", "clear"),
        ("", "clear"),
        ("vs1.AAAA", "corrupt"),
        (token[:8] + "AAAAAAAAAAAAAAAAAAAA" + token[28:], "key_unavailable"),
    ]
    for given, status in cases:
        with pytest.raises(NotRevealed) as refused:
            veil.reveal("people.iban", given)
        assert (refused.value.status, refused.value.field) == (status, "people.iban"), given
    site.cli("shred", "--config", "veilstream.toml", "--subject", "7", "--reason", "asked")
    with Veil.open(site.config) as again:
        with pytest.raises(NotRevealed) as refused:
            again.reveal("people.iban", token)
        assert refused.value.status == "erased"
        with pytest.raises(Rejected) as rejected:
            again.seal("people.iban", "DE02", subject=7)
        assert rejected.value.code == "erased_subject"


def test_unknown_names_are_told(veil: Veil) -> None:
    for name in ("customers.nothing", "nothing.email", "customers", "@nothing", ""):
        with pytest.raises(UnknownField):
            veil.reveal(name, "vs1.x")
    with pytest.raises(UnknownField):
        veil.reveal_many([{}], schema="nothing")
    with pytest.raises(UnknownField):
        veil.reveal_many([{}], schema="customers", fields=["nothing"])


def test_indexes_find_what_the_pipeline_writes(site: Site, veil: Veil) -> None:
    event = {"id": 1, "email": "Ada@Example.com", "plan": "gold", "phone": "+1 555-0101"}
    written = json.loads(
        site.cli(
            "transform", "--config", "veilstream.toml", "--schema", "schemas/customers.json",
            input=json.dumps(event),
        )
    )
    found = veil.index("customers.email", "ada@example.com")
    assert found.into == "email_bidx" and not found.recheck
    assert written["email_bidx"] in found.values
    plan = veil.index("customers.plan", "gold")
    assert plan.recheck and written["plan_bidx"] in plan.values
    assert veil.seal("customers.phone", "15550101") == written["phone"]
    # Nothing is left of it, so no row has it.
    assert veil.index("customers.phone", "none").values == ()
    with pytest.raises(NotSearchable):
        veil.index("customers.ssn", "078-05-1120")
    with pytest.raises(NotSearchable):
        veil.index("customers.email", {"a": 1, "b": 2})


def test_deterministic_tokens_are_equal_for_equal_values(veil: Veil) -> None:
    one, other = veil.seal("customers.country", "DE"), veil.seal("customers.country", "DE")
    assert one == other != veil.seal("customers.country", "FR")
    assert veil.reveal("customers.country", one) == "DE"


def test_rows_open_as_the_pipeline_protected_them(site: Site, veil: Veil) -> None:
    event = {"id": 1, "email": "ada@example.com", "ssn": "078-05-1120", "notes": ["a", "b"], "n": 1}
    written = veil.transform("customers", event)
    assert str(written["email"]).startswith("vs1.") and written["n"] == 1
    broken = {**written, "notes": [written["notes"][0], "in clear"]}  # type: ignore[index]
    planted = {**written, "id": 2}
    rows: list[object] = [written, broken, planted, {"id": 3}, 5, {"a": {1, 2}}, {"email": "x@y.z"}]
    told = veil.reveal_many(rows, schema="customers")  # type: ignore[arg-type]
    assert told[0].status == "ok" and told[0].record == event
    assert {name: what.status for name, what in told[0].fields.items()} == {
        "email": "revealed", "ssn": "revealed", "notes": "revealed",
        "country": "absent", "phone": "absent", "plan": "absent",
    }
    notes = told[1].fields["notes"]
    assert notes.status == "revealed" and dict(notes.places)["$['notes'][1]"] == "clear"
    assert told[1].record is not None and told[1].record["notes"] == ["a", None]
    assert told[2].fields["ssn"].status == "corrupt"
    assert told[3].fields["email"].status == "absent"
    assert [row.status for row in told[4:]] == ["malformed", "malformed", "ok"]
    assert told[6].fields["email"].status == "clear" and told[6].record == {"email": None}
    only = veil.reveal_many([written], "customers", fields=["email"])[0]
    assert list(only.fields) == ["email"] and only.record is not None
    assert only.record["ssn"] is None and "078-05-1120" not in repr(only.record)
    assert "ada" not in repr(told)


def test_an_event_that_does_not_fit_is_rejected(veil: Veil) -> None:
    for schema, event, code in [
        ("people", {"email": "a@b.c"}, "missing_subject"),
        ("customers", {"email": "a@b.c", "email_bidx": "x"}, "reserved_member"),
        ("customers", {"email": float("nan")}, "unsupported_value"),
    ]:
        with pytest.raises(Rejected) as rejected:
            veil.transform(schema, event)
        assert rejected.value.code == code


def test_fields_tell_what_their_schema_says(veil: Veil) -> None:
    assert veil.field("customers.ssn") == FieldInfo(
        "customers", "ssn", ("customer",), False, False, (), "vs1", False
    )
    assert veil.field("customers.email").indexes == (IndexInfo("email_bidx", 128, True),)
    assert veil.field("customers.plan").indexes == (IndexInfo("plan_bidx", 12, False),)
    assert veil.field("people.iban").has_subject
    assert veil.field("customers.country").deterministic


def test_every_call_leaves_a_line(site: Site, veil: Veil) -> None:
    token = veil.seal("people.iban", "DE02", subject=7)
    with veil.purpose("support", reason="ticket 4711"):
        veil.reveal("people.iban", token)
        veil.reveal_many([{"id": 7, "iban": token}], "people")
        veil.index("people.email", "ada@example.com")
    with pytest.raises(NotRevealed):
        veil.reveal("people.iban", "vs1.x")
    reveals = site.lines("reveal")
    assert len(reveals) == 3
    for line in reveals[:2]:
        assert line["purpose"] == "support" and line["reason"] == "ticket 4711"
        assert line["fields"] == {"iban": "revealed"} and line["schema"] == "people"
        assert line["outcome"] == "ok" and len(str(line["subject"])) == 32 and line["items"] == 1
    assert reveals[2]["outcome"] == "failed" and "purpose" not in reveals[2]
    search = site.lines("search")[0]
    assert search["fields"] == {"email": "revealed"} and search["purpose"] == "support"
    veil.close()
    assert "stop" in [line["event"] for line in site.lines()[-2:]]
    site.verify()


def test_without_its_line_no_value_is_handed_out(site: Site, veil: Veil) -> None:
    """A disk that is full: the log takes no line, so nothing comes out."""
    token = veil.seal("customers.email", CANARY)
    veil.close()
    program = """
import os, resource, sys
from veilstream import AuditError, Veil
veil = Veil.open(sys.argv[1])
print(veil.reveal("customers.email", sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
for call in (
    lambda: veil.reveal("customers.email", sys.argv[2]),
    lambda: veil.reveal_many([{"email": sys.argv[2]}], "customers"),
    lambda: veil.index("customers.email", "a"),
):
    try:
        call()
    except AuditError as error:
        print("refused", "canary" in repr(error), flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, site.config, token],
        cwd=site.folder, capture_output=True, text=True, check=True,
    )
    assert done.stdout.splitlines() == [CANARY, *["refused False"] * 3], done.stderr
    with pytest.raises(VeilError, match="closed"):
        veil.reveal("customers.email", token)


def test_purposes_are_those_of_the_configuration(veil: Veil) -> None:
    token = veil.seal("customers.email", "ada@example.com")
    for name, reason in [("suport", "ticket 1"), ("support", None), ("support", "because"), ("billing", "x" * 201)]:
        with veil.purpose(name, reason), pytest.raises(PurposeError):
            veil.reveal("customers.email", token)
    with veil.purpose("billing"):
        with veil.purpose("support", "ticket 1"):
            assert veil.reveal("customers.email", token) == "ada@example.com"
        assert veil.reveal("customers.email", token) == "ada@example.com"


def test_without_an_audit_it_must_be_said(site: Site) -> None:
    site.config.write_text(CONFIG)
    with pytest.raises(ConfigError, match="unaudited=True"):
        Veil.open(site.config)
    with Veil.open(site.config, unaudited=True) as veil:
        assert veil.reveal("customers.email", veil.seal("customers.email", "a")) == "a"


def test_faults_of_the_configuration_are_told(site: Site) -> None:
    with pytest.raises(ConfigError, match="nothing.toml"):
        Veil.open(site.folder / "nothing.toml")
    schemas = '[schemas]\ndir = "schemas"\n[keys]\n'
    for keys in ('store = "kafka:keys"\nledger = "kafka:erasures"', 'ledger = "kafka:erasures"'):
        site.config.write_text(schemas + keys)
        with pytest.raises(ConfigError, match=r"use Veil\.connect"):
            Veil.open(site.config, unaudited=True)


def test_a_changed_schema_comes_into_force(site: Site) -> None:
    site.config.write_text(CONFIG.replace('dir = "schemas"', 'dir = "schemas"\nreload_interval = "1s"') + "")
    with Veil.open(site.config, unaudited=True) as veil:
        document = {"veilstream": 1, "name": "late", "version": 1, "fields": [{"id": "a", "path": "$.a"}]}
        site.document(document)
        for _ in range(100):
            try:
                assert veil.field("late.a").schema == "late"
                break
            except UnknownField:
                threading.Event().wait(0.1)
        else:
            pytest.fail("the schema did not come into force")


def test_no_plaintext_in_errors(veil: Veil) -> None:
    """What is raised with a value in hand says nothing of it."""
    token = veil.seal("people.iban", CANARY, subject=7)
    nested: dict[str, object] = {"email": CANARY}
    nested["self"] = nested
    calls: list[Callable[[], object]] = [
        lambda: veil.seal("people.iban", CANARY),
        lambda: veil.seal("people.iban", {"a": CANARY, "b": {1}}, subject=7),  # type: ignore[dict-item]
        lambda: veil.seal("customers.nothing", CANARY),
        lambda: veil.seal("customers.ssn", CANARY, bind={"customer": 1.5}),
        lambda: veil.seal("people.iban", CANARY, subject=b"x"),  # type: ignore[arg-type]
        lambda: veil.index("customers.ssn", CANARY),
        lambda: veil.index("customers.email", {"a": CANARY, "b": CANARY}),
        lambda: veil.transform("people", {"email": CANARY}),
        lambda: veil.transform("people", nested),
        lambda: veil.transform("people", {"id": 1, "email": CANARY, "email_bidx": CANARY}),
        lambda: veil.reveal("people.iban", token, subject=8),
        lambda: veil.reveal("people.iban", token, bind={"x": CANARY}),
        lambda: veil.reveal("people.iban", CANARY),
        lambda: veil.reveal_many([{"id": 1, "email": CANARY}], "nothing"),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(VeilError) as raised:
            call()
        error: BaseException | None = raised.value
        told = "".join(traceback.format_exception(raised.value))
        while error is not None:
            told += repr(error) + repr(error.args) + repr(vars(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        assert CANARY not in told and token not in told, number


def test_async_calls_with_keys_in_process(site: Site) -> None:
    """Tasks that run at once keep their purposes apart."""

    async def read(veil: AsyncVeil, n: int) -> object:
        with veil.purpose("support", reason=f"ticket {n}"):
            token = await veil.seal("people.email", f"{n}@example.com", subject=n)
            return await veil.reveal("people.email", token, subject=n)

    async def main() -> None:
        async with AsyncVeil.open(site.config) as veil:
            with pytest.raises(NotPicklable):
                pickle.dumps(veil)
            told = await asyncio.gather(*[read(veil, n) for n in range(20)])
            assert told == [f"{n}@example.com" for n in range(20)]
            event = await veil.transform("people", {"id": 7, "email": "a@example.com"})
            (row,) = await veil.reveal_many([event], "people", ["email"])
            assert row.record["email"] == "a@example.com"
            found = await veil.index("people.email", "A@example.com")
            assert found == veil.veil.index("people.email", "a@example.com")
            assert veil.field("people.email").has_subject
            assert "toml" not in repr(veil)
        with pytest.raises(VeilError, match="closed"):
            veil.veil.seal("people.email", "a@example.com", subject=7)

    asyncio.run(main())
    reasons = [line["reason"] for line in site.lines("reveal") if "reason" in line]
    assert sorted(reasons) == sorted(f"ticket {n}" for n in range(20))
    site.verify()


def test_nothing_of_it_pickles_or_shows(veil: Veil) -> None:
    for thing in (veil, veil.backend):
        with pytest.raises(NotPicklable):
            pickle.dumps(thing)
    with pytest.raises(TypeError):
        pickle.dumps(veil.backend.engine)  # type: ignore[attr-defined]
    assert "toml" not in repr(veil)
    for error in (NotRevealed("a.b", "erased"), Rejected("wrong_type", "a", "b")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.args, vars(again)) == (type(error), error.args, vars(error))
