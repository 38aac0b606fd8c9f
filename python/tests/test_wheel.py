"""The wheel: what stands in it, and what is installed from it, away from the source."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from in_process import ROOT, Site
from veilstream import Veil

# maturin builds the native part alone, for which cargo would build all dependencies again, with
# other features. So it gets the library that `make pytest` has built.
CARGO = """#!/bin/sh
[ "$1" = rustc ] || exec "{cargo}" "$@"
unset $(env | sed -n 's/^\\(PYO3_[A-Z_]*\\)=.*/\\1/p') PYTHON_SYS_EXECUTABLE
PATH="{path}"
cd "{root}"
exec "{cargo}" build {native} --message-format json-render-diagnostics
"""
PROGRAM = """
import sys
from veilstream import Veil, __file__ as place
config, token = sys.argv[1:]
with Veil.open(config) as veil:
    print(place, veil.reveal("customers.email", token))
"""
TYPED = """
from veilstream import Veil
veil = Veil.open("veilstream.toml")
reveal_type(veil.seal("customers.email", "a"))
veil.seal("customers.email")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    cargo = shutil.which("cargo")
    native = re.search(r"^NATIVE = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert cargo is not None and native is not None
    (folder / "bin").mkdir()
    script = folder / "bin/cargo"
    script.write_text(CARGO.format(cargo=cargo, path=os.environ["PATH"], root=ROOT, native=native[1]))
    script.chmod(0o755)
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    run(
        *("maturin", "build", "--profile", "dev", "--locked", "--compatibility", "linux"),
        *("--out", str(folder)),
        cwd=ROOT / "python",
        env={**os.environ, "PATH": path, "CARGO": str(script)},
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """A fresh environment, with the wheel and nothing else."""
    folder = wheel.parent / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin/python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
    run(*pip, "install", "-q", "--no-index", str(wheel))
    return python


def run(*words: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def test_a_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert re.fullmatch(rf"veilstream-{version}-cp311-abi3-linux_\w+\.whl", wheel.name)
    tracked = run("git", "ls-files", "python/veilstream").splitlines()
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (described,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        told = email.message_from_bytes(packed.read(described))
    info = described.removesuffix("METADATA")
    package = {name for name in names if not name.startswith(info)}
    expected = {name.removeprefix("python/") for name in tracked}
    assert package == expected | {"veilstream/_native.abi3.so"} and "veilstream/py.typed" in package
    assert f"{info}licenses/LICENSE" in names
    assert (told["Name"], told["Version"]) == ("veilstream", version)
    assert (told["License-Expression"], told["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    assert str(told.get_payload()).strip() == (ROOT / "python/README.md").read_text().strip()
    extras = set(told.get_all("Provides-Extra", []))
    assert extras == {"alembic", "pydantic", "spark", "sqlalchemy"}
    # Nothing is needed where no extra is asked for.
    assert all("extra ==" in needed for needed in told.get_all("Requires-Dist", []))


def test_a_token_opens_where_the_wheel_alone_is_installed(
    python: Path, site: Site, tmp_path: Path
) -> None:
    with Veil.open(site.config) as veil:
        token = veil.seal("customers.email", "ada@example.com")
    # -I: neither this folder nor PYTHONPATH leads to the source.
    told = run(str(python), "-I", "-c", PROGRAM, str(site.config), token, cwd=tmp_path)
    place, value = told.split()
    assert Path(place).is_relative_to(python.parents[1]) and value == "ada@example.com"


def test_type_checkers_see_what_is_installed(python: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TYPED)
    # Where the source is found, it would be checked instead.
    environment = {k: v for k, v in os.environ.items() if k not in ("MYPYPATH", "PYTHONPATH")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull),
            *("--cache-dir", os.devnull, "--python-executable", str(python), "program.py"),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    said = done.stdout.splitlines()
    assert 'Revealed type is "str"' in said[0], done.stdout + done.stderr
    assert 'Missing positional argument "value"' in said[1]
    assert said[2].startswith("Found 1 error")
