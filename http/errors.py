"""Every error answer: ``{"error": …, "correlation_id": …}``, whatever went wrong and wherever (api.md §1)."""

from collections.abc import Mapping
from typing import Any

import msgspec
import psycopg
import psycopg_pool
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from modledger.domain import refusals
from modledger.domain.ledger import LedgerDamaged, LedgerUnavailable
from modledger.domain.personal_text import WrongMasterKey
from modledger.http.views import ErrorView
from modledger.projections.fragments import FragmentsNeeded

log = structlog.get_logger("modledger.http")

JSON = "application/json"
# api.md §1
BODY_LIMIT = 64 * 1024
RETRY_AFTER = {"Retry-After": "1"}
# api.md §1
POSITION_HEADER = "X-Ledger-Position"
# Of a batch that failed in the middle.
BATCH_HEADER = "X-Batch-ID"
NO_FRAGMENTS = "Searching for a fragment needs the PostgreSQL extension pg_trgm"

# What no time will mend; the log says it in words of their own, because somebody has to see to it.
LASTING = (LedgerDamaged, WrongMasterKey)

_REFUSALS: tuple[tuple[type[refusals.Refused], int], ...] = (
    (refusals.Invalid, 400),
    (refusals.Forbidden, 403),
    (refusals.NotFound, 404),
    (refusals.Conflict, 409),
    (refusals.Stale, 412),
)

_FRAMEWORK = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
    413: "body is too large",
    415: "Content-Type must be application/json",
}


class Problem(Exception):
    """A request that is answered with an error; ``message`` goes to the caller as it is."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class Busy(Problem):
    """As many requests as this process works on at once are there already (admission.py)."""

    def __init__(self) -> None:
        super().__init__(503, "The server is busy", RETRY_AFTER)


class Unavailable(Exception):
    """The database cannot be reached or does not answer in time (HTTP 503)."""


def bad(message: str) -> Problem:
    """400: the message names the first bad field."""
    return Problem(400, message)


def too_large(limit: int) -> str:
    """The message for a body of more than ``limit`` bytes."""
    return f"body must not be larger than {limit // 1024} KiB"


def late(seconds: int) -> str:
    """The message for a body that did not arrive in time."""
    return f"body did not arrive within {seconds} s"


def unauthenticated() -> Problem:
    """401: no session, or none that is still good; the answer does not say which."""
    return Problem(401, "Authentication required")


def unavailable(message: str) -> Problem:
    """503 with the advice to try again in a second."""
    return Problem(503, message, RETRY_AFTER)


def problem_of(error: Exception) -> Problem | None:
    """The answer that an exception stands for; None for one that nobody foresaw."""
    match error:
        case Problem():
            return error
        case refusals.Refused():
            status = next((status for kind, status in _REFUSALS if isinstance(error, kind)), 409)
            return Problem(status, str(error), _decided_at(error))
        # A lost connection surfaces as either of psycopg's two, wherever it is used without the reader.
        case (
            Unavailable()
            | LedgerUnavailable()
            | psycopg.OperationalError()
            | psycopg.InterfaceError()
            | psycopg_pool.PoolTimeout()
        ):
            return unavailable("Database unavailable")
        case LedgerDamaged():
            return unavailable(_sentence(str(error)))
        case WrongMasterKey():
            return unavailable("This server was not given a master key that others write with")
        case FragmentsNeeded():
            return Problem(501, NO_FRAGMENTS)
        case ValidationException():
            return bad(_validation_message(error))
        case HTTPException() if error.status_code in _FRAMEWORK:
            return Problem(error.status_code, _FRAMEWORK[error.status_code], error.headers)
    return None


def _decided_at(refused: refusals.Refused) -> dict[str, str]:
    # So that the next read can be asked to show the reason. Of the state alone: who may not act learns nothing of it.
    if refused.position and isinstance(refused, refusals.Conflict | refusals.Stale):
        return {POSITION_HEADER: str(refused.position)}
    return {}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _validation_message(error: ValidationException) -> str:
    # Only reached by what our own checks let pass: the framework's first complaint, in its words.
    first = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    return f"{first['key']} is not valid" if "key" in first else "Bad request"


def error_body(message: str, correlation_id: str) -> bytes:
    """The JSON of an error answer."""
    return msgspec.json.encode(ErrorView(message, correlation_id))


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The one exception handler of the application. What nobody foresaw is logged whole and answered with 500 and
    no detail."""
    problem = problem_of(error)
    if problem is None:
        # Not the path: it names people.
        log.error("unexpected error", exc_info=error, route=request.scope.get("path_template"))
        problem = Problem(500, "Internal server error")
    elif isinstance(error, LASTING):
        log.error("somebody has to see to it", error=str(error))
    # Those who were too many are counted: a line for each would cost more than refusing them.
    elif problem.status == 503 and not isinstance(problem, Busy):
        log.warning("unavailable", reason=problem.message, cause=repr(error))
    correlation_id: str = request.scope["state"]["correlation_id"]
    return Response(
        error_body(problem.message, correlation_id),
        status_code=problem.status,
        headers=problem.headers,
        media_type=JSON,
    )
