"""Write log lines as JSON or as text for a terminal, never with a token in them.

Every module logs through `logging.getLogger(__name__)`. What a machine should read goes into `fields`:

    logger.info("SSE stream opened", extra={"fields": {"session": sid, "user": user}})
    logger.info("SSE stream closed", extra={"fields": {"session": sid, "reason": reason, "seconds": 12.4}})

The message stays a constant (it is what people grep for) and the fields become members of the JSON object, or
`name=value` behind the text. Attributes given directly in `extra` are taken as fields too; `fields` is the
safe way, since `logging` refuses names such as `name`. The members `time`, `level`, `logger`, `message` and
`exception` are ours: a field of such a name gets an underscore behind it.

`configure` puts one handler on the root logger. Its `Redactor` rewrites each record before any formatter sees
it: message, arguments, fields, exception and stack texts. What is logged while an HTTP request is served
carries its `http_request_id`.
"""

from sse_gateway.logs.formats import JsonFormatter, TextFormatter
from sse_gateway.logs.redact import Redactor, redact
from sse_gateway.logs.setup import configure
from sse_gateway.logs.tracing import HTTP_REQUEST_ID

__all__ = ["HTTP_REQUEST_ID", "JsonFormatter", "Redactor", "TextFormatter", "configure", "redact"]
