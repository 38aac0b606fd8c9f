"""What the tests run against: keys, schemas, policies, the built binary and its reading service."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("VEILSTREAM_BINARY", ROOT / "target/debug/veilstream"))

CEDAR = """
permit(principal in Role::"app",
  action in [Action::"reveal", Action::"search", Action::"seal", Action::"explain"], resource)
  when { context.purpose == "support" };
permit(principal in Role::"desk", action in [Action::"mask", Action::"search"], resource)
  when { context.purpose == "support" };
permit(principal in Role::"app", action in [Action::"reveal"], resource)
  when { context.purpose == "fraud" && context.has_reason };
"""


def until(what: str, is_so: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while True:
        found = is_so()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def forked(call: Callable[[], Any]) -> Callable[[], Any]:
    """Starts a call in a forked child. What is returned waits for what it says, as JSON."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(write, json.dumps(call()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)

    def wait() -> Any:
        with os.fdopen(read) as out:
            text = out.read()
        assert os.waitpid(child, 0)[1] == 0
        return json.loads(text)

    return wait


class World:
    """A folder with all that a service, ``Veil.open`` and the command line need."""

    def __init__(self, folder: Path, schemas: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self._seen: dict[tuple[str, int], dict[str, Any]] = {}
        self.run("keys", "init", "--keys", "keys")
        (folder / "schemas").mkdir()
        (folder / "policies").mkdir()
        for name in ("customers", "orders"):
            shutil.copy(ROOT / f"schemas/{name}.json", folder / "schemas")
        for name, document in (schemas or {}).items():
            (folder / f"schemas/{name}.json").write_text(json.dumps(document))
        (folder / "policies/all.cedar").write_text(CEDAR)
        public = self.run("audit", "keygen", "--out", "verifier.key")
        (folder / "audit.pub").write_text(public)
        (folder / "veilstream.toml").write_text(
            f"""
[audit]
file = "{folder}/audit.jsonl"
recipient_file = "{folder}/audit.pub"
copy = "none"
[[policy.purposes]]
name = "support"
reason_required = false
[[policy.purposes]]
name = "fraud"
[[policy.budgets]]
subjects = "unlimited"
values = "unlimited"
[[policy.budgets]]
purpose = "support"
subjects = "unlimited"
values = "unlimited"
[policy]
dir = "{folder}/policies"
[schemas]
dir = "{folder}/schemas"
domains = ["payment_card"]
reload_interval = "1s"
[keys]
provider = "file"
store = "sqlite:{folder}/keys/keys.db"
[keys.file]
path = "{folder}/keys/kek"
[http]
listen = "127.0.0.1:0"
[log]
format = "json"
[serve]
listen = "127.0.0.1:0"
SERVE
"""
        )
        self.configure("insecure = true\nitems_per_second = 10000000")

    @property
    def config(self) -> Path:
        return self.folder / "veilstream.toml"

    def configure(self, serve: str) -> None:
        """Sets the members of ``[serve]``."""
        text = self.config.read_text()
        head, _, _ = text.partition("[serve]\n")
        self.config.write_text(f'{head}[serve]\nlisten = "127.0.0.1:0"\n{serve}\n')

    def run(self, *args: str, stdin: str = "") -> str:
        """What a command prints. It must not fail."""
        done = subprocess.run(
            [BINARY, *args], cwd=self.folder, input=stdin, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{args}: {done.stderr}"
        return done.stdout

    def credential(self, name: str, role: str) -> Path:
        """A file with a new API key."""
        config = str(self.config)
        told = self.run(
            *("serve", "keys", "create", "--config", config),
            *("--name", name, "--role", role, "--json"),
        )
        file = self.folder / f"{name}.key"
        file.write_text(json.loads(told)["key"] + "\n")
        return file

    def transform(self, schema: str, *records: Any) -> list[Any]:
        """Records as the sidecar writes them."""
        said = self.run(
            *("transform", "--keys", "keys", "--schema", f"schemas/{schema}.json"),
            stdin="".join(json.dumps(record) + "\n" for record in records),
        )
        return [json.loads(line) for line in said.splitlines()]

    def audited(self) -> list[dict[str, Any]]:
        """The lines of the audit log, in the order in which they were seen here: files grow."""
        for file in sorted(self.folder.glob("audit.jsonl*")):
            # Side files and copies of policies stand beside the log.
            if re.fullmatch(r"audit\.jsonl(\.\d+)?", file.name):
                for line in file.read_text().splitlines():
                    told = json.loads(line)
                    self._seen.setdefault((told["chain"], told["seq"]), told)
        return list(self._seen.values())

    def audit_text(self) -> str:
        return "".join(
            file.read_text(errors="replace") for file in sorted(self.folder.glob("audit.jsonl*"))
        )


class Service:
    """A running ``veilstream serve``."""

    def __init__(self, world: World) -> None:
        self.process = subprocess.Popen(
            [BINARY, "serve", "--config", world.config],
            cwd=world.folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = until("the service listens", self._address)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def _address(self) -> str | None:
        assert self.process.poll() is None, "".join(self.lines)
        for line in list(self.lines):
            if line.startswith("{"):
                told = json.loads(line)
                fields = told.get("fields", told)
                if fields.get("message") == "the reading service listens":
                    return str(fields["address"])
        return None

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self._reader.join(10)


def free_port() -> int:
    """Stays free while its server is down: the system gives it to nobody who asks for any port."""
    ends = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assigned = range(int(ends[0]), int(ends[1]) + 1)
    ports = [port for port in range(10_000, 65_536) if port not in assigned]
    while True:
        port = random.choice(ports)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
