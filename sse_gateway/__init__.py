"""A push gateway between browsers (Server-Sent Events) and AI-agent backends (Redis)."""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

__version__ = "0.1.0"


def compiled() -> bool:
    """Tell whether the hot path was compiled when this was installed (docs/performance.md)."""
    module = find_spec("sse_gateway.core.wire")
    return module is not None and str(module.origin).endswith(tuple(EXTENSION_SUFFIXES))
