"""Columns opened from Python: one key, many data subjects, and a loop over Fernet beside them.

Figures are values of a column a second, on one core. Each is the best of several runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python" / "tests"))

# One core: threads of Arrow or of the operating system may not help.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import pyarrow as pa  # noqa: E402
from in_process import Site  # noqa: E402
from cryptography.fernet import Fernet  # noqa: E402

from veilstream import Veil  # noqa: E402

ROWS = int(os.environ.get("ROWS", "1000000"))
RUNS = int(os.environ.get("RUNS", "5"))


def best(rows: int, work: Callable[[], object]) -> float:
    """Values a second of the best run, in processor time."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return rows / min(times)


def sealed_by_process(site: Site, values: pa.Array) -> pa.Array:
    """The column as the sidecar seals it."""
    shared = ["--workspace", "--features", "veilstream/inject", "--locked", "--quiet"]
    # It only makes tokens: as `make test` has built everything else.
    command = ["cargo", "bench", "--profile", "dev", *shared, "--bench", "process_tokens", "--"]
    lines = "".join(f'{{"email":"{value}"}}\n' for value in values.to_pylist())
    done = subprocess.run(
        [*command, site.config, "customers"], input=lines, capture_output=True, text=True, check=True
    )
    return pa.array([json.loads(line)["email"] for line in done.stdout.splitlines()])


def main() -> None:
    values = pa.array([f"{n:020}" for n in range(ROWS)])
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder) / "site")
        # Suite 1 is what the sidecar seals with: a key of one process and schema.
        suite1 = sealed_by_process(site, values)
        with Veil.open(site.config) as veil:
            suite2 = pa.array(veil.arrow.seal(values, "customers.plan"))
            people = pa.array([n * 7919 % 10_000 for n in range(ROWS)])
            subjects = pa.array(veil.arrow.seal(values, "people.iban", subject=people))
            rates = {
                "suite 1, one key": best(ROWS, lambda: veil.arrow.reveal(suite1, "customers.email")),
                "suite 2, one key": best(ROWS, lambda: veil.arrow.reveal(suite2, "customers.plan")),
                "suite 2, 10,000 subjects": best(
                    ROWS, lambda: veil.arrow.reveal(subjects, "people.iban")
                ),
                "suite 2, 10,000 subjects, named": best(
                    ROWS, lambda: veil.arrow.reveal(subjects, "people.iban", subject=people)
                ),
            }
            assert pa.array(veil.arrow.reveal(suite1, "customers.email")).equals(values)
    few = 100_000
    fernet = Fernet(Fernet.generate_key())
    tokens = [fernet.encrypt(value.encode()) for value in values.slice(0, few).to_pylist()]
    rates["Fernet in a loop"] = best(
        few, lambda: [fernet.decrypt(token).decode() for token in tokens]
    )
    for name, rate in rates.items():
        print(f"{name:34} {rate:12,.0f} values/s  {rate / rates['Fernet in a loop']:6.1f} x Fernet")


if __name__ == "__main__":
    main()
