"""The bodies of requests are read as `tasks add --from` reads a line: what JSON does not allow is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from crawlfleet.api.refusals import Refusal
from crawlfleet.core.json_text import parse_json


class _StrictRequest(Request):
    async def json(self) -> Any:
        """The value of the body; refuses a key that is given twice, NaN, and what is nested too deeply."""
        if not hasattr(self, "_json"):
            try:
                self._json = parse_json(await self.body())
            except (json.JSONDecodeError, UnicodeDecodeError):
                raise  # FastAPI tells of those
            except ValueError as error:
                raise Refusal(422, f"the body is no JSON: {error}") from None
        return self._json


class StrictRoute(APIRoute):
    """A route whose body is read so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, which gets such a request."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict
