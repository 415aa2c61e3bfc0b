"""The API over TLS, and certificates that cannot be used."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives import serialization

from crawlfleet.api import connections
from crawlfleet.api.distribution_api import init_distribution_services
from crawlfleet.core.errors import UsageError
from tests.api.conftest import Serve, SettingsOf
from tests.api.test_slow_clients import is_closed, slow_client, stack
from tests.certificates import Certificate, make_certificate

__all__ = ["stack"]  # a fixture


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path / "tls")


def test_a_node_with_a_certificate_serves_https_and_nothing_else(serve: Serve, certificate: Certificate) -> None:
    served = serve(tls_certificate=str(certificate.certificate), tls_key=str(certificate.key))
    assert served.server.url.startswith("https://127.0.0.1:")
    url = served.server.url.replace("127.0.0.1", "localhost")
    trusting = ssl.create_default_context(cafile=str(certificate.authority))
    with httpx2.Client(verify=trusting, trust_env=False) as client:
        answer = client.get(f"{url}/readyz")
        assert answer.status_code == 200
        assert "max-age" in answer.headers["strict-transport-security"]
    with pytest.raises(httpx2.TransportError):
        httpx2.get(url.replace("https", "http") + "/healthz", trust_env=False)


def test_a_handshake_that_never_comes_is_not_waited_for(
    serve: Serve, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, stack: object
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    served = serve(tls_certificate=str(certificate.certificate), tls_key=str(certificate.key))
    assert is_closed(slow_client(served, stack, b""))  # type: ignore[arg-type]


def encrypted(certificate: Certificate) -> None:
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
    certificate.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )


def of_another(certificate: Certificate) -> None:
    other = make_certificate(certificate.key.parent / "other")
    certificate.key.write_bytes(other.key.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda each: each.key.unlink(), r"tls_key .*server.key cannot be read: No such file"),
        (lambda each: each.certificate.write_bytes(b"\x30\x82"), r"tls_certificate must be a file in PEM format"),
        (lambda each: each.certificate.write_text("-----BEGIN CERTIFICATE-----\nx\n"), "cannot be used together"),
        (encrypted, "tls_key must not be encrypted"),
        (of_another, "cannot be used together: key values mismatch"),
    ],
)
def test_files_that_cannot_be_used_are_named_before_anything_starts(
    settings_of: SettingsOf, certificate: Certificate, spoil: Callable[[Certificate], object], said: str
) -> None:
    spoil(certificate)
    settings = settings_of(tls_certificate=str(certificate.certificate), tls_key=str(certificate.key), port=0)
    with pytest.raises(UsageError, match=said) as caught:
        init_distribution_services(settings=settings)
    assert caught.value.exit_code == 2
    assert not Path(settings.database_url.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize("given", ["tls_certificate", "tls_key"])
def test_one_of_the_two_alone_is_wrong_usage(settings_of: SettingsOf, certificate: Certificate, given: str) -> None:
    settings = settings_of(**{given: str(certificate.key)}, port=0)
    with pytest.raises(UsageError, match="tls_certificate and tls_key belong together"):
        init_distribution_services(settings=settings)
