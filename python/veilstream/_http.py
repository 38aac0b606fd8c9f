"""HTTPS to the reading service, by the standard library: no redirect, no proxy, one address."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Lock
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from ._problems import RateLimited, ServiceError, ServiceUnavailable, raise_problem
from .errors import ConfigError

__all__ = ["Http", "TokenSource"]

TokenSource: TypeAlias = str | os.PathLike[str] | Callable[[], str]

ANSWER_MAX = 64 << 20
"""Bytes of an answer: those of a request, opened, with the statuses of its fields."""
IDLE_MAX = 8
"""Connections that are kept for the next request."""
LONGEST_WAIT = 60.0
"""Seconds for which a limit of the service is waited for at once."""


class Http:
    """Posts JSON to one service. Threads share it; after a fork it connects again."""

    def __init__(
        self,
        url: str,
        token: TokenSource | None,
        ca: str | os.PathLike[str] | None,
        cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
        timeout: float,
        patience: float,
    ) -> None:
        parts = _address(url)
        if token is None and cert is None:
            raise ConfigError("Veil.connect needs token= (a file or a callable) or cert=")
        self.address = parts.geturl().rstrip("/")
        self._host = parts.hostname or ""
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self._tls = _tls(ca, cert) if parts.scheme == "https" else None
        self._token = None if token is None else _token_source(token)
        self._timeout = timeout
        self._patience = patience
        self._idle: LifoQueue[http.client.HTTPConnection] = LifoQueue()
        self._pid = os.getpid()
        self._lock = Lock()

    def post(self, path: str, body: bytes) -> dict[str, object]:
        """The answer's members. A limit of the service is waited for, as long as is patience.

        The request may be sent twice where a kept connection was closed: its ``request_id`` makes
        it one disclosure.
        """
        waited = 0.0
        while True:
            try:
                return self._once(path, body)
            except RateLimited as limit:
                pause = min(limit.retry_after, LONGEST_WAIT)
                if waited + pause > self._patience:
                    raise
                time.sleep(pause)
                waited += pause

    def close(self) -> None:
        """Closes the connections that are kept."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _once(self, path: str, body: bytes) -> dict[str, object]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        status, retry_after, text = self._exchange(path, body, headers)
        try:
            answer = json.loads(text)
        except ValueError:
            # The fault would quote what was opened.
            answer = None
        if status != 200:
            raise_problem(status, answer, retry_after)
        if not isinstance(answer, dict):
            raise ServiceError("the answer is none of a reading service; look at the address", 200)
        return answer

    def _exchange(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, float, bytes]:
        while True:
            connection, kept = self._connection()
            try:
                connection.request("POST", self._prefix + path, body, headers)
                answer = connection.getresponse()
                text = answer.read(ANSWER_MAX + 1)
            except (http.client.HTTPException, OSError) as fault:
                connection.close()
                if kept and not isinstance(fault, TimeoutError):
                    continue
                what = type(fault).__name__
                if isinstance(fault, ssl.SSLError):
                    what = fault.reason or what
                raise ServiceUnavailable(f"{self.address} does not answer ({what})") from None
            if len(text) > ANSWER_MAX:
                connection.close()
                raise ServiceError(f"the answer is larger than {ANSWER_MAX >> 20} MiB", 200)
            if answer.will_close or self._idle.qsize() >= IDLE_MAX:
                connection.close()
            else:
                self._idle.put(connection)
            return answer.status, _seconds(answer.headers.get("Retry-After")), text

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it was used before."""
        with self._lock:
            if self._pid != os.getpid():
                # The parent's sockets: a child that closed their TLS would end the parent's.
                self._idle, self._pid = LifoQueue(), os.getpid()
        try:
            return self._idle.get_nowait(), True
        except Empty:
            pass
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout), False
        tls = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=self._tls
        )
        return tls, False


def _address(url: str) -> SplitResult:
    """The address without what must not be in it."""
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        raise ConfigError("the address of Veil.connect is none; write https://host:port") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "the address has a user or a password; hand the credential over with token="
        )
    if not parts.hostname or not port_is_good:
        raise ConfigError("the address of Veil.connect is none; write https://host:port")
    if parts.query or parts.fragment:
        raise ConfigError(f"{url} has a query or a fragment; leave it out")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ConfigError(
            f"{url} is not https; anyone on the way would read the credential and all values"
        )
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(
    ca: str | os.PathLike[str] | None,
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca is None else os.fspath(ca))
    except (OSError, ssl.SSLError) as fault:
        why = type(fault).__name__
        raise ConfigError(f"ca: {ca} cannot be read as certificates in PEM ({why})") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        try:
            context.load_cert_chain(*cert)
        except (OSError, ssl.SSLError) as fault:
            why = type(fault).__name__
            raise ConfigError(f"cert: {cert[0]} and its key are of no use ({why})") from None
    return context


def _token_source(token: TokenSource) -> Callable[[], str]:
    """Read for each request, so that a token that was exchanged counts at once."""
    if callable(token):
        called = token
        return lambda: _checked(called(), "the callable of token=")
    path = os.fspath(token)
    if path.startswith(("vsk_", "eyJ")) or "\n" in path:
        raise ConfigError(
            "token= takes a file or a callable; a credential in the program ends up in logs"
        )

    def read() -> str:
        try:
            text = Path(path).read_text(encoding="ascii")
        except (OSError, ValueError) as fault:
            why = type(fault).__name__
            raise ConfigError(f"token: {path} cannot be read ({why})") from None
        return _checked(text, f"token: {path}")

    read()
    return read


def _checked(text: str, whence: str) -> str:
    token = text.strip() if isinstance(text, str) else ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{whence} has no API key and no JWT in one line")
    return token


def _seconds(header: str | None) -> float:
    """Of ``Retry-After``, at least one."""
    try:
        return max(1.0, float(header or 1))
    except ValueError:
        return 1.0
