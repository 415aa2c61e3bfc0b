"""The HTTP transport of all sources: one session per call of a source, connections shared by all of them.

No source imports an HTTP library. What the transport promises: the token goes to the base address and nowhere
else; neither it nor the address of a redirect appears in a message; a body that breaks off raises; every failure is a
typed error of `core.errors`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from crawlfleet.core.account import Account
from crawlfleet.core.errors import (
    AuthError,
    NotPermitted,
    PermanentError,
    ProxyError,
    TaskError,
    TransientError,
    UsageError,
)
from crawlfleet.core.hosts import is_loopback
from crawlfleet.core.reach import PROXY_VARIABLES
from crawlfleet.sources.contract import Cancellable
from crawlfleet.sources.http.addresses import origin_of, split_address
from crawlfleet.sources.http.body import decode, inflate, split_lines
from crawlfleet.sources.http.clients import Clients
from crawlfleet.sources.http.proxies import ANY_VARIABLE, OpenProxy, Proxy
from crawlfleet.sources.http.redirects import MAX_REDIRECTS, REDIRECT_STATUSES, Redirects, secret_parts
from crawlfleet.sources.http.refusals import Classify, Refusal, general_error, is_page, retry_after_seconds, shorten

if TYPE_CHECKING:
    import httpx2

MAX_ERROR_BODY_BYTES = 16 * 1024
MAX_JSON_CHARS = 8 * 1024 * 1024  # as values they take ten times as much memory; a page of apps has some 100,000
QUOTED_FROM_CHARS = 16 * 1024  # of a text, however long


class Transport:
    """Connections to one base address; safe to share between threads, opened at the first request.

    `timeout_seconds` bounds the wait for the next bytes, not the whole response. `proxy` is for sessions that name
    none; no other is ever used, whatever the environment says. Answers may redirect to `redirect_hosts` too, see
    `Redirects`.
    Raises UsageError for an address to which a token must not go: only https, or http on loopback.
    """

    def __init__(
        self,
        base_url: str,
        proxy: str | None = None,
        timeout_seconds: float = 300.0,
        redirect_hosts: Sequence[str] = (),
    ) -> None:
        parts = split_address(base_url, "base_url")
        if parts.query or parts.fragment:
            raise UsageError(f"base_url must end with its path (got {base_url!r})")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise UsageError(f"base_url must begin with https://, http:// is for loopback only (got {base_url!r})")
        self._origin = origin_of(parts)
        self._base_path = parts.path.rstrip("/")
        self._is_plain = parts.scheme == "http"
        self._proxy = self._checked(proxy, ANY_VARIABLE)
        self.redirects = Redirects(parts, redirect_hosts)
        self._clients = Clients(timeout_seconds)

    def _checked(self, address: str | None, variables: Sequence[str] = PROXY_VARIABLES) -> Proxy | None:
        proxy = None if address is None else Proxy(address, variables)
        if proxy is not None and self._is_plain and not is_loopback(proxy.host):
            raise UsageError(f"an http:// base_url cannot be reached through proxy {proxy.name}: not loopback")
        return proxy

    def session(
        self,
        token: Callable[[], str] | None,
        context: Cancellable,
        classify: Classify | None = None,
        proxy: str | None = None,
        proxy_variables: Sequence[str] = PROXY_VARIABLES,
    ) -> Session:
        """Requests on behalf of one account; `token` is asked before each, with None they carry no
        Authorization. `proxy` is the account's own, which may name these variables.

        `classify` gives answers other than 200 their meaning and may return None for the general one: 401 auth, pages,
        429 and 5xx transient, the rest permanent.
        """
        return Session(self, token, context, classify, self._checked(proxy, proxy_variables) or self._proxy)

    def session_of(self, account: Account, context: Cancellable, classify: Classify | None = None) -> Session:
        """A session with the account's token and proxy."""
        return self.session(account.token, context, classify, account.proxy, account.reach.proxy_variables)

    def close(self) -> None:
        """Close idle connections; the next request opens new ones."""
        self._clients.close()

    def client(self, proxy: OpenProxy | None, url: str) -> AbstractContextManager[httpx2.Client]:
        """The client for a request of this address through this proxy, or through none."""
        return self._clients.use(proxy, url.startswith("https:"))

    def url(self, path_or_url: str) -> str:
        """The address of a path below the base address, or of a link when it stays at the same scheme, host and port.

        A link is taken apart and put on our own origin again, so no reading of it can lead elsewhere.
        Raises PermanentError for any other link.
        """
        if path_or_url.startswith("/") and not path_or_url.startswith("//"):
            return self._origin + self._base_path + path_or_url
        try:
            parts = split_address(path_or_url, "link")
        except UsageError as error:
            raise PermanentError(str(error)) from None
        if origin_of(parts) != self._origin:
            raise PermanentError(f"a link leads to {origin_of(parts)}, away from {self._origin}: not followed")
        return self._origin + parts.path + (f"?{parts.query}" if parts.query else "")


class Session:
    """The requests that one call of a source makes. Not shared between threads."""

    def __init__(
        self,
        transport: Transport,
        token: Callable[[], str] | None,
        context: Cancellable,
        classify: Classify | None,
        proxy: Proxy | None,
    ) -> None:
        self._transport = transport
        self._token = token
        self._context = context
        self._classify = classify
        self._proxy = proxy
        self._secrets: list[str] = []

    def get_json(self, path_or_url: str, params: Mapping[str, str] | None = None) -> Any:
        """The JSON value of the answer.

        Raises TransientError for a body that is no JSON: a page, a text, JSON that breaks off, nothing. It says nothing
        of what was asked. Raises PermanentError for one that is too long or too deep.
        """
        with self._answer(path_or_url, params, "application/json") as (response, where):
            parts = []
            total_chars = 0
            for piece in decode(self._chunks(response, where), where):
                total_chars += len(piece)
                if total_chars > MAX_JSON_CHARS:
                    raise PermanentError(f"{where}: the body is longer than {MAX_JSON_CHARS} characters")
                parts.append(piece)
        text = "".join(parts)
        if not text.strip():
            raise TransientError(f"{where}: the body is empty")
        if is_page(text):
            raise TransientError(f"{where}: the answer is a page, not the vendor's: {self.quote(text)}")
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
                raise TransientError(f"{where}: the JSON breaks off after {len(text)} characters") from None
            raise TransientError(f"{where}: the body is no JSON: {self.quote(text)}") from None
        except (ValueError, RecursionError):
            raise PermanentError(f"{where}: the body is JSON beyond reading: {self.quote(text)}") from None

    def stream_lines(
        self,
        path_or_url: str,
        params: Mapping[str, str] | None = None,
        accept: str = "text/csv",
        keep_bad_bytes: bool = False,
    ) -> Iterator[str]:
        """Lines of an answer with their line ends, while it arrives.

        Raises TransientError when the body breaks off, PermanentError when it is not UTF-8; with `keep_bad_bytes` a
        byte that is no UTF-8 comes as a lone surrogate, U+DC80 to U+DCFF.
        """
        with self._answer(path_or_url, params, accept) as (response, where):
            length_known = "content-length" in response.headers or "transfer-encoding" in response.headers
            pieces = decode(self._chunks(response, where), where, keep_bad_bytes)
            yield from split_lines(pieces, where, length_known)

    def remark(self, name: str, text: str) -> None:
        """Tell of something that was left out of an answer or mended; `text` is made fit for a message."""
        remark = getattr(self._context, "remark", None)  # contexts that others made for their tests may lack it
        if remark is not None:
            remark(name, self.quote(text))

    def quote(self, text: str) -> str:
        """Text of the vendor for a message: one line, at most 200 characters, without secrets."""
        cleaned = self._clean(text[:QUOTED_FROM_CHARS])
        if len(text) > QUOTED_FROM_CHARS:  # a secret may have been cut in two, and each character spelled as %XX
            cleaned = cleaned[: max(0, len(cleaned) - 3 * max(map(len, self._secrets), default=0))]
        return shorten(cleaned)

    def _clean(self, text: str) -> str:
        """Control characters become spaces before secrets are looked for: none can hide behind them."""
        text = re.sub(r"\s+", " ", "".join(character if character.isprintable() else " " for character in text)).strip()
        for secret in self._secrets:
            text = re.sub(_any_spelling(secret), "[redacted]", text, flags=re.IGNORECASE)
        return text

    def _chunks(self, response: httpx2.Response, where: str) -> Iterator[bytes]:
        return inflate(self._raw_chunks(response), response.headers.get("content-encoding", ""), where)

    def _raw_chunks(self, response: httpx2.Response) -> Iterator[bytes]:
        for chunk in response.iter_raw():
            self._context.check()
            yield chunk

    @contextmanager
    def _answer(
        self, path_or_url: str, params: Mapping[str, str] | None, accept: str
    ) -> Iterator[tuple[httpx2.Response, str]]:
        """One GET with status 200, over at most `MAX_REDIRECTS` redirects; everything else raises. Library errors are
        replaced, never chained: they carry the request and with it the token.
        """
        import httpx2

        try:
            url = self._transport.url(path_or_url)
        except PermanentError as error:
            raise PermanentError(self.quote(str(error))) from None
        if params:
            url += "?" + urlencode(params)
        headers = {"Accept": accept, **self._authorization()}
        proxy = None if self._proxy is None else self._proxy.open()
        for secret in proxy.secrets if proxy else ():
            self._hide(secret)
        where = asked = self._clean(f"GET {urlsplit(url).path}")
        known = self._known_texts(url)
        way = _Way(self._context)
        try:
            for hop in range(MAX_REDIRECTS + 1):
                self._context.check()
                with self._response(url, headers, proxy, where, way) as response:
                    if response.status_code == 200:
                        yield response, where
                        return
                    if response.status_code not in REDIRECT_STATUSES:
                        raise self._refused(response, where, proxy, url, is_redirected=hop > 0)
                    url = self._redirected(response, url, where, known)
                if not self._transport.redirects.keeps_token(url):
                    headers.pop("Authorization", None)  # and it does not come back, wherever else the way leads
                where = f"{asked}, redirected to {origin_of(urlsplit(url))},"
            raise TransientError(f"{asked} redirects more than {MAX_REDIRECTS} times: not followed further")
        except httpx2.TimeoutException as error:
            via = f"{where} through proxy {proxy.address}" if proxy else where
            raise TransientError(f"{via}: no answer in time ({type(error).__name__})") from None
        except httpx2.InvalidURL as error:
            raise PermanentError(f"{where}: {self.quote(str(error))}") from None
        except httpx2.HTTPError as error:
            via = f"{where} through proxy {proxy.address}" if proxy else where
            raise TransientError(f"{via}: {self._reason(error)}") from None

    def _redirected(self, response: httpx2.Response, url: str, where: str, known: Collection[str]) -> str:
        """The address that the answer leads to, which from now on is a secret."""
        location = response.headers.get("location")
        try:
            target = self._transport.redirects.follow(url, response.status_code, location)
        except TransientError as error:
            raise TransientError(f"{where} {self._clean(str(error))}") from None
        for secret in secret_parts(target, known):
            self._hide(secret)
        return target

    def _known_texts(self, url: str) -> set[str]:
        """What of our own request an address of the vendor may repeat: it stays readable in messages."""
        parts = urlsplit(url)
        values = [value for _, value in parse_qsl(parts.query)]
        return {parts.path, *map(unquote, parts.path.split("/")), *values}

    def _authorization(self) -> dict[str, str]:
        if self._token is None:
            return {}
        token = self._token()
        self._hide(token)
        return {"Authorization": f"Bearer {token}"}

    def _hide(self, secret: str) -> None:
        if secret not in self._secrets:
            self._secrets.append(secret)

    @contextmanager
    def _response(
        self, url: str, headers: Mapping[str, str], proxy: OpenProxy | None, where: str, way: _Way
    ) -> Iterator[httpx2.Response]:
        """The answer; its body is still to come. What fails before the way to the vendor is open is the proxy's."""
        import httpx2

        way.is_open = False
        with self._transport.client(proxy, url) as client:
            request = client.build_request("GET", url, headers=headers, extensions={"trace": way.follow})
            try:
                response = client.send(request, stream=True)
            except Exception as error:  # what a proxy says out of turn, the library answers with any exception
                if proxy is None or way.is_open:
                    raise
                if isinstance(error, httpx2.ProxyError):
                    raise ProxyError(f"{where}: proxy {proxy.address} refused: {self.quote(str(error))}") from None
                raise ProxyError(f"{where}: proxy {proxy.address} failed: {self._reason(error)}") from None
            with closing(response):
                yield response

    def _reason(self, error: Exception) -> str:
        return f"{type(error).__name__}: {self.quote(str(error)) or 'connection lost'}"

    def _refused(
        self, response: httpx2.Response, where: str, proxy: OpenProxy | None, url: str, is_redirected: bool
    ) -> TaskError:
        status = response.status_code
        retry_after = retry_after_seconds(response.headers.get("retry-after"), response.headers.get("date"))
        refusal = Refusal(where, status, self._error_body(response, where), retry_after)
        # A proxy reads plain http, and may answer in the vendor's place.
        if status == 407 and proxy is not None and url.startswith("http:") and proxy.address.startswith("http"):
            return ProxyError(f"{where}: proxy {proxy.address} refused: {refusal}")
        error = self._classify(refusal) if self._classify else None
        if is_redirected:
            # The vendor took the token before it sent us here: only this address may have expired.
            if error is None or isinstance(error, AuthError) or not getattr(error, "in_words", True):
                return TransientError(f"{refusal} (the address of a redirect may have expired)", retry_after)
            if isinstance(error, NotPermitted):
                return NotPermitted(str(error), in_words=False)
        return error or general_error(refusal)

    def _error_body(self, response: httpx2.Response, where: str) -> str:
        """The start of an error body; what cannot be read of it does not matter."""
        import httpx2

        raw = b""
        try:
            for chunk in self._chunks(response, where):
                raw += chunk
                if len(raw) > MAX_ERROR_BODY_BYTES:
                    # The cut could leave the first half of an echoed token, which no search would find.
                    raw = raw[: MAX_ERROR_BODY_BYTES - max(map(len, self._secrets), default=0)]
                    break
        except (httpx2.HTTPError, TaskError):
            pass
        return self._clean(raw.decode("utf-8", errors="replace"))


class _Way:
    """How far a call has come. The way is open once the library begins TLS with the vendor or sends to it.

    The requests of a call that is redirected are one call for the vendor: the first one begins it, and the first answer
    that is no redirect answers it.
    """

    def __init__(self, context: Cancellable) -> None:
        self.is_open = False
        self._is_sent = False  # the request, not only that for a proxy's connection
        self._is_answered = False
        self._context = context

    def follow(self, event: str, details: Mapping[str, Any]) -> None:
        """A step of the library, as its extension `trace` names it.

        The vendor counts what it is sent, so a call is counted when its connection stands and the request is about to
        leave; to ask a proxy for a connection is no call.
        """
        if event in ("proxy.start_tls.started", "socks.start_tls.started"):
            self.is_open = True
        elif event == "http11.send_request_headers.started" and details["request"].method != b"CONNECT":
            self.is_open = True
            if not self._is_sent:
                self._is_sent = True
                self._context.before_call()
        elif event == "http11.receive_response_headers.complete" and self._is_sent and not self._is_answered:
            self._is_answered = details["return_value"][1] not in REDIRECT_STATUSES
            if self._is_answered:
                self._context.after_answer()


def _any_spelling(secret: str) -> str:
    """A pattern for a secret as it is, percent-encoded, or escaped as in JSON, each character its own way."""
    return "".join(f"(?:{re.escape(char)}|%{ord(char):02x}|\\\\u{ord(char):04x})" for char in secret)
