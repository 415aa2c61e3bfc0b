"""What `import crawlfleet` offers."""

from __future__ import annotations

import subprocess
import sys

import crawlfleet


def test_every_public_name_has_a_home_and_is_listed() -> None:
    assert {*crawlfleet._HOME_OF, "__version__"} == set(crawlfleet.__all__)
    for name in crawlfleet.__all__:
        assert getattr(crawlfleet, name).__doc__


def test_importing_the_package_loads_no_database_layer() -> None:
    code = "import sys, crawlfleet; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
