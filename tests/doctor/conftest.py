"""The doctor is asked through the command line."""

from tests.cli.conftest import any_console, console, own_settings, ready, restored_logging
from tests.executors_apart import only_executors_of_the_program

__all__ = ["any_console", "console", "only_executors_of_the_program", "own_settings", "ready", "restored_logging"]
