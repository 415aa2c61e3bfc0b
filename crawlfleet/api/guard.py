"""Who may ask for what: tokens with roles, no foreign web pages, and headers that keep browsers careful.

A request that only reads needs the role `read`, every other one `operate`: a new route is never open by mistake. What
needs `admin` says so itself (`admin_only`).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import re
import time
from datetime import timedelta

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crawlfleet.api import docs_page
from crawlfleet.api.callers import Caller, TokenExpired
from crawlfleet.api.query_runner import QueryRunner
from crawlfleet.api.refusals import MAX_BODY_BYTES, TOO_LARGE, Refusal, refusal, safe_headers, told, unexpected
from crawlfleet.api.strangers import WRONG_TOKEN, Strangers
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseError
from crawlfleet.core.hosts import is_loopback
from crawlfleet.model.api_token import ApiTokenDAO, Known, Role, token_hash

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz"})  # what needs no token
READING = frozenset({"GET", "HEAD", "OPTIONS"})
FORWARDED = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"})
TOKENS_KEPT = 2.0  # seconds: so long a revoked token may still work
NOTE_SECONDS = 60.0  # between two notes of a token's use
TOKENS_PATIENCE = 3.0  # seconds that a look at the tokens may take
MAX_TOKEN_CHARS = 1024
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")  # all that the header may hold
MAX_AT_WORK = 80  # requests, of the connections that there may be; the others are left to probes
TOO_BUSY = f"this node is at work on {MAX_AT_WORK} requests already: ask again later, or another node"
NEED_TOKEN = (
    "a token is needed: send the header Authorization: Bearer TOKEN, with one of `tokens add` or the node's api_token"
)
SLOWED = "too many wrong tokens came from this address: wait, and send the right one"


class Keys:
    """The tokens that are known now: the setting's, which is an admin's, and those in the table."""

    def __init__(self, db: Database, api_token: str | None, demanded: bool) -> None:
        self._queries = QueryRunner(db, at_once=1)  # of its own: questions that take long must not keep callers out
        self._admin_hash = None if api_token is None else token_hash(api_token)
        self._demanded = demanded
        self._known: Known | None = None
        self._read_at = 0.0
        self._look: asyncio.Task[None] | None = None
        self._look_began = 0.0
        self._noted: dict[str, float] = {}  # when each token's use was last written, by its hash
        self._notes: set[asyncio.Task[None]] = set()

    async def caller(self, token: str | None) -> Caller | None:
        """Whose token this is; None for nobody's. While there never was a token everybody is admin, on loopback.

        Raises TokenExpired, and DatabaseError when the tokens were never read and cannot be.
        """
        if token is not None:
            digest = token_hash(token)
            if self._admin_hash is not None and hmac.compare_digest(digest, self._admin_hash):
                return Caller("token api_token", Role.ADMIN)
            match = None
            reading = await self._read_lately()
            for stored in reading.tokens:  # all of them: how long it takes tells nothing
                if hmac.compare_digest(digest, stored.token_hash):
                    match = stored
            if match is None:
                return None
            now = reading.now + timedelta(seconds=time.monotonic() - self._read_at)
            if match.expires_at is not None and match.expires_at <= now:
                raise TokenExpired(
                    f"the token {match.name} expired at {match.expires_at:%Y-%m-%d %H:%M} UTC: make another with"
                    " `tokens add`"
                )
            return Caller(f"token {match.name}", match.role, match.accounts, match.expires_at)
        if self._demanded or self._admin_hash is not None or (await self._read_lately()).demanded:
            return None
        return Caller("local", Role.ADMIN)

    def note_use(self, digest: str) -> None:
        """Remember that a request with this token was let through, at most once a minute; nobody waits for it."""
        is_known = self._known is not None and any(stored.token_hash == digest for stored in self._known.tokens)
        if not is_known or time.monotonic() < self._noted.get(digest, -math.inf) + NOTE_SECONDS:
            return
        self._noted[digest] = time.monotonic()
        note = asyncio.create_task(self._queries.ask(lambda db: ApiTokenDAO(db).note_use(digest)))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)
        note.add_done_callback(lambda done: done.cancelled() or done.exception())  # the next minute's will do

    async def _read_lately(self) -> Known:
        if self._known is None or time.monotonic() > self._read_at + TOKENS_KEPT:
            if self._look is None or self._look.done():
                self._look, self._look_began = asyncio.create_task(self._read()), time.monotonic()
                self._look.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if nobody waits
            patience = max(0.0, self._look_began + TOKENS_PATIENCE - time.monotonic())
            done, _ = await asyncio.wait({self._look}, timeout=patience)
            failure = self._look.exception() if done else DatabaseError("the database does not answer: try again")
            if self._known is None:
                raise failure or DatabaseError("the database told no tokens: try again")
        return self._known  # when the database is away: those known last, with whom /metrics can still be read

    async def _read(self) -> None:
        began = time.monotonic()
        self._known = await self._queries.ask(lambda db: ApiTokenDAO(db).known())
        self._read_at = began


class Guard:
    """Lets a request pass whose caller may make it; puts security headers on every response."""

    def __init__(self, app: ASGIApp, keys: Keys, strangers: Strangers, is_tls: bool) -> None:
        self._app = app
        self._keys = keys
        self._strangers = strangers
        self._safe_headers = safe_headers(is_tls)
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), scope["path"])
                has_begun = True
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers)
        except Exception as error:  # here and not in the application, whose own answer would lack the headers
            answer = unexpected(scope, error)
            if has_begun:
                raise
            await answer(scope, receive, send_with_headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if self._at_work >= MAX_AT_WORK:
            await refusal(503, TOO_BUSY, {"Retry-After": "1"})(scope, receive, send)
            return
        self._at_work += 1
        try:
            app = await self._allowed(scope)
            await app(scope, receive, send)
        finally:
            self._at_work -= 1

    async def _allowed(self, scope: Scope) -> ASGIApp:
        """The application, or the response that refuses the request."""
        headers = Headers(scope=scope)
        token = _bearer(headers)
        address = str((scope.get("client") or ("unknown",))[0])
        digest = token_hash(token or "")
        if token is not None and (pause := self._strangers.pause(address, digest)):
            self._strangers.refuse(address, "slowed")
            return refusal(429, SLOWED, {"Retry-After": str(math.ceil(pause))})
        try:
            caller = None if token == "" else await self._keys.caller(token)
        except TokenExpired as error:
            self._strangers.refuse(address, "expired")
            return refusal(401, str(error), {"WWW-Authenticate": "Bearer"})
        except DatabaseError as error:
            return refusal(503, told(error))
        if caller is None:
            self._strangers.refuse(address, "no_token" if token is None else WRONG_TOKEN)
            return refusal(401, NEED_TOKEN, {"WWW-Authenticate": "Bearer"})
        if token is not None:
            self._strangers.welcome(address, digest)
        elif problem := _foreign(headers, scope["http_version"]):
            self._strangers.refuse(address, "foreign")
            return refusal(403, problem)
        needed = Role.READ if scope["method"] in READING else Role.OPERATE
        if not caller.role.covers(needed):
            self._strangers.refuse(address, "too_weak")
            return refusal(403, too_weak(caller, needed))
        if problem := caller.out_of_scope(scope):
            self._strangers.refuse(address, "out_of_scope")
            return refusal(403, problem)
        if token is not None:
            self._keys.note_use(digest)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MAX_BODY_BYTES:  # FastAPI counts chunked ones
            return refusal(413, TOO_LARGE)
        scope.setdefault("state", {}).update(caller=caller, caller_now=lambda: self._keys.caller(token))
        return self._app

    def _add_headers(self, headers: MutableHeaders, path: str) -> None:
        headers.update(self._safe_headers)
        if path == "/docs":
            headers["Content-Security-Policy"] = docs_page.POLICY


def _bearer(headers: Headers) -> str | None:
    """The token of the request; None when it has none, empty when what it has is no single token."""
    given = headers.getlist("authorization")
    if not given:
        return None
    scheme, _, token = given[0].partition(" ")
    token = token.strip()
    is_one = len(given) == 1 and scheme.lower() == "bearer" and len(token) <= MAX_TOKEN_CHARS
    return token if is_one else ""


def _foreign(headers: Headers, http_version: str) -> str | None:
    """Why a request without a token is refused although none is demanded: another site's page, or a proxy, made it.

    Behind a proxy on this machine everybody comes from loopback; it names who asked it, or speaks HTTP/1.0 as nginx
    does unless told otherwise. A browser tells the page's origin, and a page that gave its own name our address still
    sends that name as host.
    """
    trace = next((name for name in headers if name in FORWARDED or name.startswith("x-forwarded-")), None)
    if trace is not None or http_version == "1.0":
        how = f"with the header {trace}" if trace else "as HTTP/1.0"
        return f"the request came through a proxy ({how}), and then a token is needed: make one with `tokens add`"
    hosts = headers.getlist("host")
    match = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    host = match[1].strip("[]").lower() if match else ""
    if not is_loopback(host):
        return f"without a token only local names may be used (got the host {host!r:.80}): use 127.0.0.1 or localhost"
    origins = headers.getlist("origin")
    is_foreign = any(origin.partition("://")[2] != hosts[0] for origin in origins)
    if is_foreign or headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return "a page of another site may not ask this API: use a token"
    return None


def too_weak(caller: Caller, needed: Role) -> str:
    """Why the caller may not do it."""
    return f"{caller.actor} has the role {caller.role}, and this needs {needed}: use a token of that role"


def caller_of(request: Request) -> Caller:
    """Who made this request."""
    caller: Caller = request.state.caller
    return caller


async def still_may_read(request: Request) -> bool:
    """Whether who made this request might still make it: an answer without an end may outlive its token."""
    try:
        caller: Caller | None = await request.state.caller_now()
    except TokenExpired:
        return False
    return caller is not None and caller.role.covers(Role.READ)


def admin_only(request: Request) -> None:
    """The dependency of a route that needs the role admin."""
    caller = caller_of(request)
    if not caller.role.covers(Role.ADMIN):
        raise Refusal(403, too_weak(caller, Role.ADMIN))
