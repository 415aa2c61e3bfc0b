"""A database that refuses one value, as a real one may: by a trigger."""

from __future__ import annotations

from crawlfleet.core.db import Database

REFUSES = {
    "postgresql": "RAISE EXCEPTION 'no poison here'",
    "mysql": "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no poison here'",
    "sqlite": "SELECT RAISE(ABORT, 'no poison here')",
}


def poison(db: Database, table: str, column: str, act: str | None = None) -> None:
    """From now on the database refuses to write a row whose column holds the word `poison`.

    Or its trigger does something else: `act` is a statement of the server's language.
    """
    act = act or REFUSES[db.family]
    for number, moment in enumerate(("INSERT", "UPDATE")):
        head = f"CREATE TRIGGER poison_{number} BEFORE {moment} ON {table} FOR EACH ROW"
        if db.family == "sqlite":
            texts = [
                f"{head} WHEN NEW.{column} LIKE '%poison%' BEGIN {act}; END",
            ]
        elif db.family == "postgresql":
            texts = [
                f"CREATE FUNCTION poison_{number}() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN IF NEW.{column}::text LIKE '%poison%' THEN {act}; END IF;"
                " RETURN NEW; END $$",
                f"{head} EXECUTE FUNCTION poison_{number}()",
            ]
        else:
            texts = [f"{head} IF NEW.{column} LIKE '%poison%' THEN {act}; END IF"]
        with db.connect() as connection:
            for text in texts:
                connection.exec_driver_sql(text.replace("%", "%%") if db.family != "sqlite" else text)


def antidote(db: Database, table: str) -> None:
    """The database takes everything again."""
    on = f" ON {table}" if db.family == "postgresql" else ""
    with db.connect() as connection:
        for number in (0, 1):
            connection.exec_driver_sql(f"DROP TRIGGER poison_{number}{on}")
