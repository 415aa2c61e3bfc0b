"""What deploy/ promises, as far as it can be tried without systemd and without containers."""

from __future__ import annotations

import contextlib
import http.server
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawlfleet.cli.main import build_parser
from crawlfleet.services.task_scheduler import FLUSH_SECONDS
from crawlfleet.settings.definitions import RULES, Settings
from crawlfleet.settings.layers import load_settings
from tests.certificates import Certificate, make_certificate

ROOT = Path(__file__).parent.parent
UNIT = (ROOT / "deploy/crawlfleet@.service").read_text()
PROGRAM = "/opt/crawlfleet/bin/crawlfleet"


def value(name: str) -> str:
    [found] = re.findall(rf"^{name}=(.*)$", UNIT, flags=re.MULTILINE)
    return str(found)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    assert value("ExecStart").startswith(PROGRAM)
    unit = tmp_path / "crawlfleet@a.service"
    unit.write_text(UNIT.replace(PROGRAM, "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_the_unit_starts_a_command_that_exists() -> None:
    arguments = build_parser("distribute").parse_args(value("ExecStart").split()[1:])
    assert arguments.config == "/etc/crawlfleet/crawlfleet.toml"


def test_a_stopping_node_is_not_killed_before_its_grace_is_over() -> None:
    grace = Settings().shutdown_grace + 4 * FLUSH_SECONDS
    assert int(value("TimeoutStopSec")) >= grace
    compose = (ROOT / "deploy/compose.yaml").read_text()
    [seconds] = re.findall(r"stop_grace_period: (\d+)s", compose)
    assert int(seconds) >= grace


def test_the_unit_and_compose_name_settings_that_exist_and_no_secret() -> None:
    text = (ROOT / "deploy/crawlfleet.env.example").read_text()
    environ = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, flags=re.MULTILINE))
    settings = load_settings(environ=environ)
    assert (settings.notices, settings.database_url) == ((), environ["CRAWLFLEET_DATABASE_URL"])
    compose = (ROOT / "deploy/compose.yaml").read_text()
    named = re.findall(r"CRAWLFLEET_(\w+)(?:=%d/|: /run/secrets/)([\w-]+)", UNIT + compose)
    assert {name.lower() for name, _ in named} == {"database_url_file", "secret_key_file", "api_token_file", "tls_key"}
    assert {name.lower() for name, _ in named} <= set(RULES)
    handed = set(re.findall(r"LoadCredential=([\w-]+):", UNIT)) | set(re.findall(r"^  ([\w-]+): {file:", compose, re.M))
    assert {file for _, file in named} <= handed
    assert "PASSWORD=" not in UNIT
    assert not re.search(r"PASSWORD: [^/]", compose)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_as_closed_as_a_node_can_bear(tmp_path: Path) -> None:
    """1.9 of 10 before: others' processes were visible, cores with tokens were written, secrets lay in variables."""
    unit = tmp_path / "crawlfleet@a.service"
    unit.write_text(UNIT.replace(PROGRAM, "/bin/true"))
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    [level] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert float(level) <= 1.5
    assert (value("LimitCORE"), value("ProtectProc"), value("UMask")) == ("0", "invisible", "0077")


def test_the_image_installs_what_is_locked_and_starts_a_command_that_exists() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert "--require-hashes" in text
    assert re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE) == ["${BASE}", "${BASE}"]
    for name in re.findall(r"(?:-r /src/|COPY )(deploy/\S+)", text):
        assert (ROOT / name).exists()
        assert f"!{name}\n" in (ROOT / "deploy/Dockerfile.dockerignore").read_text()
    assert 'ENTRYPOINT ["crawlfleet"]\nCMD ["distribute", "worker"]\n' in text
    build_parser("distribute").parse_args(["distribute", "worker"])
    for name in re.findall(r"^!(.*)$", (ROOT / "deploy/Dockerfile.dockerignore").read_text(), flags=re.MULTILINE):
        assert (ROOT / name).exists()


class Healthy(http.server.BaseHTTPRequestHandler):
    """Answers /healthz, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def api(certificate: Certificate | None) -> Iterator[int]:
    """The port of a server that answers as a node's API does, with or without TLS."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("is_tls", [True, False])
def test_a_container_is_healthy_with_and_without_tls(tmp_path: Path, is_tls: bool, is_told: bool) -> None:
    """The health check spoke HTTP to an API with TLS, so that such a container was never healthy."""
    certificate = make_certificate(tmp_path)
    variables = {"CRAWLFLEET_TLS_CERTIFICATE": str(certificate.certificate)} if is_told else {}
    command = [sys.executable, str(ROOT / "deploy/healthcheck.py")]
    with api(certificate if is_tls else None) as port:
        environ = {**variables, "CRAWLFLEET_PORT": str(port)}
        assert subprocess.run(command, env=environ, check=False).returncode == 0
    assert subprocess.run(command, env=environ, check=False).returncode == 1
