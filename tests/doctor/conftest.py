"""The doctor is asked through the command line."""

from tests.cli.conftest import any_console, console, own_settings, ready, restored_logging

__all__ = ["any_console", "console", "own_settings", "ready", "restored_logging"]
