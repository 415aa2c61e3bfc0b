"""Files with secrets: who may read them, and that they are never open to others, not even for a moment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.errors import TokenUnavailable, UsageError
from crawlfleet.core.private_files import read_secret, write_private
from crawlfleet.core.reach import Reach


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def secret(path: Path, bits: int, owner: int = 0) -> Path:
    path.write_text("very-secret\n")
    path.chmod(bits)
    if os.geteuid() == 0:
        os.chown(path, owner, -1)
    return path


@pytest.mark.parametrize("bits", [0o400, 0o600])
def test_a_secret_that_is_its_owners_alone_is_read(tmp_path: Path, bits: int) -> None:
    assert read_secret("token file", secret(tmp_path / "f", bits)) == b"very-secret\n"
    assert read_secret("token file", tmp_path / "f", 4) == b"very"


@pytest.mark.parametrize("bits", [0o604, 0o644, 0o602, 0o660, 0o444, 0o610])
def test_a_secret_that_others_may_touch_is_refused_and_not_shown(tmp_path: Path, bits: int) -> None:
    """The key of TLS and the files of tokens were taken although everybody on the host could read them."""
    path = secret(tmp_path / "f", bits)
    with pytest.raises(UsageError) as caught:
        read_secret("tls_key", path)
    assert str(caught.value) == f"tls_key {path} is open to others than its owner (mode {bits:04o}): chmod 600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_group_may_read_what_root_hands_out_and_nothing_else(tmp_path: Path) -> None:
    assert read_secret("token file", secret(tmp_path / "f", 0o440)) == b"very-secret\n"
    with pytest.raises(UsageError, match="chmod 600"):
        read_secret("token file", secret(tmp_path / "g", 0o440, owner=4242))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """A pipe without a writer would stop the node at its next call."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UsageError, match=r"no file|cannot be read: Is a directory"):
            read_secret("token file", path)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_secret("token file", tmp_path / "missing")


def test_a_token_in_a_file_that_others_can_read_is_missing_and_parks_nothing(tmp_path: Path) -> None:
    """The task waits for another node, as with any token that this one lacks."""
    path, reach = secret(tmp_path / "run", 0o644), Reach(token_folder=str(tmp_path))
    with pytest.raises(TokenUnavailable, match=r"account u at appsflyer: token file .* is open to others"):
        Account("appsflyer", "u", token_file=str(path), reach=reach).token()


def test_a_file_of_secrets_is_private_from_its_first_byte_also_over_one_that_was_open(tmp_path: Path) -> None:
    """`--force` kept the mode 0644 of the file that it wrote secrets into."""
    path = secret(tmp_path / "crawlfleet.toml", 0o644)
    reader = path.open()  # somebody who has opened the old file learns nothing of the new one
    write_private(path, "new secret", replace=True)
    assert (mode(path), path.read_text()) == (0o600, "new secret")
    assert reader.read() == "very-secret\n"
    reader.close()
    assert [item.name for item in tmp_path.iterdir()] == ["crawlfleet.toml"]


def test_a_file_that_is_there_is_kept_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = secret(tmp_path / "key", 0o600)
    with pytest.raises(FileExistsError):
        write_private(path, "another")
    assert path.read_text() == "very-secret\n"
    with pytest.raises(UsageError, match="is no file"):
        write_private(tmp_path, "another", replace=True)
    assert [item.name for item in tmp_path.iterdir()] == ["key"]
    write_private(tmp_path / "fresh", "text")
    assert mode(tmp_path / "fresh") == 0o600
