"""Errors as clients get them: `{"error": a stable code, "detail": a sentence for people}`, whatever went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from crawlfleet.api.bodies import MANY, ONE
from crawlfleet.core.errors import (
    CrawlfleetError,
    DatabaseError,
    DatabaseRefused,
    DatabaseUnreachable,
    NotFound,
    UsageError,
)
from crawlfleet.core.seldom import Seldom

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 1024 * 1024
TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES} bytes: send less at a time"
AWAY = "the database cannot be used: try again; the node's log tells why"
MAX_VALUE_CHARS = 80  # of a wrong value that is repeated
CODES = {  # HTTP status -> code
    400: "bad_request",
    401: "token_needed",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "too_many",
    500: "unexpected",
    503: "unavailable",
}


class Refusal(HTTPException):
    """Raised by a route: an HTTP status and a sentence that says what is wrong, which value, what to do."""


def refusal(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response of an error."""
    return JSONResponse({"error": CODES.get(status, "bad_request"), "detail": detail}, status, dict(headers or {}))


def told(error: DatabaseError) -> str:
    """What clients may know of it: where the database is and who uses it is for the log."""
    return AWAY if isinstance(error, DatabaseUnreachable | DatabaseRefused) else str(error)


def safe_headers(is_tls: bool) -> dict[str, str]:
    """The headers of every response, which tell browsers to be careful."""
    headers = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    }
    return headers | ({"Strict-Transport-Security": "max-age=31536000"} if is_tls else {})


def add_handlers(app: FastAPI) -> None:
    """Let every error of the application become such a response."""
    app.add_exception_handler(CrawlfleetError, _own)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _own(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, DatabaseError):
        return refusal(503, told(error))
    if isinstance(error, NotFound):
        return refusal(404, str(error))
    return refusal(422 if isinstance(error, UsageError) else 409, str(error))


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    more = f"; {len(problems) - 1} more" if len(problems) > 1 else ""
    return refusal(422, _sentence(problems[0]) + more)


def _sentence(problem: Mapping[str, Any]) -> str:
    """What is wrong with which value, from one of pydantic's errors."""
    where = [part for part in problem["loc"] if part not in {"body", "query", "path", "header", ONE, MANY}]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    if problem["type"] == "json_invalid":
        return f"the body is no JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] in {"missing", "extra_forbidden"}:
        return f"{name or 'the body'}: {message}"
    value = repr(problem["input"])
    shown = value if len(value) <= MAX_VALUE_CHARS else f"{value[:MAX_VALUE_CHARS]}..."
    return f"{name or 'the body'}: {message} (got {shown})"


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = "there is no such path: /docs shows all"
    if error.status_code == 400:  # FastAPI's, for bytes that are no UTF-8 and for JSON nested too deep
        detail = "the body cannot be read: send JSON in UTF-8"
    if error.status_code == 413:
        detail = TOO_LARGE
    return refusal(error.status_code, detail, error.headers)


_unexpected = Seldom()


def unexpected(scope: Scope, error: Exception) -> JSONResponse:
    """The response to a defect of ours. The log tells one a minute: whoever found a way to cause it could fill it."""
    if count := _unexpected.count():
        log.error(
            "request failed: method=%s path=%r count=%d", scope["method"], scope["path"][:200], count, exc_info=error
        )
    return refusal(500, "unexpected error: the node's log tells more")
