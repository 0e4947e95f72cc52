"""The developer console: three static files under a policy that lets them do only what they need."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No script may make markup or code out of text, not even this page's own.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_TYPES = {"console": "text/html", "console.css": "text/css", "console.js": "text/javascript"}


def add_console(app: web.Application, base_path: str) -> None:
    """Serve the console under the base path."""
    for name, content_type in _TYPES.items():
        file = "console.html" if name == "console" else name
        body = files("sse_gateway.web").joinpath("static", file).read_bytes()
        app.router.add_get(f"{base_path}/{name}", _serving(body, content_type))


def _serving(body: bytes, content_type: str):  # type: ignore[no-untyped-def]
    async def serve(_request: web.Request) -> web.Response:
        return web.Response(
            body=body,
            content_type=content_type,
            charset="utf-8",
            headers={
                "Content-Security-Policy": _POLICY,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-cache",
            },
        )

    return serve
