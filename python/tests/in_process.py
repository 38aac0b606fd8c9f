"""Keys in process, in a folder of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("VEILSTREAM_BINARY", ROOT / "target/debug/veilstream"))

CUSTOMERS = {
    "veilstream": 1,
    "name": "customers",
    "version": 1,
    "fields": [
        {"id": "email", "path": "$.email", "index": {"normalize": "email"}},
        {"id": "ssn", "path": "$.ssn", "bind": [{"name": "customer", "path": "$.id"}]},
        {"id": "notes", "path": "$.notes[*]"},
        {"id": "country", "path": "$.country", "protect": "deterministic", "root": 1},
        {"id": "phone", "path": "$.phone", "protect": "hash", "index": {"normalize": "digits"}},
        {"id": "plan", "path": "$.plan", "index": {"normalize": "exact", "bits": 12}},
    ],
}
PEOPLE = {
    "veilstream": 1,
    "name": "people",
    "version": 1,
    "subject": "$.id",
    "fields": [
        {"id": "email", "path": "$.email", "index": {"normalize": "email"}},
        {"id": "iban", "path": "$.iban"},
    ],
}
CONFIG = """
[schemas]
dir = "schemas"
[keys]
store = "sqlite:keys.db"
ledger = "erasures.jsonl"
[keys.file]
path = "kek"
[[policy.purposes]]
name = "support"
reason_required = true
pattern = "ticket [0-9]+"
[[policy.purposes]]
name = "billing"
reason_required = false
"""
AUDIT = """
[audit]
file = "audit/audit.jsonl"
copy = "none"
recipient_file = "audit.pub"
"""


class Site:
    """A folder with schemas, keys and an audit log, as ``veilstream`` makes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "veilstream.toml"
        (folder / "schemas").mkdir(parents=True)
        for document in (CUSTOMERS, PEOPLE):
            self.document(document)
        public = self.cli("audit", "keygen", "--out", "audit.key")
        (folder / "audit.pub").write_text(public)
        self.config.write_text(CONFIG + AUDIT)
        self.cli("keys", "init", "--config", "veilstream.toml")

    def document(self, document: dict[str, object]) -> None:
        """Puts a schema document in."""
        path = self.folder / "schemas" / f"{document['name']}.json"
        path.write_text(json.dumps(document))

    def cli(self, *words: str, input: str | None = None) -> str:
        """Runs ``veilstream`` in the folder."""
        done = subprocess.run(
            [BINARY, *words], cwd=self.folder, input=input, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def lines(self, event: str | None = None) -> list[dict[str, object]]:
        """The lines of the audit log: all of them, or those of an event."""
        names = re.compile(r"audit\.jsonl(\.\d+)?")
        files = sorted(f for f in (self.folder / "audit").iterdir() if names.fullmatch(f.name))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def verify(self) -> None:
        """The audit log is whole."""
        self.cli("audit", "verify", "--config", "veilstream.toml", "--key", "audit.key")
