from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawlfleet.core import logs
from crawlfleet.core.errors import UsageError
from crawlfleet.core.logs import LineFormatter, configure_logging, hide, redact

SECRETS = [
    "mysql://user:s3cr3t-pw@db.example/fleet",
    "mysql+pymysql://user:s3cr3t-pw/with@signs@db.example/fleet?charset=utf8mb4",
    "proxy http://:s3cr3t-pw@proxy:3128 refused",
    "Authorization: Bearer s3cr3t-pw",
    "authorization=s3cr3t-pw",
    "{'Authorization': 'Bearer s3cr3t-pw', 'Accept': 'text/csv'}",
    "[(b'authorization', b'Basic s3cr3t-pw')]",
    '{"authorization": "AWS4 Credential=a, Signature=s3cr3t-pw"}',
    "sent bearer s3cr3t-pw.and.more",
    "GET https://a:s3cr3t-pw@one/ and https://b:s3cr3t-pw@two/",
]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, threading.excepthook
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    threading.excepthook = hook
    for name in ("crawlfleet", "__main__"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logs._secrets.clear()


class Stderr:
    """What was written to stderr so far."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Stderr:
    return Stderr(capsys)


def test_a_line_has_time_level_module_path_without_the_package_and_text(stderr: Stderr) -> None:
    configure_logging()
    logging.getLogger("crawlfleet.services.task_scheduler").info("TaskScheduler started in %s mode", "standalone")
    logging.getLogger("__main__").info("启动配置信息:")
    first, second = stderr.getvalue().splitlines()
    moment = r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2},\d{3}"
    assert re.fullmatch(
        rf"{moment} \[INFO\] services\.task_scheduler - TaskScheduler started in standalone mode", first
    )
    assert re.fullmatch(rf"{moment} \[INFO\] __main__ - 启动配置信息:", second)


def test_other_packages_speak_from_warning_and_ours_from_debug_only_when_asked(stderr: Stderr) -> None:
    configure_logging(debug=True)
    logging.getLogger("httpx2").info("chatter")
    logging.getLogger("httpx2").warning("trouble")
    logging.getLogger("crawlfleet.core.db").debug("detail")
    assert "chatter" not in stderr.getvalue()
    assert "[WARNING] httpx2 - trouble" in stderr.getvalue()
    assert "[DEBUG] core.db - detail" in stderr.getvalue()


def test_quiet_leaves_only_warnings(stderr: Stderr) -> None:
    configure_logging(quiet=True)
    logging.getLogger("crawlfleet.core.db").info("SQLite connection pool created")
    logging.getLogger("crawlfleet.core.db").warning("old")
    assert stderr.getvalue().count("\n") == 1


def test_configuring_again_does_not_double_the_lines(stderr: Stderr) -> None:
    configure_logging()
    configure_logging()
    logging.getLogger("crawlfleet.x").info("once")
    assert stderr.getvalue().count("once") == 1


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_never_appears(text: str) -> None:
    assert "s3cr3t" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///crawlfleet.db",
        "HTTP API available at http://127.0.0.1:8080/api",
        "mail a@b.example, see http://x/y",
        "the bearer",
        "postgresql://db.example/fleet",
    ],
)
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_the_address_stays_readable_without_its_password() -> None:
    assert redact("mysql://user:pw@db.example:3306/fleet") == "mysql://user:***@db.example:3306/fleet"


def test_a_registered_secret_never_appears_even_in_a_traceback(stderr: Stderr) -> None:
    configure_logging()
    hide("zebra-token-1")
    hide("zebra-token-1-longer")
    hide("")
    try:
        raise ValueError("refused zebra-token-1-longer at mysql://u:tiger@h/d")
    except ValueError:
        logging.getLogger("crawlfleet.x").exception("failed with %s", "zebra-token-1")
    written = stderr.getvalue()
    assert "ValueError: refused ***" in written
    assert "zebra" not in written
    assert "longer" not in written.replace("zebra-token-1-longer", "")
    assert "tiger" not in written


def test_the_log_file_gets_the_same_lines_in_utf_8_and_is_rotated(
    tmp_path: Path, stderr: Stderr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    path = tmp_path / "deep" / "run.log"
    configure_logging(str(path))
    log = logging.getLogger("crawlfleet.x")
    for _ in range(60):
        log.info("代理状态: 关闭 Bearer abcdef")
    root = logging.getLogger()
    with monkeypatch.context() as patch:  # pytest would keep this line, and no worker of it can send it on
        patch.setattr(
            root, "handlers", [each for each in root.handlers if isinstance(each.formatter, logs.LineFormatter)]
        )
        log.info("\udcff")
    text = "".join(file.read_text(encoding="utf-8") for file in path.parent.iterdir())
    assert "代理状态: 关闭 Bearer ***" in text
    assert "\\udcff" in text
    assert len(list(path.parent.iterdir())) == 1 + logs.FILE_BACKUPS
    assert "代理状态" in stderr.getvalue()


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_log_file_that_somebody_moves_or_deletes_is_opened_anew(tmp_path: Path, is_moved: bool) -> None:
    """logrotate moves it: the lines went to the moved file, or vanished with a deleted one."""
    path, moved = tmp_path / "logs" / "node.log", tmp_path / "node.log.1"
    configure_logging(str(path))
    log = logging.getLogger("crawlfleet.x")
    log.info("before")
    if is_moved:
        path.rename(moved)
    else:
        path.unlink()
    log.info("after")
    log.info("later")
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["after", "later"]
    path.unlink()
    path.parent.rmdir()
    log.info("nowhere")  # and nothing is raised
    path.parent.mkdir()
    log.info("back")
    assert path.read_text().endswith("back\n")
    assert not is_moved or moved.read_text().endswith("before\n")


def test_a_log_file_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "run.log"):
        with pytest.raises(UsageError, match=r"log_file .* cannot be written: .*: name a file"):
            configure_logging(str(path))


def test_an_error_that_ends_a_thread_is_logged(stderr: Stderr) -> None:
    configure_logging()

    def fail() -> None:
        raise ValueError("broken")

    thread = threading.Thread(target=fail, name="worker-7")
    thread.start()
    thread.join()
    assert "[ERROR] core.logs - thread ended by an error: thread=worker-7" in stderr.getvalue()
    assert "ValueError: broken" in stderr.getvalue()


def test_a_program_without_stderr_still_logs_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging(str(tmp_path / "run.log"))
    logging.getLogger("crawlfleet.x").info("here")
    assert "here" in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_a_closed_stderr_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    configure_logging()
    sys.stderr.close()
    logging.getLogger("crawlfleet.x").info("into the void")


PROGRAM = """
import logging, sys
from crawlfleet.core.logs import configure_logging
configure_logging()
log = logging.getLogger("crawlfleet.x")
sys.stdin.read()
for _ in range(3):
    log.info("启动配置信息:")
"""


def test_a_reader_of_stderr_that_has_gone_changes_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "utf-8"])
def test_chinese_reaches_a_stderr_of_any_encoding(encoding: str) -> None:
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=b"", capture_output=True, env=environment, timeout=30, check=True
    )
    expected = "启动配置信息:" if encoding == "utf-8" else "\\u542f\\u52a8"
    assert done.stderr.decode("utf-8").count(expected) == 3


def test_formatting_leaves_the_record_as_it_was() -> None:
    record = logging.LogRecord("crawlfleet.a.b", logging.INFO, "f", 1, "text", (), None)
    assert " a.b - text" in LineFormatter().format(record)
    assert record.name == "crawlfleet.a.b"
