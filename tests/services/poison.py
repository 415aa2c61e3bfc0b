"""A database that refuses one value, as a real one may: by a trigger."""

from __future__ import annotations

from crawlfleet.core.db import Database


def poison(db: Database, table: str, column: str) -> None:
    """From now on the database refuses to write a row whose column holds the word `poison`."""
    for number, moment in enumerate(("INSERT", "UPDATE")):
        head = f"CREATE TRIGGER poison_{number} BEFORE {moment} ON {table} FOR EACH ROW"
        if db.family == "sqlite":
            texts = [
                f"{head} WHEN NEW.{column} LIKE '%poison%' BEGIN SELECT RAISE(ABORT, 'no poison here'); END",
            ]
        elif db.family == "postgresql":
            texts = [
                f"CREATE FUNCTION poison_{number}() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN IF NEW.{column}::text LIKE '%poison%' THEN RAISE EXCEPTION 'no poison here'; END IF;"
                " RETURN NEW; END $$",
                f"{head} EXECUTE FUNCTION poison_{number}()",
            ]
        else:
            texts = [
                f"{head} IF NEW.{column} LIKE '%poison%' THEN"
                " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no poison here'; END IF",
            ]
        with db.connect() as connection:
            for text in texts:
                connection.exec_driver_sql(text.replace("%", "%%") if db.family != "sqlite" else text)
