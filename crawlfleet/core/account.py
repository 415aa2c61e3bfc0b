"""An account at a source: who, where its token is, and by which proxy; never the token itself in clear."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from crawlfleet.core.edge_text import decode, flaw
from crawlfleet.core.errors import AuthError, TokenUnavailable, UsageError
from crawlfleet.core.private_files import read_secret
from crawlfleet.core.reach import USUAL_REACH, Reach, read_variable
from crawlfleet.core.secrets import keyring

MAX_TOKEN_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Account:
    """An account at a source. It holds where the token is, or the token sealed; never the token in clear.

    `kind` is advertiser, agency or ad_network; `app_ids` are apps named by hand, for accounts whose vendor
    does not list them. `proxy` is an address as `sources.proxies` reads it. `reach` is what this node lets it use.
    """

    source: str
    username: str
    kind: str = "advertiser"
    token_env: str | None = None
    token_file: str | None = None
    app_ids: tuple[str, ...] = ()
    token_sealed: str | None = field(default=None, repr=False)
    proxy: str | None = None
    reach: Reach = USUAL_REACH

    def token(self) -> str:
        """The token, read or opened at each call so that a renewed one is used at once.

        Raises TokenUnavailable that names the variable or the file, never its content; AuthError for an account
        without a token.
        """
        try:
            return check_token(self._read())
        except UsageError as error:
            raise TokenUnavailable(f"account {self.username} at {self.source}: {error}") from None

    def _read(self) -> str:
        if self.token_env:
            return read_variable(self.token_env, self.reach.token_variables, "token_variables")
        if self.token_file:
            path = self.reach.token_path(self.token_file)
            content = read_secret("token file", path, MAX_TOKEN_BYTES + 1)
            try:
                token = decode(content)
            except ValueError as error:
                raise UsageError(f"token file {self.token_file} cannot be used: {error}") from None
            if not token:
                raise UsageError(f"token file {self.token_file} is empty")
            return token
        if self.token_sealed:
            return keyring(self.reach.key_file).open(self.token_sealed, (self.source, self.username))
        raise AuthError(f"account {self.username} at {self.source}: no token is configured")


@dataclass(frozen=True, slots=True)
class AccountWithToken(Account):
    """An account that holds its token, for a body on a host without this node's keys, files and environment."""

    proxy: str | None = field(default=None, repr=False)  # here with its password
    token_text: str = field(default="", repr=False)

    def _read(self) -> str:
        return self.token_text


def with_token(account: Account, proxy: str | None) -> Account:
    """A copy that holds its token, and this proxy; raises as `Account.token` does. A tokenless account stays so."""
    values = {item.name: getattr(account, item.name) for item in fields(Account)}
    values |= {"proxy": proxy, "reach": USUAL_REACH}
    if not (account.token_env or account.token_file or account.token_sealed):
        return Account(**values)
    return AccountWithToken(**values, token_text=account.token())


def with_opened_token(account: Account) -> Account:
    """The account for a process of this host that lacks the keys: its sealed token opened; raises as `token` does."""
    if not account.token_sealed or isinstance(account, AccountWithToken):
        return account
    values = {item.name: getattr(account, item.name) for item in fields(Account)}
    values["reach"] = replace(account.reach, key_file=None)
    return AccountWithToken(**values, token_text=account.token())


def check_token(token: str) -> str:
    """The token; raises UsageError, which does not show it, when it could not be sent in a header."""
    if wrong := flaw(token):
        raise UsageError(f"the token cannot be used: {wrong}")
    if len(token) > MAX_TOKEN_BYTES:
        raise UsageError(f"the token cannot be used: it has more than {MAX_TOKEN_BYTES} characters")
    if not token.isprintable() or not token.isascii() or " " in token:
        raise UsageError("the token holds characters that no header may carry")
    return token
