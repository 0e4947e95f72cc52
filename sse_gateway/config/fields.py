"""Make the fields of `Settings`: purpose, unit, bounds and the sentence that says what is expected.

One maker for each kind of value, so that every setting carries what the flags, the reports and the table
need.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from sse_gateway.config import forms

SECRETS = ("redis_url", "redis_password", "jwt_secret", "jwt_secret_previous")
MAX_SECRET_FILE_BYTES = 64 * 1024
LONGEST_DEADLINE_SECONDS = 23 * 3600  # the permission scripts refuse deadlines further ahead
MANY = 1_000_000_000

KEY_EXPECTED = f"at least {forms.MIN_SECRET_BYTES} bytes; `openssl rand -base64 48` makes a good one"
CLAIM_EXPECTED = "the name of a claim: letters, digits and _ . : / -"
FLAG_EXPECTED = "true or false"


@dataclass(frozen=True, slots=True)
class Section:
    """Make fields that belong under one heading of the table."""

    title: str

    def value(
        self,
        default: Any,
        purpose: str,
        *,
        expected: str,
        unit: str = "",
        ge: float | None = None,
        le: float | None = None,
    ) -> Any:
        """Make a field of any kind; `expected` is what the report of a wrong value says."""
        extra: Any = {"section": self.title, "unit": unit, "expected": expected}
        return Field(default=default, description=purpose, json_schema_extra=extra, ge=ge, le=le)

    def whole(
        self, default: int | None, low: int, high: int, purpose: str, *, unit: str = "", zero: str = ""
    ) -> Any:
        """Make a whole number's field; `zero` tells what 0 means where it means something else than none."""
        expected = f"a whole number from {low:,} to {high:,}" + (f" (0: {zero})" if zero else "")
        return self.value(default, purpose, unit=unit, expected=expected, ge=low, le=high)

    def seconds(self, default: float, low: float, high: float, purpose: str, *, zero: str = "") -> Any:
        """Make a field that holds a duration."""
        expected = f"seconds from {low:,.10g} to {high:,.10g}" + (f" (0: {zero})" if zero else "")
        return self.value(float(default), purpose, unit="seconds", expected=expected, ge=low, le=high)

    def per_second(self, default: float, purpose: str) -> Any:
        """Make a rate's field; ten seconds' worth may come at once."""
        expected = "a number from 0 to 1,000,000 (0: no limit)"
        purpose += "; ten seconds' worth may come at once"
        return self.value(float(default), purpose, unit="per second", expected=expected, ge=0, le=1_000_000)

    def size(self, default: int, low: int, high: int, purpose: str) -> Any:
        """Make a field that holds a number of bytes."""
        expected = f'a size from {forms.size_text(low)} to {forms.size_text(high)}, such as 65536 or "64KiB"'
        return self.value(default, purpose, unit="bytes", expected=expected, ge=low, le=high)

    def flag(self, purpose: str) -> Any:
        """Make a field that is false unless somebody wants it."""
        return self.value(False, purpose, expected=FLAG_EXPECTED)  # noqa: FBT003  a default, not an option

    def secret_file(self, name: str) -> Any:
        """Make the `_file` twin of a secret."""
        expected = f"a readable text file that holds {name} alone"
        return self.value(None, f"File that holds `{name}`, read at start", unit="path", expected=expected)


def read_secret(path: Path) -> str:
    """Return the one secret a file holds, without the line end editors put behind it."""
    with path.open("rb") as file:
        content = file.read(MAX_SECRET_FILE_BYTES + 1)
    text = content.decode("utf-8").strip("\r\n")
    if not text or len(content) > MAX_SECRET_FILE_BYTES:
        raise ValueError("empty or far too long for a secret")
    return text


def _secret_path(path: Path) -> Path:
    try:
        read_secret(path)
    except OSError as error:
        raise ValueError(str(error)) from None
    return path


def _readable(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(str(error)) from None


def _certificates(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(str(error)) from None
    return path


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode()) < forms.MIN_SECRET_BYTES:
        raise ValueError("too short")
    return secret


def _redis_url(url: SecretStr) -> SecretStr:
    forms.redis_scheme(url.get_secret_value())
    return url


Whole = Annotated[int, BeforeValidator(forms.number)]
Seconds = Annotated[float, BeforeValidator(forms.number)]
PerSecond = Annotated[float, BeforeValidator(forms.number)]
Size = Annotated[int, BeforeValidator(forms.size)]
Words = Annotated[tuple[str, ...], BeforeValidator(forms.words)]
SecretFile = Annotated[Path, AfterValidator(_secret_path)]
ReadableFile = Annotated[Path, AfterValidator(_readable)]
CertificateFile = Annotated[Path, AfterValidator(_certificates)]
Key = Annotated[SecretStr, AfterValidator(_long_enough)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
ClaimName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
