"""Start crawlfleet from a checkout, whichever Python is called: python main.py --help

Must parse on Python 2.7: an old interpreter, or one without the packages, hands over to the .venv beside this file.
"""

from __future__ import print_function

import os
import sys

PACKAGES = ("alembic", "httpx2", "psutil", "rich", "sqlalchemy")
if sys.platform.startswith("linux"):
    PACKAGES += ("inotify_simple",)
HANDED_OVER = "crawlfleet-handed-over"  # given as -X option to the second interpreter, so there is never a third


def can_run_here():
    """True when this interpreter is new enough and finds the packages; imports none of them, to start fast."""
    if sys.version_info < (3, 11):
        return False
    from importlib.util import find_spec

    return all(find_spec(name) for name in PACKAGES)


def hand_over():
    """Go on in the interpreter of .venv; returns only when there is none or it has already been tried."""
    here = os.path.dirname(os.path.abspath(__file__))
    python = os.path.join(here, ".venv", *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
    if not os.path.isfile(python) or HANDED_OVER in getattr(sys, "_xoptions", {}):
        return
    command = [python, "-X", HANDED_OVER, os.path.abspath(__file__)] + sys.argv[1:]  # noqa: RUF005
    if os.name == "nt":  # exec on Windows gives the console back before the program ends
        import subprocess

        sys.exit(subprocess.call(command))
    os.execv(python, command)


if __name__ == "__main__":
    if not can_run_here():
        hand_over()
        print("crawlfleet is not set up here: run `make setup` first (needs Python 3.11 or newer)", file=sys.stderr)
        sys.exit(2)
    from crawlfleet.cli.main import run

    sys.exit(run())
