"""The page that shows the API to people. It needs no other host: its files are those of an installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from crawlfleet.api.refusals import Refusal

PACKAGE = "fastapi_offline"
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
POLICY = (  # as strict as everywhere else, but for what the page itself is made of
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>crawlfleet</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // it would send our description to another host
});
"""


def add_docs(app: FastAPI) -> None:
    """Let the application serve /docs."""
    spec = find_spec(PACKAGE)  # not imported: only its files are of use
    folder = Path(spec.submodule_search_locations[0]) / "static" if spec and spec.submodule_search_locations else None

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The page itself."""
        if folder is None:
            raise Refusal(404, "/docs needs the package fastapi-offline: pip install 'crawlfleet[api]'")
        return HTMLResponse(PAGE)

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        """What begins it."""
        return Response(START, media_type="text/javascript")

    async def file(request: Request) -> Response:
        """A file of the package."""
        if folder is None:
            raise Refusal(404, "there is no such file")
        path = folder / request.url.path.rpartition("/")[2]
        return Response(path.read_bytes(), media_type=FILES[path.name])

    for name in FILES:
        app.add_api_route(f"/docs/{name}", file, include_in_schema=False)
