"""Bringing a database to this program's tables: once, also when several nodes start together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from crawlfleet.core.database_errors import Trouble, trouble_of
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseRefused, cause_of
from crawlfleet.core.transaction import Reader
from crawlfleet.model.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

LOCK_NAME = "crawlfleet.migrations"
LOCK_NUMBER = 4_031_977  # the same for PostgreSQL, which locks numbers
LOCK_WAIT_SECONDS = 50  # below ANSWER_SECONDS, after which a driver gives the server up
NEEDED = {"ALTER", "CREATE", "CREATE VIEW", "DELETE", "DROP", "INDEX", "INSERT", "SELECT", "UPDATE"}  # of MySQL's
LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code


def current(db: Database) -> str | None:
    """The migration that the database is at; None when it has no tables of ours."""
    with db.read() as reader:
        try:
            return _current(reader)
        except DBAPIError as error:
            if db.is_missing_table(error):
                return None
            raise


def _current(connection: Connection | Reader) -> str | None:
    migration: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return migration


def upgrade(db: Database) -> bool:
    """Make or upgrade the tables; True when there was something to do.

    Raises DatabaseRefused for a database that a newer program has upgraded.
    """
    if _check(db, current(db)) == HEAD:
        return False
    if lacking := lacking_privileges(db):
        raise DatabaseRefused(
            f"the user of {db.name} may not make tables (no {', '.join(lacking)}): as its owner say {_grant(db)}"
        )
    try:
        with _lock(db) as connection:
            exists = sa.inspect(connection).has_table("alembic_version")
            migration = _check(db, _current(connection)) if exists else None  # another node may have been faster
            if migration == HEAD:
                return False
            from alembic import command

            configuration = _configuration()
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")
    except DBAPIError as error:
        trouble = trouble_of(db.family, error)
        if trouble is Trouble.UNKNOWN:
            raise DatabaseRefused(
                f"the tables of {db.name} cannot be made: {cause_of(error)}: nothing but crawlfleet should change them"
            ) from error
        raise db.unreachable(error, trouble=trouble) from None
    log.info("Database upgraded from %s to %s", migration or "nothing", HEAD)
    return True


def lacking_privileges(db: Database) -> list[str]:
    """Which privileges the user lacks to make and upgrade the tables; none where the server does not tell."""
    if db.family == "sqlite":
        return []
    with db.read() as reader:
        if db.family == "postgresql":
            rows = reader.exec_driver_sql("SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')")
            schema, may_create = rows.one()
            return [] if may_create else [f"CREATE on schema {schema}" if schema else "schema in the search_path"]
        has = {str(name).upper() for name in reader.execute(sa.text(_MYSQL_PRIVILEGES)).scalars()}
    return [] if has <= {"USAGE"} else sorted(NEEDED - has)  # nothing by itself: by a role, or this server hides it


_MYSQL_USER = """grantee = CONCAT("'", REPLACE(CURRENT_USER(), '@', "'@'"), "'")"""
_MYSQL_PRIVILEGES = (
    f"SELECT privilege_type FROM information_schema.user_privileges WHERE {_MYSQL_USER}"
    f" UNION SELECT privilege_type FROM information_schema.schema_privileges"
    f" WHERE {_MYSQL_USER} AND DATABASE() LIKE table_schema"
)


def _grant(db: Database) -> str:
    user = db.url.username or "USER"
    if db.family == "postgresql":
        return f"GRANT CREATE, USAGE ON SCHEMA public TO {user}"
    return f"GRANT ALL ON {db.url.database}.* TO {user}"


def check(db: Database) -> str:
    """The database's migration; raises DatabaseRefused unless it is this program's."""
    migration = _check(db, current(db))
    if migration is None:
        raise DatabaseRefused(
            f"the database {db.name} holds no tables of crawlfleet: start a node or run `crawlfleet db upgrade` first"
        )
    if migration != HEAD:
        raise DatabaseRefused(
            f"the database {db.name} is at migration {migration}, this program at {HEAD}: run `crawlfleet db upgrade`"
        )
    return migration


def _check(db: Database, migration: str | None) -> str | None:
    if migration is not None and migration != HEAD and migration not in _known():
        raise DatabaseRefused(
            f"the database {db.name} was upgraded by a newer crawlfleet (migration {migration}, this program knows"
            f" {HEAD}): update this program"
        )
    return migration


def _known() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_configuration()).walk_revisions()}


def _configuration() -> Config:
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    return configuration


def _upgrading(db: Database) -> DatabaseRefused:
    return DatabaseRefused(f"another node is upgrading {db.name} since {LOCK_WAIT_SECONDS} s: try again")


@contextmanager
def _lock(db: Database) -> Iterator[Connection]:
    """A transaction in which no other node migrates. On MySQL every DDL commits by itself; the lock still holds."""
    with db.plain.connect() as connection:
        if db.family == "mysql":
            got = connection.execute(
                sa.text("SELECT GET_LOCK(:name, :wait)"), {"name": LOCK_NAME, "wait": LOCK_WAIT_SECONDS}
            )
            if got.scalar() != 1:
                raise _upgrading(db)
            connection.commit()
        try:
            with connection.begin():
                if db.family == "postgresql":
                    connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_SECONDS}s'"))
                    try:
                        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK_NUMBER})
                    except sa.exc.OperationalError as error:
                        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                            raise
                        raise _upgrading(db) from None
                yield connection
        finally:
            if db.family == "mysql":
                try:
                    connection.execute(sa.text("SELECT RELEASE_LOCK(:name)"), {"name": LOCK_NAME})
                    connection.commit()
                except DBAPIError:
                    log.debug("the lock ended with its connection")
