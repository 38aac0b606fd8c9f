"""``Sealed`` shows nothing, and gives its token where it is stored or sent."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

import veilstream
from veilstream import NotSealed, Sealed, Veil
from veilstream.pydantic import Of

TOKEN = "vs1.token"


class Account(BaseModel):
    model_config = ConfigDict(from_attributes=True, hide_input_in_errors=True)

    iban: Annotated[Sealed[str], Of("people.iban")]
    other: Sealed[str] | None = None


def test_it_shows_its_field_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    for value in (Sealed("people.iban", TOKEN), Sealed.waiting("people.iban", "canary")):
        shown = [repr(value), str(value), f"{value}", f"{value!r:>5}", f"{value:>99}", "%s" % value]
        assert set(shown) == {"<sealed people.iban>"}
        logging.getLogger("x").error("%s %r", value, [value])
        assert "canary" not in caplog.text
        with pytest.raises(TypeError):
            json.dumps({"iban": value})
        with pytest.raises(veilstream.NotRevealed):
            "".join(value)
        assert not hasattr(value, "__dict__")


def test_it_is_its_token() -> None:
    value: Sealed[str] = Sealed("people.iban", TOKEN, subject=7)
    assert value == Sealed("people.iban", TOKEN) and hash(value) == hash(
        Sealed[str]("people.iban", TOKEN)
    )
    assert value != Sealed("people.ssn", TOKEN) and value != TOKEN
    again = pickle.loads(pickle.dumps(value))
    assert again == value and again.token == TOKEN and again._subject == 7
    assert copy.deepcopy(value) is value and copy.copy(value) is value

    @dataclass
    class Holder:
        iban: Sealed[str]

    assert asdict(Holder(value))["iban"] is value
    waiting = Sealed.waiting("people.iban", "canary")
    with pytest.raises(NotSealed):
        _ = waiting.token
    with pytest.raises(veilstream.NotPicklable) as refused:
        pickle.dumps(waiting)
    assert "canary" not in str(refused.value)
    with pytest.raises(veilstream.ConfigError):
        value.reveal()


def test_it_opens_by_whoever_is_given(veil: Veil) -> None:
    with veil.purpose("support"):
        token = veil.seal("people.iban", "DE89", subject=7)
        assert Sealed[str]("people.iban", token, subject=7, veil=veil).reveal() == "DE89"
        bare: Sealed[str] = Sealed("people.iban", token)
        assert bare.reveal(veil, subject=7) == "DE89"
        with pytest.raises(veilstream.NotRevealed):
            bare.reveal(veil, subject=8)
        # The Veil stays in its process.
        with pytest.raises(veilstream.ConfigError):
            pickle.loads(pickle.dumps(Sealed("people.iban", token, subject=7, veil=veil))).reveal()


def test_pydantic_gives_and_takes_tokens() -> None:
    value: Sealed[str] = Sealed("people.iban", TOKEN)
    account = Account(iban=value)
    assert account.model_dump() == {"iban": TOKEN, "other": None}
    assert account.model_dump_json() == '{"iban":"vs1.token","other":null}'
    assert Account.model_validate_json(account.model_dump_json()).iban == value
    assert repr(account) == "Account(iban=<sealed people.iban>, other=None)"

    class Row:
        iban = value
        other = None

    assert Account.model_validate(Row()).iban is value
    assert Account.model_json_schema()["properties"]["iban"]["type"] == "string"
    refused: list[Any] = [
        {"iban": "canary"},
        {"iban": value, "other": TOKEN},
        {"iban": Sealed("people.ssn", TOKEN)},
    ]
    for data in refused:
        with pytest.raises(ValidationError) as fault:
            Account(**data)
        assert "canary" not in str(fault.value)
