"""The transport against servers that misbehave, over real sockets."""

from __future__ import annotations

import gzip
import logging
import socket
import traceback
import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from crawlfleet.core.errors import AuthError, PermanentError, ProxyError, TransientError, UsageError
from crawlfleet.sources.http.body import PIECE_BYTES, inflate
from crawlfleet.sources.http.transport import QUOTED_FROM_CHARS, Transport


def read_lines(address, context, token, path="/x", **options):
    transport = Transport(address, **options)
    try:
        return list(transport.session(lambda: token, context).stream_lines(path))
    finally:
        transport.close()


def read_json(address, context, token, path="/x", **options):
    transport = Transport(address, **options)
    try:
        return transport.session(lambda: token, context).get_json(path)
    finally:
        transport.close()


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


@pytest.mark.parametrize(
    "address",
    [
        "http://hq1.appsflyer.com",
        "http://127.0.0.1.example.invalid",
        "http://10.0.0.1:8080",
        "ftp://127.0.0.1",
        "hq1.appsflyer.com",
        "https://",
        "https://user:pw-secret@example.invalid",
        "https://example.invalid/?a=b",
        "https://example.invalid:99999",
        "https://[::1",
    ],
)
def test_an_address_the_token_must_not_go_to_is_wrong_usage(address):
    with pytest.raises(UsageError) as caught:
        Transport(address)
    assert "pw-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:80", "https://example.invalid/gw/"]
)
def test_loopback_and_https_addresses_are_accepted(address):
    assert Transport(address).url("/a").endswith("/a")


def test_a_base_path_comes_before_the_path():
    assert Transport("https://example.invalid/gw/").url("/api") == "https://example.invalid:443/gw/api"


@pytest.mark.parametrize(
    "link",
    [
        "https://example.invalid/x",
        "http://127.0.0.1:8001/x",
        "http://127.0.0.2:8000/x",
        "https://127.0.0.1:8000/x",
        "http://127.0.0.1:8000@example.invalid/x",
        "http://u:p@127.0.0.1:8000/x",
        "//example.invalid/x",
        "http://127.0.0.1:8000\\@example.invalid/x",
        "javascript:alert(1)",
        "",
    ],
)
def test_a_link_to_anywhere_else_is_not_followed(link):
    with pytest.raises(PermanentError):
        Transport("http://127.0.0.1:8000").url(link)


def test_a_link_to_the_same_origin_is_followed_in_any_spelling():
    transport = Transport("https://Example.invalid")
    assert transport.url("HTTPS://example.INVALID:443/a?b=c") == "https://example.invalid:443/a?b=c"


def test_lines_keep_their_ends_and_only_line_feeds_end_them(raw_server, make_reply, context, token):
    body = "\ufeffa,b\r\nc\u2028d,\x0be\n".encode()
    server = raw_server(make_reply(body))
    assert read_lines(server.address, context, token) == ["a,b\r\n", "c\u2028d,\x0be\n"]
    assert f"Authorization: Bearer {token}".lower() in server.requests[0].lower()


def test_characters_split_between_chunks_are_put_together(raw_server, context, token):
    body = "春节,ü\n".encode()
    server = raw_server(chunked(*(body[index : index + 1] for index in range(len(body)))))
    assert read_lines(server.address, context, token) == ["春节,ü\n"]


LINES = [f"line {number}\n" for number in range(20_000)]
TEXT = "".join(LINES).encode()
RAW_DEFLATE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("gzip", gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", RAW_DEFLATE.compress(TEXT) + RAW_DEFLATE.flush()),
    ],
    ids=["gzip", "two gzip members", "deflate", "raw deflate"],
)
def test_compressed_bodies_are_read(raw_server, make_reply, context, token, encoding, body):
    server = raw_server(make_reply(body, headers=f"Content-Encoding: {encoding}\r\n"))
    assert read_lines(server.address, context, token) == LINES


def test_compressed_bodies_of_every_size_around_a_piece_are_read_whole():
    for size in range(PIECE_BYTES - 300, PIECE_BYTES + 300):
        compressor = zlib.compressobj(wbits=-15)  # no trailer: the last bytes of text wait for no further input
        compressed = compressor.compress(b"x" * size) + compressor.flush()
        assert sum(len(piece) for piece in inflate([compressed], "deflate", "here")) == size


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na,b\n",
        chunked(b"a,b\n", end=b""),
        chunked(b"a,b\n", end=b"zz\r\n"),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\na,b\nc,12",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 30\r\n\r\n" + gzip.compress(TEXT)[:30],
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na,b\n\xc3",
        b"",
        b"no http\r\n\r\n",
    ],
    ids=[
        "short of its length",
        "no last chunk",
        "broken chunk",
        "no length, no line end",
        "cut gzip",
        "no gzip",
        "empty gzip",
        "half a character",
        "closed at once",
        "no http",
    ],
)
def test_a_body_that_breaks_off_is_a_transient_error(raw_server, context, token, answer):
    with pytest.raises(TransientError):
        read_lines(raw_server(answer).address, context, token)


def test_a_body_without_length_that_ends_with_a_line_is_whole(raw_server, context, token):
    server = raw_server(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\na,b\nc,d\n")
    assert read_lines(server.address, context, token) == ["a,b\n", "c,d\n"]


def test_bytes_of_another_encoding_are_a_permanent_error(raw_server, make_reply, context, token):
    server = raw_server(make_reply("a,M\xfcnchen\n".encode("latin-1")))
    with pytest.raises(PermanentError, match=r"not UTF-8.*0xfc"):
        read_lines(server.address, context, token)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(raw_server, make_reply, context, token):
    server = raw_server(make_reply(gzip.compress(b"x" * 6_000_000), headers="Content-Encoding: gzip\r\n"))
    with pytest.raises(PermanentError, match="a line is longer"):
        read_lines(server.address, context, token)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na,b\n"], ids=["head", "body"])
def test_a_server_that_stalls_is_a_transient_error(raw_server, context, token, start):
    with pytest.raises(TransientError, match="in time"):
        read_lines(raw_server(start, stall=True).address, context, token, timeout_seconds=0.2)


def redirect(location, status="302 Found"):
    return f"HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def bearer(request):
    return "authorization: bearer" in request.lower()


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"])
def test_an_export_that_is_redirected_is_read_as_one_call_and_the_token_stays_behind(
    raw_server, make_reply, context, token, status
):
    """A vendor that answers exports with the signed address of a file could not be fetched at all."""
    files = raw_server(make_reply(b"a,b\n"))
    server = raw_server(redirect(f"{files.address}/export/token/abc?sig=1", status))
    assert read_lines(server.address, context, token, redirect_hosts=["*.example.com"]) == ["a,b\n"]
    assert bearer(server.requests[0])
    assert files.requests[0].startswith("GET /export/token/abc?sig=1 ")
    assert token not in files.requests[0]
    assert not bearer(files.requests[0])
    assert (context.calls, context.answers) == (1, 1)


@pytest.mark.parametrize("location", ["/file?x=%2F%20é", "//{host}/file?x=%2F%20é", "{address}/file?x=%2F%20é"])
def test_a_redirect_within_the_origin_keeps_the_token(raw_server, make_reply, context, token, location):
    def answer(request):
        if "GET /x " not in request:
            return make_reply(b"a\n")
        return redirect(location.format(host=server.address[7:], address=server.address))

    server = raw_server(answer)
    assert read_lines(server.address, context, token, redirect_hosts=["*.example.com"]) == ["a\n"]
    assert server.requests[1].startswith("GET /file?x=%2F%20")
    assert [bearer(request) for request in server.requests] == [True, True]


def test_a_token_that_was_left_behind_does_not_come_back(raw_server, make_reply, context, token):
    home = raw_server(lambda request: make_reply(b"a\n") if "GET /back" in request else redirect(away.address))
    away = raw_server(lambda _: redirect(f"{home.address}/back"))
    assert read_lines(home.address, context, token, redirect_hosts=["*.example.com"]) == ["a\n"]
    assert [bearer(request) for request in home.requests] == [True, False]


def test_three_redirects_are_followed_and_a_circle_is_transient(raw_server, make_reply, context, token):
    server = raw_server(lambda request: redirect("/x" + request.split()[1]) if last not in request else make_reply(b""))
    last = "GET /x/x/x/x "
    assert read_lines(server.address, context, token, redirect_hosts=["*.example.com"]) == []
    last = "never"
    with pytest.raises(TransientError, match="more than 3 times"):
        read_lines(server.address, context, token, redirect_hosts=["*.example.com"])
    assert len(server.requests) == 4 + 4
    assert context.calls == 2


@pytest.mark.parametrize(
    ("base", "location"),
    [
        ("https://hq1.example.com", "https://raw.example.com/t?s=1"),
        ("https://hq1.example.com", "HTTPS://RAW.EXAMPLE.COM:443/t?s=1"),
        ("https://hq1.example.com", "https://more.example.net/t?s=1"),
        ("https://gateway.invalid/vendor", "https://raw.example.com/t?s=1"),
        ("https://gateway.invalid/vendor", "/t?s=1"),
        ("http://127.0.0.1:8000", "http://localhost:9/t?s=1"),
        ("http://[::1]:8000", "https://raw.example.com/t?s=1"),
    ],
)
def test_a_redirect_to_the_vendor_is_followed(base, location):
    redirects = Transport(base, redirect_hosts=["*.example.com", "more.example.net"]).redirects
    assert redirects.follow(f"{base}/x", 302, location).endswith("/t?s=1")


@pytest.mark.parametrize(
    ("base", "location"),
    [
        ("https://hq1.example.com", "http://raw.example.com/t"),
        ("https://hq1.example.com", "http://127.0.0.1/t"),
        ("https://hq1.example.com", "https://example.com.invalid/t"),
        ("https://hq1.example.com", "https://badexample.com/t"),
        ("https://hq1.example.com", "https://example.com/t"),
        ("https://hq1.example.com", "https://raw.example.com.:443/t"),
        ("https://hq1.example.com", "https://u:p@raw.example.com/t"),
        ("https://hq1.example.com", "https://evil.invalid\\@raw.example.com/t"),
        ("https://hq1.example.com", "https://evil.invalid/.example.com"),
        ("https://hq1.example.com", "//evil.invalid/t"),
        ("https://hq1.example.com", "ftp://raw.example.com/t"),
        ("https://hq1.example.com", "javascript:alert(1)"),
        ("https://hq1.example.com", "https://raw.example.com:99999/t"),
        ("https://hq1.example.com", "https://[::1/t"),
        ("https://hq1.example.com", "https://raw.example.com/" + "x" * 5000),
        ("https://hq1.example.com", ""),
        ("https://hq1.example.com", None),
        ("http://127.0.0.1:8000", "http://10.0.0.1/t"),
        ("http://127.0.0.1:8000", "http://raw.example.com/t"),
    ],
)
def test_a_redirect_to_anywhere_else_is_not_followed(base, location):
    redirects = Transport(base, redirect_hosts=["*.example.com"]).redirects
    with pytest.raises(TransientError, match=r"^redirects .302. to"):
        redirects.follow(f"{base}/x", 302, location)


@pytest.mark.parametrize("host", ["*", "*.com.", "https://a.example", "a.example/x", "a b.c", "localhost", 7, "*.*.a"])
def test_a_redirect_host_that_is_none_is_wrong_usage(host):
    with pytest.raises(UsageError, match="redirect_hosts must be hosts"):
        Transport("https://example.invalid", redirect_hosts=[host])


SIGNED = "/export/token/eyJ-signed-0123456789?Signature=abc%2Bdef%3Dghi&Expires=1790000000"


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "403 No", "404 No", "410 Gone", "503 Busy", "200 OK"])
def test_a_signed_address_is_in_no_message_and_an_expired_one_is_transient(
    raw_server, make_reply, context, token, caplog, status
):
    """An expired signed address says nothing about the account: it is neither parked nor denied anything."""
    caplog.set_level(logging.DEBUG)
    echo = f"<Error>Request has expired: {SIGNED} abc+def=ghi</Error>".encode()
    files = raw_server(make_reply(echo, status))
    server = raw_server(redirect(files.address + SIGNED))
    with pytest.raises(TransientError) as caught:
        read_json(server.address, context, token, redirect_hosts=["*.example.com"])
    assert f"redirected to {files.address}" in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    for secret in ("eyJ-signed", "abc%2Bdef", "abc+def", "1790000000"):
        assert secret not in shown


def test_a_redirect_that_is_not_followed_shows_no_more_than_its_host(raw_server, context, token):
    server = raw_server(redirect("https://elsewhere.invalid" + SIGNED))
    for hosts in ((), ["*.example.com"]):
        with pytest.raises(TransientError, match=r"redirects .302. to https://elsewhere.invalid:443") as caught:
            read_lines(server.address, context, token, redirect_hosts=hosts)
        assert "signed" not in str(caught.value)


def test_a_server_that_is_not_there_is_a_transient_error(context, token):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransientError, match="GET /x"):
        read_lines(f"http://127.0.0.1:{port}", context, token)
    assert context.calls == 0  # nothing was sent that the vendor could count


def test_a_proxy_that_is_down_is_named_without_its_password(raw_server, make_reply, context, token):
    server = raw_server(make_reply(b"a\n"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ProxyError, match=f"proxy http://127.0.0.1:{port} failed:") as caught:
        read_lines(server.address, context, token, proxy=f"http://user:pass-word@127.0.0.1:{port}")
    assert "pass-word" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert server.requests == []


@pytest.mark.parametrize("base", ["http://127.0.0.1:9", "https://example.invalid"])
def test_a_proxy_that_refuses_is_named_without_its_password(raw_server, make_reply, context, token, base):
    proxy = raw_server(make_reply(b"pass-word", "407 Proxy Authentication Required"))
    with pytest.raises(ProxyError, match=f"proxy {proxy.address} refused") as caught:
        read_lines(base, context, token, proxy=proxy.address.replace("://", "://user:pass-word@"))
    assert "pass-word" not in str(caught.value)
    assert base.startswith("http://") or token not in proxy.requests[0]


def test_a_proxy_that_no_url_names_is_wrong_usage():
    with pytest.raises(UsageError, match="proxy must be"):
        Transport("https://example.invalid", proxy="10.0.0.1:3128")
    with pytest.raises(UsageError, match="not loopback"):
        Transport("http://127.0.0.1", proxy="http://10.0.0.1:3128")


@pytest.mark.parametrize(
    "status",
    [
        "500 Oops",
        "502 Bad Gateway",
        "503 Busy",
        "429 Too Many",
        "408 Timeout",
        "204 None",
        "403 No",
        "404 No",
        "416 No",
        "400 Bad",
        "405 No",
        "410 Gone",
        "451 No",
    ],
)
def test_server_errors_and_refusals_without_a_word_are_transient(raw_server, make_reply, context, token, status):
    """A task failed for good for a bare 400 or 410 of a gateway, though the vendor had not said a word."""
    with pytest.raises(TransientError, match=f"GET /x answered {status[:3]}") as caught:
        read_json(raw_server(make_reply(b"", status)).address, context, token)
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("status", "kind"), [("401 No", AuthError), ("400 Bad", PermanentError), ("404 No", PermanentError)]
)
def test_client_errors_are_not_retried(raw_server, make_reply, context, token, status, kind):
    with pytest.raises(kind, match="because"):
        read_json(raw_server(make_reply(b"because", status)).address, context, token)


def http_date(seconds):
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("999999", 86_400, 86_400),
        (600, 500, 600),
        (-600, 0, 0),
        (10**7, 86_400, 86_400),
    ],
)
def test_retry_after_is_honoured_up_to_a_day(raw_server, make_reply, context, token, header, low, high):
    if isinstance(header, int):  # seconds from the moment of the test, not from its collection
        header = http_date(header)
    server = raw_server(make_reply(b"", "429 Too Many", f"Retry-After: {header}\r\n"))
    with pytest.raises(TransientError) as caught:
        read_json(server.address, context, token)
    assert low <= caught.value.retry_after <= high


@pytest.mark.parametrize("ahead_seconds", [-7200, 7200])
def test_a_retry_after_is_reckoned_from_the_vendors_own_date(raw_server, make_reply, context, token, ahead_seconds):
    """By the clock of a node that was two hours ahead, the moment was over, and the task came back at once."""
    dates = f"Retry-After: {http_date(ahead_seconds + 600)}\r\nDate: {http_date(ahead_seconds)}\r\n"
    with pytest.raises(TransientError) as caught:
        read_json(raw_server(make_reply(b"", "503 Busy", dates)).address, context, token)
    assert 599 <= caught.value.retry_after <= 601


@pytest.mark.parametrize("header", ["soon", "-5", "nan", ""])
def test_a_retry_after_that_means_nothing_is_ignored(raw_server, make_reply, context, token, header):
    server = raw_server(make_reply(b"", "503 Busy", f"Retry-After: {header}\r\n"))
    with pytest.raises(TransientError) as caught:
        read_json(server.address, context, token)
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", TransientError),
        (b" \n", TransientError),
        (b'{"data": [1, 2', TransientError),
        (b'{"data": "abc', TransientError),
        (b" <html>maintenance</html>", TransientError),
        (b"maintenance", TransientError),
        (b"[" * 100_000, PermanentError),
        (b"1" * 5000, PermanentError),
    ],
)
def test_a_body_that_is_no_json_is_a_typed_error(raw_server, make_reply, context, token, body, kind):
    with pytest.raises(kind):
        read_json(raw_server(make_reply(body)).address, context, token)


ECHOES = [
    lambda token: token,
    lambda token: f"Bearer {token}",
    lambda token: token.upper(),
    lambda token: token.replace(".", "%2E").replace("-", "-"),
    lambda token: "x" * 180 + token,
    lambda token: "\x00\x1b[31m" + token,
    lambda token: "y" * (16 * 1024 - 10) + token,
    lambda token: " " * (16 * 1024 - 30) + token,
]


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "401 No", "403 No", "500 Oops", "307 Away"])
def test_a_token_that_the_server_echoes_is_in_no_message_traceback_or_log(
    raw_server, make_reply, context, token, caplog, status, echo
):
    caplog.set_level(logging.DEBUG)
    text = echo(token)
    header = "".join(character for character in text if character.isprintable()).strip()[:4000]
    headers = f"X-Echo: {header}\r\nLocation: /{header}\r\nRetry-After: {header}\r\nContent-Encoding: identity\r\n"
    server = raw_server(make_reply(text.encode(), status, headers))
    with pytest.raises((PermanentError, TransientError, AuthError)) as caught:
        read_json(server.address, context, token)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert token[:12].lower() not in shown.lower()
    assert "SECRET-TOKEN" not in shown.upper()
    assert "\x00" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_header_that_breaks_http_does_not_show_the_token(raw_server, context, token):
    server = raw_server(f"HTTP/1.1 200 OK\r\n{token}: \x01{token}\r\n {token}\r\n\r\n".encode())
    with pytest.raises(TransientError) as caught:
        read_json(server.address, context, token)
    assert "secret-token" not in "".join(traceback.format_exception(caught.value)).lower()


def test_nothing_about_a_session_shows_its_token(context, token):
    transport = Transport("https://example.invalid", proxy="http://u:pass-word@127.0.0.1:1")
    session = transport.session(lambda: token, context)
    assert token not in repr(session) + repr(transport)
    assert "pass-word" not in repr(session) + repr(transport)


def test_a_cookie_of_one_account_does_not_travel_with_the_next(raw_server, make_reply, context, token):
    server = raw_server(make_reply(b"1", headers="Set-Cookie: who=first; Path=/\r\n"))
    transport = Transport(server.address)
    for _ in range(2):
        transport.session(lambda: token, context).get_json("/x")
    transport.close()
    assert len(server.requests) == 2
    assert "cookie" not in server.requests[1].lower()


def test_a_cancelled_context_ends_the_reading_between_chunks(raw_server, make_context, token):
    server = raw_server(chunked(*[b"a,b\n" * 20_000] * 50))
    context = make_context(cancel_at=3)
    with pytest.raises(context.Cancelled):
        read_lines(server.address, context, token)
    assert context.checks == 3


def test_a_cancelled_context_makes_no_request(raw_server, make_reply, make_context, token):
    server = raw_server(make_reply(b"1"))
    context = make_context(cancel_at=1)
    with pytest.raises(context.Cancelled):
        read_json(server.address, context, token)
    assert server.requests == []


def test_a_closed_transport_opens_again(raw_server, make_reply, context, token):
    server = raw_server(make_reply(b"1"))
    transport = Transport(server.address)
    transport.close()
    for _ in range(2):
        assert transport.session(lambda: token, context).get_json("/x") == 1
        transport.close()
        transport.close()


def test_each_request_asks_for_leave_right_before_it_is_sent_and_nothing_is_sent_without(
    raw_server, make_reply, make_context, token
):
    server = raw_server(make_reply(b"{}"))
    context = make_context(most_calls=2)
    transport = Transport(server.address)
    session = transport.session(lambda: token, context)
    for _ in range(2):
        assert session.get_json("/x") == {}
    seen = len(server.requests)
    with pytest.raises(context.Cancelled):
        session.get_json("/x")
    transport.close()
    assert (seen, len(server.requests), context.calls, context.answers) == (2, 2, 2, 2)


def test_a_session_without_a_token_sends_no_authorization_and_reads_errors_all_the_same(
    raw_server, make_reply, context
):
    server = raw_server(make_reply(b"x" * 100_000, "403 No"))
    transport = Transport(server.address)
    with pytest.raises(PermanentError, match="answered 403: xxx"):
        transport.session(None, context).get_json("/x")
    transport.close()
    assert "authorization" not in server.requests[0].lower()


def test_a_long_text_of_a_vendor_is_quoted_from_its_beginning_alone(context):
    """60 MB of rubbish were looked at character by character, for the 200 that are quoted."""
    session = Transport("https://example.invalid").session(lambda: "t0ken", context)
    tracemalloc.start()
    try:
        quoted = session.quote("x" * 2_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert len(quoted) <= 210
    session._hide("a-secret-of-some-length")
    assert "a-secret" not in session.quote(" " * (QUOTED_FROM_CHARS - 12) + "a-secret-of-some-length")
