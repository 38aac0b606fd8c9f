"""A column of Fernet tokens migrated in PostgreSQL, and rotated afterwards: rows a second.

Among the rows are some of another key and some in clear: they are named, counted and left alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python" / "tests" / "app"))

import psycopg  # noqa: E402
from cryptography.fernet import Fernet  # noqa: E402
from pg import Postgres  # noqa: E402
from world import BINARY, World  # noqa: E402

ROWS = int(os.environ.get("ROWS", "100000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
LOST, CLEAR = 100, 10
# As a server runs for users: durable, without a log of statements.
SETTINGS = ("fsync=on", "log_statement=none", "log_min_duration_statement=-1")
SCHEMA = {
    "veilstream": 1,
    "name": "users",
    "version": 1,
    "fields": [
        {"id": "email", "path": "$.email", "type": "string", "index": {"normalize": "email"}}
    ],
}
TABLE = """
DROP TABLE IF EXISTS users;
CREATE TABLE users (id bigint PRIMARY KEY, email text, email_bidx text);
CREATE INDEX ON users (email_bidx);
"""


class Desk:
    """A database, and the folder of those who migrate it."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.world = World(folder, {"users": SCHEMA})
        url = f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres"
        self.sql = psycopg.connect(url, autocommit=True)
        self.keys = [Fernet.generate_key(), Fernet.generate_key()]
        for name, text in (("app.url", url), ("old.keys", self.keys[0].decode())):
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)

    def fill(self) -> None:
        """A table in the old form."""
        known, lost = map(Fernet, self.keys)
        self.sql.execute(TABLE)
        with self.sql.cursor().copy("COPY users (id, email) FROM STDIN") as copy:
            for n in range(ROWS + LOST + CLEAR):
                value = f"person{n}@example.com"
                by = known if n < ROWS else lost if n < ROWS + LOST else None
                copy.write_row((n, by.encrypt(value.encode()).decode() if by else value))

    def run(self, code: int, *words: str) -> tuple[float, dict[str, Any], int]:
        """Rows a second of a command, what it told, and how many rows it named."""
        # No dead rows and no unwritten pages of before.
        self.sql.execute("VACUUM ANALYZE users")
        self.sql.execute("CHECKPOINT")
        fixed = ("--config", "veilstream.toml", "--postgres-file", "app.url", "--table", "users")
        schema = ("--schema", "schemas/users.json", "--json")
        command = [BINARY, *words, *fixed, *schema]
        start = time.monotonic()
        done = subprocess.run(command, cwd=self.world.folder, capture_output=True, text=True)
        seconds = time.monotonic() - start
        assert done.returncode == code, done.stderr
        named = [line for line in done.stderr.splitlines() if line.startswith('{"')]
        return ROWS / seconds, json.loads(done.stdout), len(named)

    def migrate(self) -> float:
        """The old form into tokens. What does not open makes it end with 1."""
        source = ("--field", "email", "--from", "fernet", "--keys-file", "old.keys")
        speed, told, named = self.run(1, "migrate", "postgres", *source)
        assert told["now"] == {"token": ROWS, "fernet": LOST, "other": CLEAR}, told
        assert told["stays"] == {"not_opened": LOST, "other_form": CLEAR}, told
        assert named == LOST + CLEAR
        return speed

    def rotate(self) -> float:
        """The tokens under a new key."""
        self.sql.execute("DELETE FROM users WHERE id >= %s", (ROWS,))
        config = ("--config", "veilstream.toml")
        self.world.run("keys", "rotate", *config, "--shared", "users")
        speed, told, _ = self.run(0, "rotate", "postgres", "--key", "id")
        assert (told["written"], told["old"]) == (ROWS, 0), told
        return speed


def main() -> None:
    """Prints the table."""
    postgres = Postgres(*SETTINGS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            desk = Desk(Path(folder), postgres)
            print("| round | migrate postgres, rows/s | rotate postgres, rows/s | ratio |")
            print("|---|---|---|---|")
            for number in range(1, ROUNDS + 1):
                desk.fill()
                migrated, rotated = desk.migrate(), desk.rotate()
                ratio = migrated / rotated
                print(f"| {number} | {migrated:.0f} | {rotated:.0f} | {ratio:.2f} |", flush=True)
    finally:
        postgres.stop()


main()
