"""Importing a database's driver: PyMySQL without cryptography, 8 MB and 25 ms that hardly any node needs.

PyMySQL imports it for one case: a MySQL server wants a password under its RSA key, because the connection has no TLS
and it has not seen the user since its start. Then it is loaded after all. MariaDB has nothing of the kind.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module, reload
from typing import Any

WITHHELD = "cryptography.hazmat.backends"  # the first that PyMySQL asks for; without it, it does without the rest


def import_driver(name: str) -> None:
    """Import it; raises ImportError where it is not installed.

    What is withheld is withheld from all of the process meanwhile, so a process with several threads imports as usual.
    """
    if name != "pymysql" or name in sys.modules or WITHHELD in sys.modules or threading.active_count() > 1:
        import_module(name)
        return
    sys.modules[WITHHELD] = None  # type: ignore[assignment]  # as documented: importing it raises
    try:
        auth: Any = import_module("pymysql._auth")
    finally:
        del sys.modules[WITHHELD]
    auth.sha2_rsa_encrypt = _encrypt_after_all


def _encrypt_after_all(password: bytes, salt: bytes, public_key: bytes) -> bytes:
    """Stands in PyMySQL's place for its function of that name, until the reload brings that back."""
    auth: Any = reload(sys.modules["pymysql._auth"])
    sealed: bytes = auth.sha2_rsa_encrypt(password, salt, public_key)
    return sealed
