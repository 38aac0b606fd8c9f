"""What docs/python.md says is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from in_process import BINARY, ROOT

BLOCK = re.compile(r"<!-- run: (\S+?)(?:, after: \S+)? -->\n```(sh|python)\n(.*?)```", re.DOTALL)


def test_the_quickstart_runs(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs/python.md").read_text())
    assert [name for name, *_ in blocks] == ["python-setup", "python-first", "python-audit"]
    path = f"{BINARY.parent}:{os.environ['PATH']}"
    told = {}
    for name, language, text in blocks:
        command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, text], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        told[name] = done.stdout.splitlines()
    index, email, ssn, row = told["python-first"]
    assert index.startswith("IndexValues(into='email_bidx', values=('1~") and "recheck=False" in index
    assert (email, ssn) == ("ada@example.com", "078-05-1120")
    assert row == "{'id': 42, 'email': 'ada@example.com', 'ssn': '078-05-1120'} revealed"
