from __future__ import annotations

from pathlib import Path

import pytest

from crawlfleet.settings.definitions import Settings
from tests.settings.reading import load, refusal, write


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.toml", b"port = 1\nport = 2", "is not TOML: "),
        ("c.json", b'{"port": 1, "port": 2}', "is not JSON: key 'port' is given twice"),
        ("c.json", b"[1]", 'is not JSON: the file must hold one object, as in {"key": 1} (got list)'),
        ("c.json", b"null", "(got NoneType)"),
        ("c.json", b"", "is not JSON: "),
        ("c.json", b"port = 1", "is not JSON: "),
        ("c.json", b'{"port": NaN}', "is not JSON: NaN is no number"),
        ("c.json", b'{"port": -Infinity}', "is not JSON: -Infinity is no number"),
        ("c.json", b'{"port": ' + b"9" * 5000 + b"}", "is not JSON: "),
        ("c.json", b'{"a":' * 100_000, "nested too deeply"),
        ("c.toml", b"a = " + b"[" * 100_000, "nested too deeply"),
        ("c.toml", b"{}", "is not TOML: "),
        ("c.yaml", b"port: 1", "(YAML is not read: write TOML or JSON)"),
        ("c.toml", b"# \n\xff", "is not UTF-8 (line 2)"),
        ("c.toml", "port = 1".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("c.toml", b"\0", "is not TOML: "),
        ("c.toml", b"#" * (1024 * 1024 + 1), "is larger than"),
    ],
)
def test_a_hostile_file_is_wrong_usage_and_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, content)
    found = refusal(file)
    assert found.startswith(f"config file {file} ")
    assert message in found


def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml").endswith("none.toml cannot be read: No such file or directory")
    assert "Is a directory" in refusal(tmp_path)
    assert "cannot be read" in refusal(Path("a\0b"))


def test_the_format_is_found_by_ending_or_content(tmp_path: Path) -> None:
    assert load(write(tmp_path / "c.json", '{"port": 1}')).port == 1
    assert load(write(tmp_path / "c.toml", "port = 2")).port == 2
    assert load(write(tmp_path / "c.conf", ' \n{"port": 3}')).port == 3
    assert load(write(tmp_path / "c.cfg", "port = 4")).port == 4
    assert load(write(tmp_path / "bom.toml", b"\xef\xbb\xbfport = 5\r\n")).port == 5
    assert load(write(tmp_path / "empty.toml", "")) == Settings()
