"""The simulated vendors are tried with the sources that ask them."""

from tests.sources.conftest import account, context, make_context, make_reply, raw_server, token

__all__ = ["account", "context", "make_context", "make_reply", "raw_server", "token"]
