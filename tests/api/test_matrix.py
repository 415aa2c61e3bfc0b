"""Every route with many kinds of credentials and methods, tricks with paths, hostile hosts: who gets in, and what is
told to those who do not."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import pytest

from crawlfleet.api import guard
from crawlfleet.api.guard import OPEN_PATHS, READING
from crawlfleet.model.api_token import ApiTokenDAO, Role, token_hash
from tests.api.conftest import Serve
from tests.api.sample import Sample, sample_fleet
from tests.api.test_tokens import filled, needed_role, operations
from tests.conftest import Backend

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

ADMIN = "the-token-of-the-setting-has-32-characters"
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "QUERY", "gEt"]
SAFE = {"x-content-type-options", "x-frame-options", "referrer-policy", "cache-control", "content-security-policy"}
Answer = tuple[int, dict[str, str], bytes]
_addresses = count(1)


@pytest.fixture
def sample(backend: Backend) -> Iterator[Sample]:
    with sample_fleet(backend.url, api_token=ADMIN) as found:
        yield found


async def ask(
    app: Any, method: str, path: str, headers: list[tuple[str, str]], query: str = "", body: bytes = b"{}"
) -> Answer:
    """The application's answer to a request from an address of its own."""
    number = next(_addresses)
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json"), *pairs],
        "client": (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1),
        "server": ("127.0.0.1", 8080),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


def check_refusal(method: str, answer: Answer, secrets: tuple[str, ...] = ()) -> None:
    """It is careful, of the one form that errors have, and tells nothing of where it comes from."""
    status, headers, body = answer
    assert headers.keys() >= SAFE, (status, headers)
    told = body.decode() + str(headers)
    for secret in (socket.gethostname(), getpass.getuser(), os.getcwd(), "Traceback", ".py", "sqlite", *secrets):
        assert secret not in told, (secret, told)
    if method != "HEAD":
        assert json.loads(body).keys() == {"error", "detail"}, body


def credentials(sample: Sample) -> dict[str, tuple[list[tuple[str, str]], str]]:
    """Headers and query of requests that nobody may make."""
    tokens = ApiTokenDAO(sample.db)
    revoked, good = tokens.add("revoked", Role.ADMIN), tokens.add("good", Role.ADMIN)
    tokens.revoke("revoked")

    def bearer(token: str, scheme: str = "Bearer ") -> tuple[list[tuple[str, str]], str]:
        return [("Authorization", scheme + token)], ""

    return {
        "none": ([], ""),
        "empty": bearer(""),
        "wrong": bearer("wrong"),
        "revoked": bearer(revoked),
        "basic": bearer(good, "Basic "),
        "no scheme": bearer(good, ""),
        "two tokens": ([("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")], ""),
        "two in one": bearer(f"{good}, {good}"),
        "its hash": bearer(str(token_hash(good))),
        "cut": bearer(good[:-1]),
        "other case": bearer(good.swapcase()),
        "huge": bearer("x" * 60_000),
        "no text": bearer("\xff\x00\xfe"),
        "elsewhere": ([("X-Api-Key", good), ("Cookie", f"token={good}")], f"access_token={good}&token={good}"),
    }


def test_whoever_has_no_good_token_gets_nowhere_with_any_method(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted({filled(path, sample) for _, path in operations(sample.app)} | {"/nothing", "/"})
    kinds = credentials(sample)
    monkeypatch.setattr(guard, "TOKENS_KEPT", 60.0)
    before = sample.contents()

    async def walk() -> int:
        tried = 0
        for path in paths:
            for method in METHODS:
                for kind, (headers, query) in kinds.items():
                    if path in OPEN_PATHS:
                        continue
                    answer = await ask(sample.app, method, path, headers, query)
                    assert answer[0] == 401, (method, path, kind, answer)
                    if kind in {"none", "no text", "elsewhere"}:
                        check_refusal(method, answer, (ADMIN,))
                    tried += 1
        return tried

    assert len(kinds) == 14
    assert asyncio.run(walk()) > 14 * 12 * 40
    assert sample.contents() == before


def test_no_role_gets_beyond_what_is_its_own_with_any_method(sample: Sample) -> None:
    tokens = {role: ApiTokenDAO(sample.db).add(role.value, role) for role in Role}
    found = operations(sample.app)
    methods_of: dict[str, set[str]] = {}
    for method, path in found:
        methods_of.setdefault(path, set()).add(method)
    before = sample.contents()

    async def walk() -> set[int]:
        statuses = set()
        for path, own in methods_of.items():
            for role, token in tokens.items():
                for method in METHODS:
                    needed = needed_role(sample.app, method, path) if method in own else Role.READ
                    if method in own and list(Role).index(role) >= list(Role).index(needed):
                        continue  # it may do that
                    headers = [("Authorization", f"Bearer {token}")]
                    answer = await ask(sample.app, method, filled(path, sample), headers)
                    refused = {403} if method in own else {404, 405, 422} | ({403} if method not in READING else set())
                    if path in OPEN_PATHS and method not in own:
                        refused = {405}
                    assert answer[0] in refused, (method, path, role, answer)
                    check_refusal(method, answer)
                    statuses.add(answer[0])
        return statuses

    assert asyncio.run(walk()) >= {403, 405}
    assert sample.contents() == before


TRICKS = [
    "//metrics",
    "/./metrics",
    "/healthz/../metrics",
    "/healthz/..%2fmetrics",
    "/healthz%2f..%2fmetrics",
    "/healthz/..;/metrics",
    "/healthz;/metrics",
    "/healthz/",
    "/HEALTHZ",
    "/healthz%00",
    "/healthz%0a",
    "/healthz%20",
    "/healthz.json",
    "/healthz%3f",
    "/healthz\\..\\metrics",
    "/%2e%2e/metrics",
    "/metrics/../healthz",
    "/api//distribution/tasks",
    "/%61pi/distribution/tasks",
    "/docs/../healthz",
    "http://localhost/healthz",
]


def test_no_trick_with_a_path_leads_past_the_guard(serve: Serve, backend: Backend) -> None:
    served = serve(api_token=ADMIN)
    assert len(TRICKS) == 21
    with closing(socket.create_connection(served.address, timeout=20)) as client, client.makefile("rb") as answers:
        for path in TRICKS:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            status = int(answers.readline().split()[1])
            headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(answers.readline, b"\r\n"))
            body = answers.read(int(headers["content-length"]))
            assert status == 401, (path, status, body)
            check_refusal("GET", (status, headers, body))


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /heal thz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
    ],
    ids=["no version", "no host", "two hosts", "blank", "two lengths", "coding", "huge"],
)
def test_what_is_no_request_is_refused_as_every_other(serve: Serve, backend: Backend, request_head: bytes) -> None:
    """The server's own answer had no security headers."""
    with closing(socket.create_connection(serve().address, timeout=20)) as client:
        client.sendall(request_head)
        with client.makefile("rb") as answers:
            status = int(answers.readline().split()[1])
            headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(answers.readline, b"\r\n"))
            check_refusal("GET", (status, headers, answers.read(int(headers["content-length"]))))
    assert 400 <= status < 500 or status == 501


HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example:8080",
    "localhost@evil.example",
    "127.0.0.1:80@evil.example",
    "127.0.0.1#evil",
    "127.0.0.1/evil",
    "127.0.0.1%00.evil",
    "127.0.0.1\\evil",
    "[",
    "[::1",
    "::1",
    "[::1]evil",
    "[evil]:80",
    "0.0.0.0",
    "2130706433",
    "0x7f.1",
    "10.0.0.1",
    "localhost:port",
]
ORIGINS = ["https://evil.example", "null", "http://localhost.evil.example", "http://[", "http://127.0.0.1:1", "file://"]


def test_without_tokens_no_strange_host_or_origin_gets_in(backend: Backend) -> None:
    """Brackets around what is no address were a failure of ours."""
    strange = [[("Host", host)] for host in [*HOSTS, ""]] + [[], [("Host", "localhost"), ("Host", "localhost")]]
    strange += [[("Host", "127.0.0.1"), ("Origin", origin)] for origin in ORIGINS]
    strange += [[("Host", "127.0.0.1"), ("Origin", "http://127.0.0.1"), ("Origin", "https://evil.example")]]
    strange += [[("Host", "127.0.0.1"), ("Sec-Fetch-Site", site)] for site in ("cross-site", "same-site", "?")]

    async def walk(app: Any) -> None:
        for headers in strange:
            for method, path in (("GET", "/metrics"), ("POST", "/api/distribution/management/pause")):
                answer = await ask(app, method, path, headers, body=b'{"reason": "x"}')
                assert answer[0] == 403, (headers, answer)
                check_refusal(method, answer)
        for host in ("localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]", "[::1]:8080"):
            headers = [("Host", host), ("Origin", f"http://{host}")]
            assert (await ask(app, "GET", "/openapi.json", headers))[0] == 200, host

    with sample_fleet(backend.url) as sample:
        before = sample.contents()
        asyncio.run(walk(sample.app))
        assert sample.contents() == before


def test_the_page_of_the_api_needs_no_other_host(sample: Sample) -> None:
    """Its scripts came from a network of others, which could have run anything with the token in the page."""

    async def walk() -> dict[str, Answer]:
        headers = [("Authorization", f"Bearer {ADMIN}")]
        paths = ("/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/nothing")
        return {path: await ask(sample.app, "GET", path, headers) for path in paths}

    answers = asyncio.run(walk())
    assert [answer[0] for answer in answers.values()] == [200, 200, 200, 200, 404]
    page = answers["/docs"]
    assert b"//" not in page[2]
    assert {path.encode() for path in list(answers)[1:4]} == set(re.findall(rb"/docs/[a-z.-]+", page[2]))
    policy = page[1]["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not {"http", "unsafe", "*"} & set(re.findall(r"https?|unsafe|\*", policy))
    assert [path for path, answer in answers.items() if "data:" in answer[1]["content-security-policy"]] == ["/docs"]
    assert b"validatorUrl: null" in answers["/docs/start.js"][2]
