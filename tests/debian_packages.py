"""Installs the Debian packages of database servers where possible and allowed, without starting their services."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
NOT_ALLOWED = "#!/bin/sh\nexit 101\n"  # what invoke-rc.d asks for: starting a service is forbidden


def may_install() -> bool:
    """True on a Debian-like system when we are root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Sequence[str]) -> None:
    """Install `packages`; raises CalledProcessError when apt-get fails. Their services are not started."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt_get = ["apt-get", "--yes", "-o", "DPkg::Lock::Timeout=120"]  # another apt-get may be at work
    with services_kept_down(POLICY):
        # a failed update is no reason to stop: the lists that are there may do
        for command, must_work in ((["update"], False), (["install", "--no-install-recommends", *packages], True)):
            subprocess.run(
                [*apt_get, *command],
                check=must_work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )


@contextlib.contextmanager
def services_kept_down(policy: Path) -> Iterator[None]:
    """Forbid that packages start their services, then put back what `policy` said before."""
    before = (policy.read_bytes(), policy.stat().st_mode) if policy.exists() else None
    policy.write_text(NOT_ALLOWED)
    policy.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            policy.unlink()
        else:
            policy.write_bytes(before[0])
            policy.chmod(before[1])
