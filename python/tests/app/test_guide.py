"""The guide's application, before and after: same requests, same answers, on PostgreSQL."""

from __future__ import annotations

import difflib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.fernet import Fernet
from fastapi.testclient import TestClient
from pg import Postgres
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from world import ROOT, World

import veilstream
from veilstream import Veil, guide
from veilstream.guide import EncryptionService, KeyRotationService, audit_pii_access

GUIDE = ROOT / "examples/guide"
ACTOR = {"X-Actor": "ana@corp"}
CANARY = "guide.canary@example.com"


def load(name: str, folder: Path = GUIDE) -> ModuleType:
    """A module of the example; its settings are those of the environment."""
    for known in ("settings", name):
        sys.modules.pop(known, None)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def guide_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    schema = json.loads((GUIDE / "users.json").read_text())
    return World(tmp_path_factory.mktemp("guide"), {"users": schema})


@pytest.fixture
def settings(
    postgres: Postgres, guide_world: World, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """The environment of the example, and a database of its own for each of the two."""
    admin = create_engine(postgres.url("psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for name in ("before", "after"):
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    monkeypatch.syspath_prepend(str(GUIDE))
    monkeypatch.setenv("PGCRYPTO_KEY", "passphrase of the guide")
    monkeypatch.setenv("VEILSTREAM_CONFIG", str(guide_world.config))
    yield monkeypatch
    guide._guide.veil = guide._guide.field = guide._guide.purpose = None


def application(
    postgres: Postgres, settings: pytest.MonkeyPatch, name: str, key: str | None = None
) -> tuple[TestClient, ModuleType]:
    settings.setenv("DATABASE_URL", postgres.url("psycopg", name))
    settings.setenv("ENCRYPTION_KEY", key or Fernet.generate_key().decode())
    if name == "after":
        # The key store would take it for its own.
        settings.delenv("ENCRYPTION_KEY")
    module = load(name)
    with module.engine.begin() as connection:
        connection.execute(text("CREATE EXTENSION pgcrypto"))
        connection.execute(text("CREATE SEQUENCE IF NOT EXISTS users_id_seq"))
        if name == "before":
            connection.execute(text("DROP SEQUENCE users_id_seq"))
    module.Base.metadata.create_all(module.engine)
    return TestClient(module.app), module


def answers(client: TestClient) -> list[tuple[int, Any]]:
    """What it says to the same requests."""
    people: list[dict[str, str | None]] = [
        {"name": "Ada", "email": CANARY, "phone": "+1 415 555 0101", "ssn": "078-05-1120"},
        {"name": "Bob", "email": "bob@example.com", "phone": None, "ssn": None},
        {"name": "Ada again", "email": CANARY.upper(), "phone": "0049 30 1", "ssn": "078-05-1121"},
    ]
    said = [client.post("/users", json=person, headers=ACTOR) for person in people]
    said += [client.get(f"/users/{n}", headers=ACTOR) for n in (1, 2, 3, 4)]
    for email in (CANARY, f" {CANARY.title()} ", "nobody@example.com"):
        said.append(client.get("/users/search", params={"email": email}, headers=ACTOR))
    changed = {**people[1], "email": "robert@example.com", "ssn": "219-09-9999"}
    said.append(client.put("/users/2", json=changed, headers=ACTOR))
    for email in ("bob@example.com", "robert@example.com"):
        said.append(client.get("/users/search", params={"email": email}, headers=ACTOR))
    said.append(client.get("/users/2/ssn", params={"reason": "ticket 4711"}, headers=ACTOR))
    said += [client.get(f"/users/{n}/access-log") for n in (1, 2)]
    return [(one.status_code, one.json()) for one in said]


def test_both_give_the_same_answers(
    postgres: Postgres, settings: pytest.MonkeyPatch, guide_world: World
) -> None:
    before, old = application(postgres, settings, "before")
    after, new = application(postgres, settings, "after")
    wanted = answers(before)
    assert [status for status, _ in wanted[:7]] == [201, 201, 201, 200, 200, 200, 404]
    assert [user["id"] for user in wanted[7][1]] == [1, 3]
    assert answers(after) == wanted
    with new.engine.connect() as connection:
        rows = list(connection.execute(text("SELECT email, phone, ssn, email_bidx FROM users")))
    assert all(value is None or value.startswith("vs1.") for row in rows for value in row[:3])
    lines = [line for line in guide_world.audited() if line["event"] == "reveal"]
    assert {line["purpose"] for line in lines} == {"support"}
    assert "ticket 4711" in {line["reason"] for line in lines}
    assert CANARY not in guide_world.audit_text()
    with Session(new.engine) as session, new.veil.purpose("support"):
        tokens = list(session.execute(text("SELECT email, ssn FROM users ORDER BY id")))
        done = KeyRotationService(session).rotate(new.User, batch_size=2)
        assert (done.rows, done.failed) == (3, 0)
        again = list(session.execute(text("SELECT email, ssn FROM users ORDER BY id")))
        assert all(a[0] != b[0] for a, b in zip(tokens, again, strict=True))
    assert answers_of_reads(after) == answers_of_reads(before)
    for module in (old, new):
        module.engine.dispose()
    new.veil.close()


def answers_of_reads(client: TestClient) -> list[Any]:
    users = [client.get(f"/users/{n}", headers=ACTOR).json() for n in (1, 2, 3)]
    found = client.get("/users/search", params={"email": CANARY}, headers=ACTOR).json()
    return [*users, found]


@pytest.mark.parametrize("names", [("before.py", "after.py"), ("after.py", "during.py")])
def test_the_diff_in_the_document_is_the_diff(names: tuple[str, str]) -> None:
    document = (ROOT / "docs/from-the-guide.md").read_text()
    old, new = ((GUIDE / name).read_text().splitlines() for name in names)
    lines = difflib.unified_diff(old, new, *names, n=1, lineterm="")
    assert "```diff\n" + "\n".join(lines) + "\n```" in document


def test_the_service_of_the_guide(veil: Veil, engine: Engine) -> None:
    service = EncryptionService(field="notes.text", veil=veil)
    token = service.encrypt("hello")
    assert token is not None and service.decrypt(token) == "hello"
    assert service.encrypt(None) is None and service.decrypt(None) is None
    assert service.hash_for_search("HELLO") == service.hash_for_search("hello")
    assert service.search_values("  ") == [] and service.hash_for_search("  ") is None
    for key in (b"key", Fernet.generate_key()):
        with pytest.raises(veilstream.ConfigError, match="migrate"):
            EncryptionService(key, field="notes.text", veil=veil)
    people = EncryptionService(field="people.email", veil=veil)
    tied = people.encrypt("a@x.org", subject=7)
    with pytest.raises(veilstream.NotRevealed):
        people.decrypt(tied, subject=8)
    with pytest.raises(veilstream.ConfigError, match="guide.field"):
        EncryptionService(veil=veil)


def test_the_section_says_what_the_names_stand_for(
    guide_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = guide_world.config.read_text()
    section = '[guide]\nfield = "users.email"\npurpose = "support"\n'
    config = guide_world.folder / "guide.toml"
    config.write_text(text.replace("[log]\n", f"{section}[log]\n"))
    monkeypatch.setenv("VEILSTREAM_CONFIG", str(config))
    assert guide._guide.veil is None and guide._guide.field is None
    try:
        service = EncryptionService()
        assert repr(service) == "EncryptionService('users.email')"

        @audit_pii_access("read", ["email"])
        def read(token: str | None) -> str | None:
            return service.decrypt(token, subject=7)

        with guide.the_veil().purpose("support"):
            token = service.encrypt("a@x.org", subject=7)
        assert read(token) == "a@x.org"
        # The program's own word goes first.
        assert repr(EncryptionService(field="users.phone")) == "EncryptionService('users.phone')"
        config.write_text(config.read_text().replace('purpose = "support"', 'purpose = "none"'))
        guide.the_veil().close()
        guide._guide.veil = None
        with pytest.raises(veilstream.ConfigError, match="guide.purpose"):
            EncryptionService()
    finally:
        guide._guide.veil = None


def test_the_access_log_of_the_guide(veil: Veil, world: World) -> None:
    with veil.purpose("support"):
        token = veil.seal("notes.text", "hello")

    @audit_pii_access("read", ["text"], purpose="fraud", veil=veil)
    def read(reason: str | None = None, actor: str | None = None) -> object:
        return veil.reveal("notes.text", token)

    @audit_pii_access("export", purpose="support", veil=veil)
    async def export() -> object:
        return veil.reveal("notes.text", token)

    import asyncio

    before = len(world.audited())
    assert read(reason="case 17", actor="ana@corp") == read() == asyncio.run(export()) == "hello"
    lines = [line for line in world.audited()[before:] if line["event"] == "reveal"]
    told = [(line["purpose"], line["reason"], line.get("on_behalf_of")) for line in lines]
    assert told == [
        ("fraud", "case 17", "ana@corp"),
        ("fraud", "read: text", None),
        ("support", "export", None),
    ]
    with veil.purpose("support", request_id="run-5"):
        veil.reveal("notes.text", token)
    assert world.audited()[-1]["request_id"] == "run-5"
    with veil.purpose("support", on_behalf_of="a" * 201), pytest.raises(veilstream.PurposeError):
        veil.reveal("notes.text", token)
