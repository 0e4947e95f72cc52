"""Put the id of the HTTP request on whose behalf something is logged into its line."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar

HTTP_REQUEST_ID: ContextVar[str | None] = ContextVar("http_request_id", default=None)
FIELD = "http_request_id"


class RequestIds(logging.Filter):
    """Add the field to records written while a request is served; one that has it already keeps its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add to a record in place; every record passes."""
        trace = HTTP_REQUEST_ID.get()
        fields = getattr(record, "fields", None)
        fields = fields if isinstance(fields, Mapping) else {}
        if trace is not None and FIELD not in fields:
            record.fields = {**fields, FIELD: trace}
        return True
