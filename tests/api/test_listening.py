"""Where the API listens, when it does not, and what a start says about it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from crawlfleet import TaskSpec, connect
from crawlfleet.api import listener as listening
from crawlfleet.api.distribution_api import init_distribution_services, start_distribution_services
from crawlfleet.api.listener import open_listener, url_of
from crawlfleet.core.errors import DeviceRefused, UsageError
from crawlfleet.model.api_token import ApiTokenDAO, Role
from crawlfleet.model.device import DeviceDAO
from crawlfleet.settings.definitions import Settings
from tests.api.conftest import Serve, SettingsOf

ROOT = Path(__file__).parent.parent.parent
TOKEN = "t0ken-of-the-tests-with-32-characters"


@pytest.fixture
def taken() -> Iterator[Callable[[int], int]]:
    """Takes a port of 127.0.0.1 (0: any), unless somebody else has it already; the port."""
    sockets: list[socket.socket] = []

    def take(port: int) -> int:
        found = socket.socket()
        sockets.append(found)
        try:
            found.bind(("127.0.0.1", port))
        except OSError:
            return port
        found.listen()
        return int(found.getsockname()[1])

    yield take
    for each in sockets:
        each.close()


def database_file(settings: Settings) -> Path:
    return Path(settings.database_url.removeprefix("sqlite:///"))


def test_a_taken_default_port_costs_the_api_and_nothing_else(
    settings_of: SettingsOf, taken: Callable[[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    taken(8080)
    with caplog.at_level(logging.INFO):
        node = init_distribution_services(settings=settings_of())
        assert start_distribution_services(node) is None
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("HTTP API is off: cannot listen on 127.0.0.1:8080: the port is taken")
    assert "--port 0" in warning
    assert [device["port"] for device in DeviceDAO(node.db).find()] == [8080]
    node.end()
    assert node.wait() == 0


@pytest.mark.parametrize("chosen", ["option", "code"])
def test_a_taken_port_that_was_asked_for_is_wrong_usage(
    settings_of: SettingsOf, taken: Callable[[int], int], tmp_path: Path, chosen: str
) -> None:
    port = taken(0)
    settings = settings_of(port=port)
    if chosen == "code":
        settings = Settings(device_id="x", database_url=settings.database_url, port=port)
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}: the port is taken: .*--port N"):
        init_distribution_services(settings=settings)
    assert not database_file(settings).exists()


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("appsfyler", {}, "unknown source 'appsfyler': known are .*appsflyer"),
        ("appsflyer", {"base_url": "http://gateway.example"}, "https://, .*'http://gateway.example'"),
        ("appsflyer", {"base_url": "https://u:geheim@gateway.example"}, "must not hold a user name or password"),
        ("appsflyer", {"limits": {"hourly": {"calls": 1}}}, "hourly is unknown: known are .*aggregate_short_range"),
    ],
)
def test_a_source_that_cannot_work_is_wrong_usage(
    settings_of: SettingsOf, name: str, table: dict[str, object], message: str
) -> None:
    settings = settings_of(sources={name: table})
    with pytest.raises(UsageError, match=rf"^sources\.{name}\b.*{message}") as caught:
        init_distribution_services(settings=settings)
    assert "geheim" not in str(caught.value)
    assert not database_file(settings).exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"])
def test_a_node_without_a_token_refuses_to_listen_off_loopback(settings_of: SettingsOf, host: str) -> None:
    settings = settings_of(host=host, port=0)
    with pytest.raises(UsageError, match=r"can be reached from other machines .* CRAWLFLEET_API_TOKEN") as caught:
        init_distribution_services(settings=settings)
    assert caught.value.exit_code == 2
    assert not database_file(settings).exists()


def test_a_token_opens_the_way_off_loopback(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(listening, "_listen", lambda _family, address: asked.append(address))
    open_listener(settings_of(host="0.0.0.0", port=0, api_token=TOKEN))
    assert asked == [("0.0.0.0", 0)]
    assert open_listener(settings_of(host="0.0.0.0", api=False)) is None


def test_a_token_of_the_table_opens_the_way_off_loopback(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(host="0.0.0.0", port=0)
    asked: list[object] = []
    listen = listening._listen
    monkeypatch.setattr(
        listening, "_listen", lambda family, address: (asked.append(address), listen(family, ("127.0.0.1", 0)))[1]
    )
    fleet = connect(settings.database_url)
    with pytest.raises(UsageError, match="make a token with `tokens add`"):
        init_distribution_services(settings=settings)
    ApiTokenDAO(fleet.db).add("monitor", Role.READ)
    fleet.close()
    node = init_distribution_services(settings=settings)
    assert asked == [("0.0.0.0", 0)]
    assert node.listener is not None
    node.listener.close()
    node.db.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_loopback_needs_no_token(settings_of: SettingsOf, host: str) -> None:
    found = open_listener(settings_of(host=host, port=0))
    assert found is not None
    with closing(found):
        assert url_of(found).startswith("http://127.0.0.")


def test_no_answer_is_held_back_until_the_client_has_acknowledged_its_head(serve: Serve) -> None:
    served = serve()
    assert served.client.get("/healthz").status_code == 200
    server = served.server._server
    assert server is not None
    [connection] = server.server_state.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(("host", "said"), [("no-such-host.invalid", "is no address"), ("192.0.2.1", "cannot listen")])
def test_a_host_that_is_not_ours_is_wrong_usage(settings_of: SettingsOf, host: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_listener(settings_of(host=host, port=0, api_token=TOKEN))


@pytest.mark.parametrize("part", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named_with_its_install_line(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    monkeypatch.setitem(sys.modules, part, None)
    with caplog.at_level(logging.INFO):
        assert open_listener(settings_of()) is None
    assert caplog.messages == [f"HTTP API is off: {part} is not installed: pip install 'crawlfleet[api]'"]
    for given in ({"port": 0}, {"host": "127.0.0.2"}):
        with pytest.raises(UsageError, match=r"pip install 'crawlfleet\[api\]'"):
            open_listener(settings_of(**given))


def test_a_device_that_is_refused_gives_its_port_back(serve: Serve, settings_of: SettingsOf) -> None:
    serve()
    node = init_distribution_services(settings=settings_of(port=0))
    assert node.listener is not None
    with pytest.raises(DeviceRefused):
        start_distribution_services(node)
    assert node.listener.fileno() == -1
    node.db.close()


def test_a_port_is_free_again_after_a_database_that_cannot_be_used(settings_of: SettingsOf, tmp_path: Path) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (tmp_path / "crawlfleet.db").write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(Exception, match="not a database"):
            init_distribution_services(settings=settings_of(port=port))


def node_process(tmp_path: Path, *options: str, **environ: str) -> subprocess.Popen[str]:
    words = [sys.executable, str(ROOT / "main.py"), "distribute", "standalone", "--device-id", "child-01"]
    words += ["--database", f"sqlite:///{tmp_path}/child.db", "--executors", "tests.api.bodies", *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLFLEET_")}
    return subprocess.Popen(words, env=clean | environ, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_a_node_process_says_that_it_started_once_it_serves_and_ends_on_a_signal(tmp_path: Path) -> None:
    process = node_process(tmp_path, "--port", "0", CRAWLFLEET_API_TOKEN=TOKEN)
    assert process.stderr is not None
    try:
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if "Standalone node started" in line:
                break
        said = [line.partition(" - ")[2].strip() for line in lines]
        url = next(text for text in said if text.startswith("HTTP API available at ")).split()[-1]
        order = ("TaskScheduler started in standalone mode", "Distribution services started")
        places = [said.index(text) for text in (*order, f"HTTP API available at {url}", "Standalone node started")]
        assert places == sorted(places)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx2.get(f"{url}/readyz", headers=headers, trust_env=False).status_code == 200
        assert httpx2.get(f"{url}/readyz", trust_env=False).status_code == 401
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0
        assert "uvicorn" not in rest
        assert TOKEN not in rest + "".join(lines)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(
    ("options", "said"), [(["--host", "0.0.0.0"], "api_token is not set"), (["--port", "{}"], "the port is taken")]
)
def test_a_node_process_ends_with_2_when_it_may_not_listen(
    tmp_path: Path, taken: Callable[[int], int], options: list[str], said: str
) -> None:
    port = taken(0)
    process = node_process(tmp_path, *[each.format(port) for each in options])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said in err.splitlines()[-1]
    assert not (tmp_path / "child.db").exists()


def test_a_node_without_the_api_does_not_load_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/quiet.db"
    fleet = connect(url)
    fleet.add_tasks([TaskSpec("api_test.ok")])
    fleet.close()
    argv = ["distribute", "standalone", "--device-id", "q", "--database", url, "--until-idle", "--no-api"]
    program = (
        "import sys; from crawlfleet.cli.main import main\n"
        f"code = main({[*argv, '--executors', 'tests.api.bodies']!r})\n"
        "print(code, sorted({'fastapi', 'uvicorn', 'prometheus_client', 'pydantic'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "0 []\n", done.stderr
