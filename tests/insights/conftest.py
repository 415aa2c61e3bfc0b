from tests.services.conftest import log, make_pump, url

__all__ = ["log", "make_pump", "url"]
