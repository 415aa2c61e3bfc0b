"""What of its host a node lets its accounts use.

Whoever can write the database names variables and files there. Without a limit that the node sets, the names could be
those of any secret on its host, and a proxy of their choice would be told what it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from crawlfleet.core.edge_text import clean
from crawlfleet.core.errors import UsageError

OWN_VARIABLES = "CRAWLFLEET_"  # the program's own secrets are among them
TOKEN_VARIABLES = ("*TOKEN*",)
PROXY_VARIABLES = ("*PROXY*",)
TOKEN_FOLDER = "/run/secrets"  # where containers find theirs


@dataclass(frozen=True, slots=True)
class Reach:
    """The keys of sealed tokens, unless the environment has them, and the names that the database may say.

    The variables are patterns, as `*TOKEN*`; token files are in `token_folder` or below.
    """

    key_file: str | None = None
    token_variables: tuple[str, ...] = TOKEN_VARIABLES
    token_folder: str = TOKEN_FOLDER
    proxy_variables: tuple[str, ...] = PROXY_VARIABLES

    def token_path(self, path: str) -> str:
        """The path of a token file; raises UsageError for one that is not in the folder."""
        folder, found = os.path.abspath(self.token_folder), os.path.normpath(path)
        if not os.path.isabs(found) or os.path.commonpath((folder, found)) != folder:
            raise UsageError(
                f"token file {path} is not in token_folder ({folder}) of this node: move it there, or change that"
                " setting"
            )
        return found


USUAL_REACH = Reach()


def read_variable(name: str, allowed: Sequence[str], setting: str) -> str:
    """The value of the environment variable, cleaned.

    Raises UsageError when it is not set, and for one that no pattern of `allowed`, the value of `setting`, names.
    """
    if name.upper().startswith(OWN_VARIABLES):
        raise UsageError(f"environment variable {name} is one of crawlfleet's own: neither token nor proxy may name it")
    if not any(fnmatchcase(name, pattern) for pattern in allowed):
        raise UsageError(
            f"environment variable {name} is not among {setting} ({', '.join(allowed)}) of this node: add its name"
            " there, or use another variable"
        )
    value = clean(os.environ.get(name, ""))
    if not value:
        raise UsageError(f"environment variable {name} is not set on this node")
    return value
