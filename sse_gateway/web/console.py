"""The developer console: static files under a policy that lets them do only what they need."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No script may make markup or code out of text, not even this page's own.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_STATIC = files("sse_gateway.web").joinpath("static")


def add_console(app: web.Application, base_path: str) -> None:
    """Serve the console under the base path."""
    served = {"console": "console.html", "console.css": "console.css", "console.js": "console.js"}
    for module in _STATIC.joinpath("console").iterdir():
        served[f"console/{module.name}"] = f"console/{module.name}"
    for name, file in served.items():
        body = _STATIC.joinpath(file).read_bytes()
        app.router.add_get(f"{base_path}/{name}", _serving(body, _TYPES[file.rpartition(".")[2]]))


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
