"""What others may learn by the way in which a node reaches its database."""

from __future__ import annotations

from crawlfleet.core.database_url import read_url
from crawlfleet.settings.definitions import Settings


def exposures(settings: Settings) -> list[tuple[str, str]]:
    """What is wrong with the way, each with what to do about it."""
    found = []
    address = read_url(settings.database_url)
    if settings.origins.get("database_url", "").startswith("option ") and address.url.password:
        text = "the password of the database is on the command line, which everybody on this machine can read"
        found.append((text, "set CRAWLFLEET_DATABASE_URL, or database_url in a config file"))
    if address.is_overheard:
        text = f"the connection to {address.name} is not encrypted, or need not be"
        option = "ssl_ca=FILE" if address.family == "mysql" else "sslrootcert=FILE"
        found.append((text, f"add ?{option} to its URL, which also checks who answers"))
    return found
