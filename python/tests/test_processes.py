"""Forks, ends of processes, several at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor


from in_process import Site
from veilstream import Veil


def _in_child(veil: Veil, count: int) -> list[str]:
    tokens = [veil.seal("customers.email", f"{n}@example.com") for n in range(count)]
    assert [veil.reveal("customers.email", token) for token in tokens] == [
        f"{n}@example.com" for n in range(count)
    ]
    return tokens


def _fork(veil: Veil, count: int) -> tuple[int, int]:
    """A child that seals and opens; its id, and where its tokens come out."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    status = 1
    try:
        tokens = _in_child(veil, count)
        veil.close()
        with os.fdopen(write, "w") as out:
            json.dump(tokens, out)
        status = 0
    finally:
        os._exit(status)


def test_a_fork_under_load_starts_again(site: Site) -> None:
    """Nobody hangs, no nonce comes twice, and each process has an audit chain of its own."""
    veil = Veil.open(site.config)
    stop, failed, sealed = threading.Event(), [], []

    def load() -> None:
        try:
            while not stop.is_set():
                sealed.append(veil.seal("customers.email", "load@example.com"))
                assert veil.reveal("customers.email", sealed[-1]) == "load@example.com"
        except BaseException as error:  # noqa: BLE001
            failed.append(repr(error))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        children = [_fork(veil, 20) for _ in range(6)]
        for child, read in children:
            with os.fdopen(read) as out:
                text = out.read()
            assert os.waitpid(child, 0)[1] == 0
            sealed.extend(json.loads(text))
        before = len(sealed)
        while len(sealed) < before + 20 and not failed:
            stop.wait(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert len(set(sealed)) == len(sealed)
    # Header, then the nonce of 24 bytes: 36 and 32 characters.
    assert len({token[36:68] for token in sealed}) == len(sealed)
    assert veil.reveal("customers.email", sealed[-1])
    veil.close()
    starts = site.lines("start")
    assert len({line["chain"] for line in starts}) == len(starts) >= 8
    site.verify()


def test_a_pool_of_forked_workers(site: Site) -> None:
    veil = Veil.open(site.config)
    token = veil.seal("customers.email", "ada@example.com")
    global _veil
    _veil = veil
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as pool:
        assert set(pool.map(_reveal_global, [token] * 12)) == {"ada@example.com"}
    assert veil.reveal("customers.email", token) == "ada@example.com"
    veil.close()
    site.verify()


_veil: Veil


def _reveal_global(token: str) -> object:
    return _veil.reveal("customers.email", token)


def test_a_process_that_ends_ends_its_chain(site: Site) -> None:
    program = "import sys; from veilstream import Veil; v = Veil.open(sys.argv[1]); print(v.seal('customers.email', 'a'))"
    done = subprocess.run(
        [sys.executable, "-c", program, site.config], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("vs1.")
    events = [line["event"] for line in site.lines() if line["event"] != "checkpoint"]
    # The chain of `keys init`, then this one.
    assert events == ["start", "keys", "stop", "start", "seal", "stop"]
    site.verify()


def test_a_copied_process_without_python_is_refused(site: Site) -> None:
    """A fork that Python does not hear of has its parent's nonces: nothing is sealed there."""
    program = """
import ctypes, os, sys
from veilstream import Veil, VeilError
veil = Veil.open(sys.argv[1])
child = ctypes.PyDLL(None).fork()
if child == 0:
    try:
        veil.seal('customers.email', 'a')
    except VeilError as error:
        os._exit(0 if 'forked' in str(error) else 2)
    os._exit(1)
print(os.waitpid(child, 0)[1])
veil.seal('customers.email', 'a')
"""
    done = subprocess.run([sys.executable, "-c", program, site.config], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    site.verify()


def test_several_processes_write_one_log(site: Site) -> None:
    with Veil.open(site.config) as one, Veil.open(site.config) as other:
        token = one.seal("customers.email", "ada@example.com")
        assert other.reveal("customers.email", token) == "ada@example.com"
    site.verify()
    assert len(site.lines("start")) == len(site.lines("stop")) == 3
    assert (site.folder / "audit" / "audit.jsonl.1").exists()
