"""An account at a source: who, and where its token is; never the token itself."""

from __future__ import annotations

import os
from dataclasses import dataclass

from crawlfleet.core.errors import AuthError


@dataclass(frozen=True, slots=True)
class Account:
    """An account at a source. It holds where the token is, never the token itself.

    `kind` is advertiser, agency or ad_network; `app_ids` are apps named by hand, for accounts whose vendor
    does not list them.
    """

    source: str
    username: str
    kind: str = "advertiser"
    token_env: str | None = None
    token_file: str | None = None
    app_ids: tuple[str, ...] = ()

    def token(self) -> str:
        """The token, read at each call so that a renewed one is used at once.

        Raises AuthError that names the variable or the file, never its content.
        """
        if self.token_env:
            token = os.environ.get(self.token_env, "").strip()
            missing = f"environment variable {self.token_env} is not set on this node"
        elif self.token_file:
            try:
                with open(self.token_file, encoding="utf-8") as stream:
                    token = stream.read().strip()
                missing = f"token file {self.token_file} is empty"
            except (OSError, UnicodeDecodeError) as error:
                token = ""
                missing = f"token file {self.token_file} cannot be read: {type(error).__name__}"
        else:
            token, missing = "", "no token is configured"
        if not token:
            raise AuthError(f"account {self.username} at {self.source}: {missing}")
        if not token.isprintable() or not token.isascii() or " " in token:
            raise AuthError(
                f"account {self.username} at {self.source}: the token holds characters that no header may carry"
            )
        return token
