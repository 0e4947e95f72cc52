"""Show settings to people: one row a setting, for the command line, for reports and for docs/settings.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sse_gateway.config import forms
from sse_gateway.config.fields import FLAG_EXPECTED, SECRETS
from sse_gateway.config.settings import Settings

MASK = "***"
MAX_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Row:
    """Describe one setting; `name` is the field's, `default` is written as a person would write it."""

    name: str
    default: str
    unit: str
    purpose: str
    expected: str
    section: str

    @property
    def upper(self) -> str:
        """Return the name as variables and documents write it."""
        return self.name.upper()

    @property
    def is_flag(self) -> bool:
        """Tell whether the setting is either true or false."""
        return self.expected == FLAG_EXPECTED


def rows() -> Iterator[Row]:
    """Yield every setting in the order of its section."""
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict):
            raise TypeError(f"the field {name} is not made by _setting")
        yield Row(
            name=name,
            default=value_text(name, field.default),
            unit=str(extra["unit"]),
            purpose=field.description or "",
            expected=str(extra["expected"]),
            section=str(extra["section"]),
        )


def expected_text(name: str) -> str:
    """Return what a setting's value should be, as the report of a wrong one says it."""
    return next(row.expected for row in rows() if row.name == name)


def value_text(name: str, value: Any) -> str:
    """Write an effective value for a person; secrets are masked, nothing set is an empty text."""
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return forms.mask_url(value.get_secret_value()) if name == "redis_url" else MASK
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and name.endswith("_bytes"):
        return forms.size_text(value)
    return str(value)


def given_text(name: str, value: Any) -> str:
    """Write a wrong value so that its author finds it again; of a secret only the length is told."""
    if name == "redis_url":
        value = forms.mask_url(str(value.get_secret_value() if isinstance(value, SecretStr) else value))
    elif name in SECRETS:
        return f"{len(str(value).encode())} bytes, not shown"
    elif isinstance(value, Path):
        value = str(value)
    text = json.dumps(value, default=str, ensure_ascii=True)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"


def effective(settings: Settings) -> Iterator[tuple[Row, str]]:
    """Yield each setting with its effective value, masked where it is a secret."""
    for row in rows():
        yield row, value_text(row.name, getattr(settings, row.name))


def markdown() -> str:
    """Write docs/settings.md."""
    lines = [_HEAD]
    section = ""
    for row in rows():
        if row.section != section:
            section = row.section
            lines += [
                "",
                f"## {section}",
                "",
                "| name | default | unit | what it is for | value |",
                "|---|---|---|---|---|",
            ]
        default = f"`{row.default}`" if row.default else "-"
        cells = (f"`{row.upper}`", default, row.unit or "-", row.purpose, row.expected)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


_HEAD = """# Settings

Made from the fields of `sse_gateway/config/settings.py` by `python scripts/settings_page.py`; a test
compares.

Every name can be given in three ways; the first that is there wins:

1. as a flag of `sse-gateway serve`: `--heartbeat-seconds 15`
2. as a variable: `SSE_GATEWAY_HEARTBEAT_SECONDS=15` (an empty one counts as not set)
3. in the TOML file named by `--config` or `SSE_GATEWAY_CONFIG`: `heartbeat_seconds = 15`

Each secret has a twin that ends in `_FILE`: the path of a file that holds it. Flags and variables can be seen
by other people of the machine, files need not be. `sse-gateway check-config` says everything that is wrong at
once, and `check-config --print` shows what is in force, with secrets masked. A misspelt name is a fault, not
a wish.

Sizes may be written `262144` or `"256KiB"`. Lists are separated by commas or spaces, or are TOML arrays."""
