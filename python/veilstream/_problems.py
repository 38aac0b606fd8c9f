"""What the reading service answers instead of an answer: problems (RFC 9457), as exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from .errors import AuditError, KeysUnavailable, VeilError

__all__ = [
    "AuditUnavailable",
    "Denied",
    "RateLimited",
    "RequestRefused",
    "ServiceError",
    "ServiceKeysUnavailable",
    "ServiceUnavailable",
    "Unauthorized",
    "raise_problem",
]

_TEXT_MAX = 200


class ServiceError(VeilError):
    """The reading service refused a request as a whole, or none answers at this address.

    ``status`` is the HTTP status, 0 where there was none. ``code`` is the problem's, for programs.
    """

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def __reduce__(self) -> tuple[type[ServiceError], tuple[str, int, str]]:
        return (type(self), (str(self), self.status, self.code))


class Unauthorized(ServiceError):
    """401: the credential does not count. Why, the service's log says."""


class RequestRefused(ServiceError):
    """A 4xx beyond 401 and 429: the request is one that the service never answers."""


class ServiceUnavailable(ServiceError):
    """The service does not answer, or not now. The call may be repeated."""


class AuditUnavailable(ServiceUnavailable, AuditError):
    """503 ``audit_unavailable``: without an audit log nothing is handed out."""


class ServiceKeysUnavailable(ServiceUnavailable, KeysUnavailable):
    """503 ``keys_unavailable``: the service cannot reach its key store or key service."""


class RateLimited(ServiceError):
    """429: the caller's limit is spent for ``retry_after`` seconds."""

    def __init__(self, message: str, status: int, code: str, retry_after: float = 1.0) -> None:
        super().__init__(message, status, code)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[RateLimited], tuple[str, int, str, float]]:  # type: ignore[override]
        return (type(self), (str(self), self.status, self.code, self.retry_after))


class Denied(VeilError):
    """The service's policies do not let this caller search or seal a field."""


def _text(problem: Mapping[str, object], name: str) -> str:
    """A member for people: what a server says must not move a terminal."""
    value = problem.get(name)
    text = value if isinstance(value, str) else ""
    return "".join(c for c in text if c.isprintable())[:_TEXT_MAX]


def raise_problem(status: int, problem: object, retry_after: float) -> NoReturn:
    """Raises what a status and its body stand for."""
    if 300 <= status < 400:
        raise ServiceError(
            "the reading service answers with a redirect, which is not followed; name the address"
            " that it leads to",
            status,
        )
    members = problem if isinstance(problem, dict) else {}
    code = _text(members, "code")
    if not code:
        message = f"the server answers {status} and is no reading service; look at the address"
        kind = ServiceUnavailable if status >= 500 else ServiceError
        raise kind(message, status)
    message = f"the reading service answers {status} ({code}): {_text(members, 'detail')}"
    if status == 401:
        raise Unauthorized(message, status, code)
    if status == 429:
        raise RateLimited(message, status, code, retry_after)
    if code == "audit_unavailable":
        raise AuditUnavailable(message, status, code)
    if code == "keys_unavailable":
        raise ServiceKeysUnavailable(message, status, code)
    if status >= 500:
        raise ServiceUnavailable(message, status, code)
    raise RequestRefused(message, status, code)
