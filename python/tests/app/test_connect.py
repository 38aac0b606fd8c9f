"""``Veil.connect`` and ``AsyncVeil`` against a running service."""

from __future__ import annotations

import asyncio
import http.server
import json
import pickle
import socket
import subprocess
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from world import Service, World, forked

import veilstream
from veilstream import AsyncVeil, Veil
from veilstream._columns import RowColumn, open_columns
from veilstream._http import Http

EMAIL = "ada.canary@example.com"


@pytest.fixture
def veil(world: World, service: Service, app_key: Path) -> Iterator[Veil]:
    url = f"http://{service.address}"
    with Veil.connect(url, token=app_key, schemas=world.folder / "schemas") as veil:
        yield veil


def customer(number: int, email: str = EMAIL) -> dict[str, Any]:
    return {
        "type": "customer.updated",
        "customer": {"id": number, "email": email, "ssn": "078-05-1120"},
        "phone": "+1 415 555 0101",
    }


def test_what_is_sealed_is_found_and_opened(veil: Veil) -> None:
    with veil.purpose("support", reason="ticket 4711"):
        token = veil.seal("customers.email", EMAIL, subject=42)
        assert token.startswith("vs1.")
        assert veil.reveal("customers.email", token, subject=42) == EMAIL
        bound = veil.seal("customers.ssn", "078-05-1120", bind={"customer": 42}, subject=42)
        assert veil.reveal("customers.ssn", bound, {"customer": 42}, 42) == "078-05-1120"
        with pytest.raises(veilstream.NotRevealed) as other:
            veil.reveal("customers.email", token, subject=43)
        assert other.value.status == "corrupt"
        with pytest.raises(veilstream.NotRevealed) as elsewhere:
            veil.reveal("customers.ssn", bound, {"customer": 43}, 42)
        assert elsewhere.value.status == "corrupt"
        found = veil.index("customers.email", EMAIL.upper())
        assert found == veil.index("customers.email", EMAIL)
        assert found.recheck and found.values[0].startswith("1~")
        assert veil.index("customers.ssn", "no digits").values == ()
        with pytest.raises(veilstream.Denied):
            veil.index("customers.nowhere", "x")
        with pytest.raises(veilstream.BindingError):
            veil.seal("customers.email", EMAIL)
        with pytest.raises(veilstream.Rejected):
            veil.seal("customers.email", float("nan"), subject=42)
    with pytest.raises(veilstream.NeedsKeys):
        veil.transform("customers", {})
    info = veil.field("customers.ssn")
    assert info.binds == ("customer",) and info.has_subject and info.indexes[0].unique
    assert not veil.field("customers.email").indexes[0].unique
    assert veil.field("customers.card").deterministic
    with pytest.raises(veilstream.UnknownField):
        veil.field("customers.nowhere")


def test_rows_are_cut_to_what_a_request_takes(veil: Veil, world: World) -> None:
    records = world.transform("customers", *[customer(n, f"c{n}@example.com") for n in range(25)])
    rows = [records[n % 25] for n in range(2101)]
    before = len(world.audited())
    with veil.purpose("support"):
        results = veil.reveal_many(iter(rows), "customers", ["email"])
        assert len(results) == 2101
        for n, result in enumerate(results):
            assert result.record is not None
            assert result.record["customer"]["email"] == f"c{n % 25}@example.com"  # type: ignore
            assert result.fields["email"].status == "revealed"
        lines = [line for line in world.audited()[before:] if line.get("event") == "reveal"]
        requests = {line["request_id"] for line in lines}
        assert len(requests) == 3
        # By size, too: eight of these are more than a request takes.
        big = {**records[0], "pad": "x" * (1 << 20)}
        assert len(veil.reveal_many([big] * 20, "customers", ["email"])) == 20
        # One that fails does not take the others along.
        broken = {**records[1], "customer": {**records[1]["customer"], "email": "vs1.AAAA"}}
        odd = veil.reveal_many([records[0], broken, {}], "customers", ["email"])
        assert [row.fields.get("email") and row.fields["email"].status for row in odd] == [
            "revealed",
            "corrupt",
            "absent",
        ]
        assert EMAIL not in repr(odd)


def test_masks_are_told_apart(world: World, service: Service, desk_key: Path, veil: Veil) -> None:
    with veil.purpose("support"):
        token = veil.seal("customers.phone", "+1 415 555 0101", subject=42)
    url = f"http://{service.address}"
    with Veil.connect(url, token=desk_key) as desk, desk.purpose("support"):
        shown = desk.reveal("customers.phone", token, subject=42)
        assert shown == "********0101" and isinstance(shown, veilstream.Masked)
        with pytest.raises(veilstream.Rejected):
            veil.seal("customers.phone", shown, subject=42)
        with pytest.raises(veilstream.NotRevealed):
            desk.reveal("customers.email", token, subject=42)
        with pytest.raises(veilstream.Denied):
            desk.seal("customers.phone", "+1 415 555 0102", subject=42)
        with pytest.raises(veilstream.ConfigError, match="schemas="):
            desk.field("customers.phone")
    with Veil.connect(url, token=desk_key, want="reveal") as desk, desk.purpose("support"):
        with pytest.raises(veilstream.NotRevealed):
            desk.reveal("customers.phone", token, subject=42)


def test_columns_are_opened_row_by_row(
    world: World, service: Service, desk_key: Path, veil: Veil
) -> None:
    with veil.purpose("support"):
        emails = [veil.seal("customers.email", f"{n}@example.com", subject=n) for n in range(3)]
        ssn = veil.seal("customers.ssn", "078-05-1120", bind={"customer": 1}, subject=1)
        before = len(world.audited())
        # A token whose row does not say whose it is would open as one of any row.
        told = open_columns(
            veil,
            [
                RowColumn("customers.email", [*emails, emails[2], "clear"], [0, 1, 1, None, 4]),
                RowColumn("customers.ssn", [ssn] * 3, [1] * 3, {"customer": [1, 2, None]}),
            ],
        )
        assert told == [
            (
                ["0@example.com", "1@example.com", None, None, None],
                ["revealed", "revealed", "corrupt", "corrupt", "clear"],
            ),
            (["078-05-1120", None, None], ["revealed", "corrupt", "corrupt"]),
        ]
        items = sum(line["items"] for line in world.audited()[before:])
        assert items == 6, "rows were asked for that are tied to nothing"
        phone = veil.seal("customers.phone", "+1 415 555 0101", subject=1)
    with Veil.connect(f"http://{service.address}", token=desk_key) as desk, desk.purpose("support"):
        columns = [
            RowColumn("customers.phone", [phone], [1]),
            RowColumn("customers.email", emails, [0, 1, 2]),
        ]
        shown, withheld = open_columns(desk, columns)
    assert shown == (["********0101"], ["masked"]) and isinstance(shown[0][0], veilstream.Masked)
    assert withheld == ([None] * 3, ["denied"] * 3)


def test_purpose_reason_and_claims_stand_in_the_audit(veil: Veil, world: World) -> None:
    with veil.purpose("support"):
        token = veil.seal("customers.email", EMAIL, subject=77)
    before = len(world.audited())
    block = {"reason": "case 17", "on_behalf_of": "ana@corp", "request_id": "run-5"}
    for _ in range(2):
        with veil.purpose("fraud", **block):
            veil.reveal("customers.email", token, subject=77)
            veil.reveal("customers.email", token, subject=77)
    lines = [line for line in world.audited()[before:] if line.get("event") == "reveal"]
    assert [line["request_id"] for line in lines] == ["run-5", "run-5-2"] * 2
    assert {line["purpose"] for line in lines} == {"fraud"}
    assert {line["reason"] for line in lines} == {"case 17"}
    assert {line["on_behalf_of"] for line in lines} == {"ana@corp"}
    assert {line["actor"] for line in lines} == {"key:app"}
    with pytest.raises(veilstream.PurposeError):
        veil.reveal("customers.email", token, subject=77)
    with veil.purpose("fraud"), pytest.raises(veilstream.NotRevealed):
        veil.reveal("customers.email", token, subject=77)


def test_problems_are_exceptions(service: Service, tmp_path: Path, app_key: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("vsk_nobody_knows_this\n")
    url = f"http://{service.address}"
    with Veil.connect(url, token=wrong) as veil, veil.purpose("support"):
        with pytest.raises(veilstream.Unauthorized) as refused:
            veil.reveal("customers.email", "vs1.AAAA", subject=1)
        assert refused.value.status == 401 and "nobody_knows" not in str(refused.value)
        again = pickle.loads(pickle.dumps(refused.value))
        assert (again.status, str(again)) == (401, str(refused.value))
        # The file is read for each request: a token that was exchanged counts.
        wrong.write_text(app_key.read_text())
        with pytest.raises(veilstream.NotRevealed):
            veil.reveal("customers.email", "vs1.AAAA", subject=1)
        with pytest.raises(TypeError):
            pickle.dumps(veil)
    with Veil.connect(url, token=lambda: app_key.read_text()) as veil:
        with veil.purpose("support", request_id="not a name"):
            with pytest.raises(veilstream.RequestRefused) as bad:
                veil.reveal("customers.email", "vs1.AAAA", subject=1)
            assert bad.value.status == 400
    closed = socket.create_server(("127.0.0.1", 0))
    nobody = closed.getsockname()[1]
    closed.close()
    with Veil.connect(f"http://127.0.0.1:{nobody}", token=app_key) as veil:
        with veil.purpose("support"), pytest.raises(veilstream.ServiceUnavailable):
            veil.reveal("customers.email", "vs1.AAAA", subject=1)


@pytest.mark.parametrize(
    "url",
    [
        "http://reveal.internal:8788",
        "http://127.0.0.1.example.com",
        "ftp://127.0.0.1",
        "https://user:secret-canary@reveal.internal",
        "https://reveal.internal/?token=1",
        "reveal.internal:8788",
        "https://[::1",
    ],
)
def test_addresses_that_are_refused(url: str, app_key: Path) -> None:
    with pytest.raises(veilstream.ConfigError) as refused:
        Veil.connect(url, token=app_key)
    assert "secret-canary" not in str(refused.value)


def test_a_credential_in_the_program_is_refused(app_key: Path) -> None:
    key = app_key.read_text().strip()
    for token in (key, "eyJhbGciOi.canary.x"):
        with pytest.raises(veilstream.ConfigError) as refused:
            Veil.connect("https://reveal.internal", token=token)
        assert key not in str(refused.value) and "canary" not in str(refused.value)
    with pytest.raises(veilstream.ConfigError):
        Veil.connect("https://reveal.internal")


class Redirects(http.server.BaseHTTPRequestHandler):
    seen: list[str] = []

    def do_POST(self) -> None:
        self.seen.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        answers = {"/limited": 429, "/page": 502}
        status = next((code for path, code in answers.items() if self.path.startswith(path)), 307)
        body = (
            b"<html>" if status == 502 else b'{"code":"too_many_items","detail":"\\u001b[31mlater"}'
        )
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_other_servers(app_key: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with Veil.connect(url, token=app_key) as veil, veil.purpose("support"):
            with pytest.raises(veilstream.ServiceError, match="redirect"):
                veil.reveal("customers.email", "vs1.AAAA", subject=1)
        assert Redirects.seen == ["/v1/reveal"]
        with Veil.connect(url + "/limited", token=app_key, patience=0) as veil:
            with veil.purpose("support"), pytest.raises(veilstream.RateLimited) as limited:
                veil.reveal("customers.email", "vs1.AAAA", subject=1)
        assert limited.value.retry_after == 7 and "\x1b" not in str(limited.value)
        with Veil.connect(url + "/page", token=app_key) as veil:
            with veil.purpose("support"), pytest.raises(veilstream.ServiceUnavailable):
                veil.reveal("customers.email", "vs1.AAAA", subject=1)
    finally:
        server.shutdown()
        server.server_close()


def test_tls_is_checked(world: World, tmp_path: Path, service: Service, app_key: Path) -> None:
    """The authority's file decides; a second service with a certificate answers over TLS."""
    setup = Path(__file__).resolve().parents[3] / "deploy/compose/setup.sh"
    script = setup.read_text().partition("if [ ! -e tls/server.pem ]")
    subprocess.run(["sh", "-eu", "-c", script[1] + script[2]], cwd=tmp_path, check=True)
    other = World(tmp_path_factory_folder(tmp_path))
    tls = f'certificate_file = "{tmp_path}/tls/server.pem"\nkey_file = "{tmp_path}/tls/server.key"'
    other.configure(tls)
    key = other.credential("app", "app")
    running = Service(other)
    port = running.address.rpartition(":")[2]
    try:
        ca = tmp_path / "tls/ca.pem"
        url = f"https://localhost:{port}"
        with Veil.connect(url, token=key, ca=ca) as veil, veil.purpose("support"):
            token = veil.seal("customers.email", EMAIL, subject=1)
            assert veil.reveal("customers.email", token, subject=1) == EMAIL
        for address, authority in ((url, None), (f"https://127.0.0.1:{port}", ca)):
            with Veil.connect(address, token=key, ca=authority) as veil, veil.purpose("support"):
                with pytest.raises(veilstream.ServiceUnavailable, match="CERTIFICATE_VERIFY"):
                    veil.seal("customers.email", EMAIL, subject=1)
    finally:
        running.stop()
    with pytest.raises(veilstream.ConfigError):
        Veil.connect("https://localhost", token=key, ca=tmp_path / "nowhere")


def tmp_path_factory_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


def test_a_kept_connection_that_was_closed_is_no_error(veil: Veil) -> None:
    with veil.purpose("support"):
        token = veil.seal("customers.email", EMAIL, subject=5)
        pool: Http = veil.backend._http  # type: ignore[attr-defined]
        kept = pool._idle.get_nowait()
        assert kept.sock is not None
        kept.sock.shutdown(socket.SHUT_RDWR)
        pool._idle.put(kept)
        assert veil.reveal("customers.email", token, subject=5) == EMAIL


def test_threads_share_it(veil: Veil) -> None:
    with veil.purpose("support"):
        tokens = {n: veil.seal("customers.email", f"{n}@example.com", subject=n) for n in range(8)}
    wrong: list[int] = []

    def read(n: int) -> None:
        with veil.purpose("support"):
            for _ in range(10):
                if veil.reveal("customers.email", tokens[n], subject=n) != f"{n}@example.com":
                    wrong.append(n)

    threads = [threading.Thread(target=read, args=(n,)) for n in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_child_asks_again(veil: Veil) -> None:
    """Over a connection of its own: the parent goes on with the one that was kept."""
    people = range(4)
    with veil.purpose("support"):
        tokens = [veil.seal("customers.email", f"{n}@example.com", subject=n) for n in people]

    def read(n: int) -> list[object]:
        with veil.purpose("support"):
            return [veil.reveal("customers.email", tokens[n], subject=n) for _ in range(20)]

    children = {n: forked(partial(read, n)) for n in people[1:]}
    assert read(0) == ["0@example.com"] * 20
    for n, told in children.items():
        assert told() == [f"{n}@example.com"] * 20
    assert read(0) == ["0@example.com"] * 20


def test_async(service: Service, app_key: Path) -> None:
    async def read(veil: AsyncVeil, n: int) -> object:
        with veil.purpose("support", reason=f"task {n}"):
            token = await veil.seal("customers.email", f"{n}@example.com", subject=n)
            return await veil.reveal("customers.email", token, subject=n)

    async def main() -> list[object]:
        async with AsyncVeil.connect(f"http://{service.address}", token=app_key) as veil:
            with veil.purpose("support"):
                assert (await veil.index("customers.email", EMAIL)).recheck
                assert await veil.reveal_many([{}], "customers", ["email"])
            return await asyncio.gather(*[read(veil, n) for n in range(20)])

    assert asyncio.run(main()) == [f"{n}@example.com" for n in range(20)]


def test_nothing_leaks(veil: Veil, world: World) -> None:
    """Neither the value nor the credential stands in what is said of failures."""
    with veil.purpose("support"):
        said = []
        for call in (
            lambda: veil.seal("customers.email", EMAIL),
            lambda: veil.seal("customers.email", {EMAIL: {1, 2}}, subject=1),  # type: ignore
            lambda: veil.seal("customers.nowhere", EMAIL, subject=1),
            lambda: veil.index("customers.nowhere", EMAIL),
            lambda: veil.reveal("customers.email", EMAIL, subject=1),
        ):
            with pytest.raises(veilstream.VeilError) as fault:
                call()
            said.append("".join(traceback.format_exception(fault.value)))
            said.append(repr(fault.value.args) + json.dumps(str(fault.value)))
        said.append(repr(veil) + repr(veil.backend))
    # The traceback quotes lines of this file, which name the constant and not its value.
    text = "".join(said) + world.audit_text()
    assert EMAIL not in text and "vsk_" not in text
