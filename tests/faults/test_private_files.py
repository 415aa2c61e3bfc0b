"""Whatever the shell allows: no file that the program makes can be read by others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from crawlfleet.executors.spool import Spool
from crawlfleet.services.fleet import connect
from tests.nodes import ROOT

WITNESS = """
import json, crawlfleet
from pathlib import Path

@crawlfleet.task_executor("witness")
def witness(task, context):
    seen = {path.name: oct(path.stat().st_mode) for path in Path().glob("fleet.db*")}
    Path("of-a-body.txt").write_text(json.dumps(seen))
"""


def run(folder: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words, "--database", "sqlite:///fleet.db"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "CRAWLFLEET_LOG_FILE": "logs/node.log"},
        umask=0o022,
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_every_file_is_its_owners_alone_whatever_the_shell_allows(tmp_path: Path) -> None:
    """Under the usual umask the database, its journal, the log and exports could be read by everybody on the host."""
    run(tmp_path, "db", "upgrade")
    (tmp_path / "spies.py").write_text(WITNESS)
    fleet = connect(f"sqlite:///{tmp_path}/fleet.db")
    fleet.add_task("witness", username="u")
    fleet.close()
    run(tmp_path, "distribute", "standalone", "--device-id", "d", "--executors", "spies", "--until-idle", "--no-api")
    seen = json.loads((tmp_path / "of-a-body.txt").read_text())
    assert set(seen) == {"fleet.db", "fleet.db-wal", "fleet.db-shm"}
    run(tmp_path, "data", "export", "--format", "csv", "--output", "figures.csv")
    made = {path.name: path for path in tmp_path.rglob("*") if "__pycache__" not in str(path) and path.suffix != ".py"}
    assert {"fleet.db", "node.log", "logs", "figures.csv", "of-a-body.txt"} <= set(made)
    assert [name for name, path in made.items() if path.stat().st_mode & 0o077] == []
    assert [name for name, mode in seen.items() if int(mode, 8) & 0o077] == []


def test_rows_that_wait_on_the_disk_are_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        spool = Spool()
        assert os.fstat(spool.fileno()).st_mode & 0o077 == 0
        spool.close()
    finally:
        os.umask(before)
