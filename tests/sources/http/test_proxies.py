"""Real proxies between the transport and a vendor that speaks TLS: who is to blame, and what must not show."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import traceback

import pytest

from crawlfleet.core.errors import PermanentError, ProxyError, TransientError, UsageError
from crawlfleet.sources.http import clients
from crawlfleet.sources.http.proxies import OpenProxy, Proxy
from crawlfleet.sources.http.transport import Transport
from tests.certificates import make_certificate
from tests.http_proxies import ConnectProxy, SocksProxy

PASSWORD = "pass/w@rd-%41 x"  # what a URL would misread
REFERENCE = "user:${PROXY_PASSWORD}"
KINDS = [ConnectProxy, SocksProxy]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def vendor(raw_server, certificate, monkeypatch):
    """Starts vendors `https://localhost:...` that this process trusts."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.certificate, certificate.key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    return lambda answer, **options: raw_server(answer, tls=tls, **options)


@pytest.fixture(autouse=True)
def password(monkeypatch):
    monkeypatch.setenv("PROXY_PASSWORD", PASSWORD)


@pytest.fixture(params=KINDS, ids=["connect", "socks5"])
def proxy(request):
    with request.param(user="user", password=PASSWORD) as proxy:
        yield proxy


def read(address, context, token, proxy=None, **options):
    transport = Transport(address, **options)
    try:
        return transport.session(lambda: token, context, proxy=proxy).get_json("/x")
    finally:
        transport.close()


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def blamed(caplog, token, call, *arguments, **options):
    """The ProxyError of a call, after a look at everything that it shows."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ProxyError) as caught:
        call(*arguments, **options)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    for secret in (token, *OpenProxy("", ("user", PASSWORD)).secrets):
        assert secret.lower() not in shown.lower()
    return str(caught.value)


def test_a_request_goes_through_the_proxy_with_its_credentials(vendor, make_reply, context, token, proxy):
    server = vendor(make_reply(b"1"))
    assert read(server.address, context, token, proxy.address(REFERENCE)) == 1
    assert proxy.targets == [f"localhost:{server.port}"], "the name is for the proxy to look up"
    assert context.calls == 1, "to ask the proxy for a way is no call"
    assert token not in b"".join(proxy.heads).decode("latin-1")


def test_a_redirect_goes_through_the_same_proxy_without_the_token(vendor, make_reply, context, token, proxy):
    files = vendor(make_reply(b"1"))
    home = vendor(make_reply(b"", "302 Found", f"Location: {files.address}/t?s=1\r\n"))
    assert read(home.address, context, token, proxy.address(REFERENCE), redirect_hosts=["*.example.com"]) == 1
    assert proxy.targets == [f"localhost:{home.port}", f"localhost:{files.port}"]
    assert token in home.requests[0]
    assert token not in files.requests[0]
    assert context.calls == 1


def test_a_redirect_from_a_plain_local_address_to_https_looks_at_the_certificate(
    raw_server, vendor, make_reply, context, token, monkeypatch
):
    """The client of a plain address trusts nobody, and would have failed at every file."""
    files = vendor(make_reply(b"1"))
    home = raw_server(make_reply(b"", "302 Found", f"Location: {files.address}/t?s=1\r\n"))
    assert read(home.address, context, token, redirect_hosts=["*.example.com"]) == 1
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(TransientError, match="CERTIFICATE_VERIFY_FAILED"):
        read(home.address, context, token, redirect_hosts=["*.example.com"])
    assert len(files.requests) == 1


def test_a_session_without_a_proxy_of_its_own_takes_that_of_the_source(vendor, make_reply, context, token, proxy):
    server = vendor(make_reply(b"1"))
    with SocksProxy() as other:
        assert read(server.address, context, token, proxy=other.address(), timeout_seconds=20) == 1
        transport = Transport(server.address, proxy=proxy.address(REFERENCE))
        assert transport.session(lambda: token, context).get_json("/x") == 1
        assert transport.session(lambda: token, context, proxy=other.address()).get_json("/x") == 1
        transport.close()
        assert (len(proxy.targets), len(other.targets)) == (1, 2)


def test_the_proxy_of_the_environment_does_not_count(vendor, make_reply, context, token, monkeypatch):
    server = vendor(make_reply(b"1"))
    with ConnectProxy() as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.address())
        assert read(server.address, context, token) == 1
        assert proxy.heads == []


def test_plain_requests_are_passed_on_by_both_kinds(raw_server, make_reply, context, token, proxy):
    server = raw_server(make_reply(b"1"))
    assert read(server.address, context, token, proxy.address(REFERENCE)) == 1
    assert proxy.targets == [f"127.0.0.1:{server.port}"]


@pytest.mark.parametrize("kind", KINDS, ids=["connect", "socks5"])
def test_a_dead_proxy_is_named(context, token, caplog, kind):
    address = f"{kind.scheme}://{REFERENCE}@127.0.0.1:{closed_port()}"
    message = blamed(caplog, token, read, "https://example.invalid", context, token, address)
    assert f"GET /x: proxy {Proxy(address).name} failed: ConnectError" in message


def test_wrong_credentials_are_the_fault_of_the_proxy(context, token, caplog, proxy, monkeypatch):
    monkeypatch.setenv("PROXY_PASSWORD", "another-" + PASSWORD)
    message = blamed(caplog, token, read, "https://example.invalid", context, token, proxy.address(REFERENCE))
    assert f"proxy {proxy.name} refused: " in message
    assert "another-" not in message
    assert proxy.targets == []


def test_a_407_for_a_plain_request_is_the_fault_of_the_proxy(context, token, caplog):
    with ConnectProxy(user="user", password="other") as proxy:
        message = blamed(caplog, token, read, "http://127.0.0.1:9", context, token, proxy.address(REFERENCE))
        assert f"proxy {proxy.name} refused" in message
        assert "407" in message


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [(ConnectProxy, "502 Bad Gateway"), (ConnectProxy, "403 Forbidden"), (SocksProxy, 2), (SocksProxy, 5)],
)
def test_a_proxy_that_opens_no_way_is_to_blame(context, token, caplog, kind, refusal):
    with kind() as proxy:
        proxy.refuse_with = refusal
        message = blamed(caplog, token, read, "https://example.invalid", context, token, proxy.address())
        assert f"proxy {proxy.name} refused: " in message
        assert context.calls == 0


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 200 OK\r\n\r\n", b"\x05", b"\x04\x00", b"\x00" * 40])
def test_a_socks_proxy_that_speaks_something_else_is_to_blame(context, token, caplog, garbage):
    with SocksProxy() as proxy:
        proxy.garbage = garbage
        assert proxy.name in blamed(caplog, token, read, "https://example.invalid", context, token, proxy.address())


def test_a_proxy_that_says_nothing_is_to_blame(context, token, caplog, proxy):
    proxy.stall = True
    address = proxy.address(REFERENCE)
    message = blamed(caplog, token, read, "https://example.invalid", context, token, address, timeout_seconds=0.3)
    assert f"proxy {proxy.name} failed: ReadTimeout" in message


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Busy", "504 Late"])
def test_a_bad_gateway_of_the_vendor_is_the_vendors(vendor, make_reply, context, token, proxy, status):
    server = vendor(make_reply(b"", status))
    with pytest.raises(TransientError, match=f"GET /x answered {status[:3]}"):
        read(server.address, context, token, proxy.address(REFERENCE))


def test_a_407_of_the_vendor_is_the_vendors(vendor, make_reply, context, token, proxy):
    server = vendor(make_reply(b"", "407 Odd"))
    with pytest.raises(PermanentError, match="GET /x answered 407"):
        read(server.address, context, token, proxy.address(REFERENCE))


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"], ids=["head", "body"])
def test_a_vendor_that_stalls_behind_a_proxy_is_to_blame_itself(vendor, context, token, proxy, start):
    server = vendor(start, stall=True)
    with pytest.raises(TransientError, match=f"through proxy {proxy.name}: no answer in time"):
        read(server.address, context, token, proxy.address(REFERENCE), timeout_seconds=0.5)


def test_a_certificate_of_the_vendor_that_nobody_trusts_is_the_vendors(
    vendor, make_reply, context, token, proxy, monkeypatch
):
    server = vendor(make_reply(b"1"))
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(TransientError, match=f"through proxy {proxy.name}: ConnectError"):
        read(server.address, context, token, proxy.address(REFERENCE))
    assert server.requests == []


def test_a_variable_that_is_not_set_is_named_and_nothing_is_sent(context, token, caplog, proxy, monkeypatch):
    monkeypatch.delenv("PROXY_PASSWORD")
    message = blamed(caplog, token, read, "https://example.invalid", context, token, proxy.address(REFERENCE))
    assert message == f"proxy {proxy.name}: environment variable PROXY_PASSWORD is not set on this node"
    assert proxy.heads == []


def test_a_renewed_password_counts_at_the_next_request(vendor, make_reply, context, token, proxy, monkeypatch):
    monkeypatch.setenv("PROXY_PASSWORD", "old")
    server = vendor(make_reply(b"1"))
    transport = Transport(server.address)
    session = transport.session(lambda: token, context, proxy=proxy.address(REFERENCE))
    with pytest.raises(ProxyError):
        session.get_json("/x")
    monkeypatch.setenv("PROXY_PASSWORD", PASSWORD)
    assert session.get_json("/x") == 1
    transport.close()


def test_credentials_show_nowhere(context, token):
    proxy = Proxy("http://user:${PROXY_PASSWORD}@127.0.0.1:1")
    opened = proxy.open()
    assert opened.auth == ("user", PASSWORD)
    literal = Proxy("http://user:pass-word@127.0.0.1:1")
    session = Transport("https://example.invalid").session(
        lambda: token, context, proxy="http://u:pass-word@127.0.0.1:1"
    )
    shown = repr(proxy) + repr(opened) + repr(literal) + repr(session) + proxy.name
    assert [secret for secret in (*opened.secrets, "pass-word", "user") if secret in shown] == []


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("http://127.0.0.1:1", False),
        ("http://user@127.0.0.1", False),
        ("http://${U}:${P}@127.0.0.1", False),
        ("socks5h://user:pw@127.0.0.1", True),
        ("http://user:pw${P}@127.0.0.1", True),
        ("http://user:$P@127.0.0.1", True),
    ],
)
def test_a_password_in_an_address_is_told_from_a_reference(address, holds):
    assert Proxy(address).holds_password is holds


@pytest.mark.parametrize("address", ["10.0.0.1:3128", "ftp://h", "http://", "http://${HOST}:1", "http://u:p-w@:1"])
def test_an_address_that_no_proxy_has_is_wrong_usage(address):
    with pytest.raises(UsageError, match="proxy") as caught:
        Proxy(address)
    assert "p-w" not in str(caught.value)


def test_few_clients_are_kept_and_none_in_use_is_closed(raw_server, make_reply, monkeypatch, context, token):
    monkeypatch.setattr(clients, "MAX_CLIENTS", 2)
    pool = clients.Clients(timeout_seconds=10)
    proxies = [OpenProxy(f"http://127.0.0.1:{port}") for port in range(1, 6)]
    with pool.use(proxies[0], False) as busy:
        for proxy in proxies[1:]:
            with pool.use(proxy, False) as client:
                assert not client.is_closed
        assert not busy.is_closed
        with pool.use(proxies[4], False) as again:
            assert again is client, "the most recent one was kept"
        with pool.use(proxies[1], False) as renewed:
            assert client.is_closed is False
            assert not renewed.is_closed
        assert client.is_closed, "the least recent one of those that nobody uses"
    pool.close()
    assert busy.is_closed
    with pool.use(None, False) as direct:
        assert not direct.is_closed
    pool.close()


def test_threads_that_share_a_transport_reach_their_own_proxies(
    raw_server, make_reply, monkeypatch, make_context, token
):
    monkeypatch.setattr(clients, "MAX_CLIENTS", 2)
    server = raw_server(make_reply(b"1"))
    proxies = [ConnectProxy() for _ in range(4)]
    transport = Transport(server.address)
    answers: list[object] = []

    def work(proxy):
        session = transport.session(lambda: token, make_context(), proxy=proxy.address())
        for _ in range(10):
            answers.append(session.get_json("/x"))

    threads = [threading.Thread(target=work, args=(proxy,)) for proxy in proxies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    transport.close()
    assert answers == [1] * 40
    assert [len(proxy.targets) for proxy in proxies] == [10] * 4
    for proxy in proxies:
        proxy.close()
