"""Tokens that are kept in the database: sealed there, opened at the moment of use with keys from outside.

A key comes from the environment variable CRAWLFLEET_SECRET_KEY or, where that is not set, from a file: one or several,
the newest first. The newest seals; any of them opens, so a key can be replaced while the fleet runs.
Sealing is Fernet (AES-128-CBC and HMAC-SHA256) of the package `cryptography`. Sealed with a token is whose it is, so a
copy in the row of another account does not open.
"""

from __future__ import annotations

import json
import os
import re
from types import ModuleType
from typing import TYPE_CHECKING

from crawlfleet.core.edge_text import clean, decode
from crawlfleet.core.errors import UsageError
from crawlfleet.core.private_files import read_secret

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

Owner = tuple[str, str]  # source and username of the account
BOUND = "\n"  # begins what was sealed together with its owner; no token holds a line end
KEY_VARIABLE = "CRAWLFLEET_SECRET_KEY"
_HOW = f"make one with `accounts new-key`, and give every node the same in {KEY_VARIABLE} or a secret_key_file"


def new_key() -> str:
    """A new random key, as text."""
    key: bytes = _fernet().Fernet.generate_key()
    return key.decode()


class Keyring:
    """The keys of this process. Shows none of them."""

    def __init__(self, fernets: MultiFernet, origin: str) -> None:
        self._fernets = fernets
        self._origin = origin

    def seal(self, secret: str, owner: Owner) -> str:
        """The secret of this account under the newest key, as ASCII text; no two calls give the same text."""
        return self._fernets.encrypt((BOUND + json.dumps([*owner, secret])).encode()).decode()

    def open(self, sealed: str, owner: Owner) -> str:
        """The secret; raises UsageError when none of the keys opens it, or when it was sealed for another account."""
        text = self._decrypt(sealed)
        if not text.startswith(BOUND):
            return text  # sealed by a program that did not bind it yet: `reseal` does
        *sealed_for, secret = json.loads(text)
        if sealed_for != list(owner):
            raise UsageError("the sealed token is another account's: hand in this one's with `accounts set`")
        return str(secret)

    def is_bound(self, sealed: str) -> bool:
        """Whether it opens for its own account only; raises UsageError when none of the keys opens it."""
        return self._decrypt(sealed).startswith(BOUND)

    def reseal(self, sealed: str, owner: Owner) -> str:
        """The same secret, bound to its account, under the newest key; raises as `open` does."""
        return self.seal(self.open(sealed, owner), owner)

    def _decrypt(self, sealed: str) -> str:
        try:
            return self._fernets.decrypt(sealed).decode()
        except (_fernet().InvalidToken, ValueError):  # ValueError: it is not even ASCII
            raise UsageError(
                f"no key of {self._origin} opens the sealed token: it was sealed with another one, or damaged"
            ) from None


def keyring(key_file: str | None) -> Keyring:
    """The keys of the environment variable or else of this file.

    Raises UsageError when there is no key, when one is malformed (it is not shown), or when others can read the file.
    """
    text = os.environ.get(KEY_VARIABLE, "")
    origin = f"environment variable {KEY_VARIABLE}"
    if not clean(text):
        if key_file is None:
            raise UsageError(f"there is no key for sealed tokens on this node: {_HOW}")
        text, origin = _read(key_file), f"secret_key_file {key_file}"
    fernet = _fernet()
    keys = []
    for number, word in enumerate(filter(None, map(clean, re.split(r"[\s,]+", text))), 1):
        try:
            keys.append(fernet.Fernet(word))
        except ValueError:
            raise UsageError(f"key {number} of {origin} is malformed: {_HOW}") from None
    if not keys:
        raise UsageError(f"{origin} holds no key: {_HOW}")
    return Keyring(fernet.MultiFernet(keys), origin)


def _read(path: str) -> str:
    content = read_secret("secret_key_file", path)
    try:
        return decode(content)
    except ValueError as error:
        raise UsageError(f"secret_key_file {path} cannot be used: {error}") from None


def _fernet() -> ModuleType:
    try:
        from cryptography import fernet  # 30 ms that only sealed tokens pay
    except ImportError:
        raise UsageError("sealed tokens need the package cryptography: pip install 'crawlfleet[secrets]'") from None
    return fernet
