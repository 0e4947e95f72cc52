"""Read the written forms of settings: sizes, lists, URLs, paths.

Knows nothing of where a text came from. Each reader takes what a flag, a variable or a TOML file holds and
returns the value, or raises ValueError; what was expected is said by the field, so that one wording serves
message and table. `mask_url` is here because the same grammar decides which part of a URL is a secret.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import SplitResult, urlsplit

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
REDIS_SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
SCOPES = ("sse:read", "sse:respond", "sse:publish")
SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
PUBLIC_ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")
MIN_SECRET_BYTES = 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SIZE = re.compile(r"(\d{1,15})\s*(|B|KiB|MiB|GiB|kB|KB|MB|GB)")
_UNITS = {
    "": 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_DOT_SEGMENT = re.compile(r"/\.\.?(/|$)")
_URL_SECRET = re.compile(r"([?&;](?:password|username|token|key|secret)=)[^&;#]*", re.IGNORECASE)


def number(value: Any) -> Any:
    """Refuse true and false where a number is expected, since Python would read them as 1 and 0."""
    if value is True or value is False:
        raise ValueError("a truth value is no number")
    return value


def lowered(value: Any) -> Any:
    """Fold the case of a word, since people write INFO."""
    return value.lower() if isinstance(value, str) else value


def size(value: Any) -> Any:
    """Read a number of bytes, with or without a unit: 262144, "256KiB", "1MB"."""
    value = number(value)
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("not a size")
    return int(match[1]) * _UNITS[match[2]]


def size_text(number: int) -> str:
    """Write a number of bytes the short way a person would: 262144 -> "256KiB"."""
    for unit in ("GiB", "MiB", "KiB"):
        if number and number % _UNITS[unit] == 0:
            return f"{number // _UNITS[unit]}{unit}"
    return str(number)


def words(value: Any) -> Any:
    """Read a list written as one text with commas or spaces between its words, or as a list."""
    if isinstance(value, str):
        return tuple(dict.fromkeys(value.replace(",", " ").split()))
    if isinstance(value, list | tuple):
        return tuple(value)
    raise ValueError("not a list")


def scopes(value: tuple[str, ...]) -> tuple[str, ...]:
    """Accept known scopes only: a misspelt one would lock everybody out without a word."""
    if any(word not in SCOPES for word in value):
        raise ValueError("unknown scope")
    return value


def algorithms(value: tuple[str, ...]) -> tuple[str, ...]:
    """Accept signature algorithms we verify; "none" and anything unheard of are refused here."""
    if any(word not in SECRET_ALGORITHMS + PUBLIC_ALGORITHMS for word in value):
        raise ValueError("unknown algorithm")
    return value


def origins(value: tuple[str, ...]) -> tuple[str, ...]:
    """Accept browser origins (scheme, host, port and nothing more), or a lone star."""
    if value == ("*",):
        return value
    for origin in value:
        parts = _split(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError("not an origin")
        if "@" in parts.netloc or not parts.hostname or "*" in origin:
            raise ValueError("not an origin")
    return tuple(origin.lower() for origin in value)


def networks(value: Any) -> tuple[Network, ...]:
    """Read addresses and networks of proxies; a network with host bits set is a typing error, not a wish."""
    items = words(value)
    return tuple(
        item if isinstance(item, Network) else ipaddress.ip_network(str(item), strict=True) for item in items
    )


def base_path(value: str) -> str:
    """Accept "" or /segments without a slash at the end: routes are made by putting a path behind it."""
    if not _BASE_PATH.fullmatch(value) or _DOT_SEGMENT.search(value):
        raise ValueError("not a base path")
    return value


def public_url(value: str) -> str:
    """Accept an http(s) URL without query or fragment, and cut the slash at its end."""
    parts = _split(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("not a web address")
    if parts.query or parts.fragment:
        raise ValueError("query or fragment in a base address")
    return value.rstrip("/")


def jwks_url(value: str) -> str:
    """Accept https only (loopback may be http): who can change the key set on its way can sign any token."""
    parts = _split(value)
    loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise ValueError("not https")
    if not parts.hostname or "@" in parts.netloc:
        raise ValueError("not a web address")
    return value


def redis_scheme(url: str) -> str:
    """Return the scheme of a Redis URL whose host or socket path is there, else raise ValueError."""
    parts = _split(url)
    if parts.scheme not in REDIS_SCHEMES:
        raise ValueError("unknown scheme")
    if parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise ValueError("no socket path")
    elif not parts.netloc.rpartition("@")[2]:
        raise ValueError("no host")
    if parts.scheme in SENTINEL_SCHEMES and not parts.path.strip("/").split("/")[0]:
        raise ValueError("no name of a primary")
    return parts.scheme


def redis_password_in(url: str) -> str | None:
    """Return the password a Redis URL carries, if any."""
    userinfo, at, _host = urlsplit(url).netloc.rpartition("@")
    return (userinfo.partition(":")[2] or None) if at else None


def redis_database_in(url: str) -> int:
    """Return the database number a Redis URL names, 0 when it names none."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        match = re.search(r"(?:^|&)db=(\d{1,6})(?:&|$)", parts.query)
        return int(match[1]) if match else 0
    last = parts.path.rstrip("/").rpartition("/")[2]
    return int(last) if last.isascii() and last.isdigit() else 0


def mask_url(url: str) -> str:
    """Return a URL with its password starred out, also when it is too broken to be parsed."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    before, at, after = rest.rpartition("@")
    if at:
        user, colon, _password = before.partition(":")
        rest = (f"{user}:***" if colon and separator else "***") + "@" + after
    return _URL_SECRET.sub(r"\1***", f"{scheme}{separator}{rest}")


def _split(url: str) -> SplitResult:
    if any(character.isspace() or ord(character) < 32 for character in url):
        raise ValueError("white space in a URL")
    parts = urlsplit(url)
    if parts.scheme not in SENTINEL_SCHEMES + CLUSTER_SCHEMES:
        _ = parts.port  # raises ValueError for a port that is none
    return parts
