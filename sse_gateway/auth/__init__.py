"""Who is asking and what they may do: tokens verified into a `Principal`, sessions and scopes judged.

    principal      who, and what they reach; knows nothing of tokens
    claims         the rules a verified token's claims must satisfy
    compact        the token's outer form and header, before any signature is looked at
    keys, jwks     where verification keys come from: a secret, a PEM file, a key set's URL
    tokens         `Authenticator`: all of it together, with a cache of verified tokens
    explaining     the same rules told one by one, for `sse-gateway token --explain`

Signatures are PyJWT's work. Its reading of claims is not used: it takes `"exp": "12"` and `"exp": true`
for numbers and the last of two equal members for the only one, and what is decided here must be told rule
by rule.
"""

from sse_gateway.auth.claims import Finding
from sse_gateway.auth.keys import KeySettingError, KeysUnavailable
from sse_gateway.auth.principal import PUBLISH, READ, RESPOND, SCOPES, Principal
from sse_gateway.auth.tokens import Authenticator

__all__ = [
    "PUBLISH",
    "READ",
    "RESPOND",
    "SCOPES",
    "Authenticator",
    "Finding",
    "KeySettingError",
    "KeysUnavailable",
    "Principal",
]
