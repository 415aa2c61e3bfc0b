"""What deployments install: locked by hashes, tested as it is, and nothing that is known to be broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "deploy" / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The first version without the fault.
FIXED = {
    "cryptography": ("44.0.1", "CVE-2024-12797: does not notice a server's wrong raw public key"),
    "distributed": ("2026.1.1", "CVE-2026-23528: code of others by the dashboard"),
    "h11": ("0.16", "CVE-2025-43859: requests smuggled in chunked bodies"),
    "jinja2": ("3.1.6", "CVE-2025-27516: out of the sandbox of templates"),
    "pymysql": ("1.1.1", "CVE-2024-36039: SQL by the keys of a JSON object"),
    "setuptools": ("78.1.1", "CVE-2025-47273: writes outside of its folder"),
    "starlette": ("0.49.1", "CVE-2025-62727: quadratic time for a header Range"),
    "tornado": ("6.5.3", "CVE-2025-67725, CVE-2025-67726: quadratic time for headers"),
    "urllib3": ("2.6", "CVE-2025-66418, CVE-2025-66471: answers that unpack without end"),
}


def locked() -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of each package."""
    entries = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)[^\n]*((?:\n    --hash=\S+(?: \\)?)*)", LOCK, flags=re.MULTILINE)
    return {canonicalize_name(name): (version, re.findall(r"sha256:\w+", rest)) for name, version, rest in entries}


def asked() -> list[Requirement]:
    """What the package names itself, with the extras of a deployment, and what builds it."""
    extras = PROJECT["project"]["optional-dependencies"]
    names = [name for extra, listed in extras.items() if extra not in {"all", "test", "dev"} for name in listed]
    return [
        Requirement(text)
        for text in [*PROJECT["project"]["dependencies"], *names, *PROJECT["build-system"]["requires"]]
    ]


def test_each_package_of_a_deployment_is_locked_by_hashes_and_no_address_is_named() -> None:
    """Deployments took whatever an index had under a version; an address would bind them to one index."""
    assert not re.search(r"://|index-url|find-links|trusted-host", LOCK)
    assert {canonicalize_name(each.name) for each in asked()} <= set(locked())
    assert [name for name, (_, hashes) in locked().items() if not hashes] == []
    assert all(len(each) == len("sha256:") + 64 for _, hashes in locked().values() for each in hashes)
    for line in LOCK.splitlines():
        assert re.match(r"[\w.-]+==\S+ (; .* )?\\$|    --hash=sha256:\w{64}( \\)?$", line), line


def test_a_deployment_gets_the_versions_that_the_tests_ran_with() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    tested = {canonicalize_name(name): version for name, version in pins.items()}
    strangers = {name for name in locked() if name not in tested}
    assert strangers <= {"colorama", "exceptiongroup", "httpx2-jsfetch", "tzdata"}  # of other systems
    assert {name: version for name, (version, _) in locked().items() if tested.get(name, version) != version} == {}
    for each in asked():
        version = locked()[canonicalize_name(each.name)][0]
        assert each.specifier.contains(version), f"{each} is not met by {version}: run `make lock`"


@pytest.mark.parametrize("name", FIXED)
def test_no_version_with_a_known_fault_satisfies_us(name: str) -> None:
    """PyMySQL 1.1.0 and h11 0.14 met the floors."""
    fixed, fault = FIXED[name]
    floors = [
        Version(part.version)
        for each in asked()
        if canonicalize_name(each.name) == name
        for part in each.specifier
        if part.operator == ">="
    ]
    assert max(floors) >= Version(fixed), fault
    assert Version(locked()[name][0]) >= Version(fixed), fault


def audit(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    program = folder / "pip-audit"
    program.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    program.chmod(0o755)
    command = [sys.executable, str(ROOT / "scripts" / "audit"), str(program), "deploy/requirements.lock"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_an_audit_that_reaches_nobody_says_so_and_one_that_finds_something_fails(tmp_path: Path) -> None:
    """pip-audit ends with 1 in both cases, so a machine without an index could never pass."""
    offline = audit(tmp_path, "sys.exit('ConnectionError: no route')")
    assert offline.returncode == 0
    assert "audit skipped: no index of known faults could be reached: ConnectionError: no route" in offline.stdout
    mirror = json.dumps({"dependencies": [{"name": "a", "skip_reason": "not found"}]})
    told = audit(tmp_path, f"open(sys.argv[sys.argv.index('--output') + 1], 'w').write({mirror!r})")
    assert (told.returncode, told.stdout.strip()) == (
        0,
        "audit skipped: the index knows no faults of any package: not found",
    )
    fault = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"], "description": ""}
    report = json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": [fault]}]})
    told = audit(tmp_path, f"open(sys.argv[sys.argv.index('--output') + 1], 'w').write({report!r})\nsys.exit(1)")
    assert (told.returncode, told.stdout.splitlines()[0]) == (1, "a 1: PYSEC-1 CVE-1, fixed in 2")
