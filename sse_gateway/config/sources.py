"""Put settings together from flags, SSE_GATEWAY_* variables and a TOML file, and report all faults at once.

Nothing here reads the process's environment or arguments by itself: both are handed in. A layer that names a
secret or its `_FILE` twin hides both of the layers below, so that a file given on the command line is not
beaten by a variable.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sse_gateway.config.fields import SECRETS
from sse_gateway.config.rules import KEY_NAMES, DisagreementError
from sse_gateway.config.settings import Settings
from sse_gateway.config.table import expected_text, given_text

PREFIX = "SSE_GATEWAY_"
CLIENT_VARIABLES = ("CONFIG", "URL", "TOKEN")
MAX_TOML_BYTES = 1024 * 1024

# Kubernetes and Docker set these for every service called "sse-gateway", whoever wants them or not.
_SERVICE_LINK = re.compile(
    r"SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|ENV_\w+|NAME"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")


@dataclass(frozen=True, slots=True)
class Fault:
    """Name one wrong setting, what was given (secrets masked), and what was expected."""

    name: str
    given: str
    expected: str
    source: str = ""

    def __str__(self) -> str:
        """Write the fault as one line."""
        place = f" ({self.source})" if self.source else ""
        return f"{self.name}: {self.given}{place}; expected {self.expected}"


class SettingsError(Exception):
    """Carry every fault found; its text is one line for each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        """Sort the faults by name, so that a report reads the same each time."""
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.name, fault.given)))
        count = len(self.faults)
        head = "1 setting is wrong:" if count == 1 else f"{count} settings are wrong:"
        super().__init__("\n  ".join((head, *map(str, self.faults))))


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    source: str


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
    needs: Collection[str] = (),
) -> Settings:
    """Return the effective settings: flags, then variables, then the TOML file, then defaults.

    `flags` maps field names to values; None means not given. `config` falls back to the variable
    SSE_GATEWAY_CONFIG. `needs` may hold "redis_url" and "key", for commands that cannot work without. Raises
    SettingsError with all faults.
    """
    variables = environ or {}
    faults: list[Fault] = []
    path = config or (Path(variables[f"{PREFIX}CONFIG"]) if variables.get(f"{PREFIX}CONFIG") else None)
    given: dict[str, _Given] = {}
    for layer in (
        _from_file(path, faults) if path else {},
        _from_environ(variables, faults),
        _from_flags(flags or {}),
    ):
        _check_twins(layer, faults)
        for name in SECRETS:
            if name in layer or f"{name}_file" in layer:
                given.pop(name, None)
                given.pop(f"{name}_file", None)
        given.update(layer)
    settings, wrong = _build(given)
    faults += wrong
    faults += _missing(given, needs, {fault.name.lower() for fault in faults})
    if faults or settings is None:
        raise SettingsError(faults)
    return settings


def _from_flags(flags: Mapping[str, Any]) -> dict[str, _Given]:
    return {
        name: _Given(value, f"--{name.replace('_', '-')}")
        for name, value in flags.items()
        if value is not None
    }


def _from_environ(variables: Mapping[str, str], faults: list[Fault]) -> dict[str, _Given]:
    """Take the variables that are ours; an empty one counts as not set, as compose files mean it."""
    layer = {}
    for variable, value in variables.items():
        if not variable.startswith(PREFIX) or not value:
            continue
        name = variable.removeprefix(PREFIX)
        if name in CLIENT_VARIABLES or _SERVICE_LINK.fullmatch(name):
            continue
        if name == "PORT" and _SERVICE_ADDRESS.fullmatch(value):
            continue
        if name.lower() in Settings.model_fields and name.isupper():
            layer[name.lower()] = _Given(value, variable)
        else:
            names = (PREFIX + known.upper() for known in (*Settings.model_fields, *CLIENT_VARIABLES))
            faults.append(Fault(variable, "no setting has this name", _suggestion(variable, names)))
    return layer


def _from_file(path: Path, faults: list[Fault]) -> dict[str, _Given]:
    try:
        with path.open("rb") as file:
            table = tomllib.loads(file.read(MAX_TOML_BYTES).decode("utf-8"))
    except OSError as error:
        faults.append(Fault("CONFIG", f"{path}: {error.strerror or error}", "a readable TOML file"))
        return {}
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both
        faults.append(Fault("CONFIG", f"{path}: {error}", "a TOML file in UTF-8"))
        return {}
    layer = {}
    for name, value in table.items():
        if name in Settings.model_fields:
            layer[name] = _Given(value, str(path))
        else:
            faults.append(
                Fault(name, "no setting has this name", _suggestion(name, Settings.model_fields), str(path))
            )
    return layer


def _suggestion(name: str, known: Iterable[str]) -> str:
    candidates = {candidate.upper(): candidate for candidate in known}
    close = difflib.get_close_matches(name.upper().replace("-", "_"), candidates, n=1, cutoff=0.6)
    if close:
        return f"a name from docs/settings.md; did you mean {candidates[close[0]]}?"
    return "a name from docs/settings.md, or `sse-gateway check-config --print`"


def _check_twins(layer: Mapping[str, _Given], faults: list[Fault]) -> None:
    for name in SECRETS:
        if name in layer and f"{name}_file" in layer:
            source = layer[f"{name}_file"].source
            faults.append(Fault(name.upper(), "given both itself and as a file", "one of the two", source))


def _build(given: Mapping[str, _Given]) -> tuple[Settings | None, list[Fault]]:
    """Build the settings; if some are wrong, build once more without them to also learn what disagrees."""
    try:
        return Settings(**{name: entry.value for name, entry in given.items()}), []
    except ValidationError as error:
        wrong = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        disagreements = [
            rule
            for item in error.errors()
            if isinstance(cause := item.get("ctx", {}).get("error"), DisagreementError)
            for rule in cause.faults
        ]
    faults = [_field_fault(name, given) for name in wrong]
    faults += [
        Fault(", ".join(name.upper() for name in rule.names), rule.given, rule.expected)
        for rule in disagreements
    ]
    if wrong:
        hidden = wrong | {f"{name}_file" for name in wrong}
        _settings, others = _build({name: entry for name, entry in given.items() if name not in hidden})
        faults += [fault for fault in others if not wrong & set(fault.name.lower().split(", "))]
    return None, faults


def _field_fault(name: str, given: Mapping[str, _Given]) -> Fault:
    entry = given.get(name) or given.get(f"{name}_file") or _Given("", "default")
    value: Any = entry.value
    if name in given or name not in SECRETS:
        text = given_text(name, value)
    else:
        text = f"what {value} holds is not right"
    return Fault(name.upper(), text, expected_text(name), entry.source)


def _missing(
    given: Mapping[str, _Given], needs: Collection[str], reported: Collection[str]
) -> Iterator[Fault]:
    def absent(*names: str) -> bool:
        return not any(name in given or f"{name}_file" in given or name in reported for name in names)

    if "redis_url" in needs and absent("redis_url"):
        how = f"{expected_text('redis_url')} (--redis-url, {PREFIX}REDIS_URL or redis_url in the TOML file)"
        yield Fault("REDIS_URL", "not set", how)
    if "key" in needs and absent(*KEY_NAMES):
        how = f"a key for tokens: {PREFIX}JWT_SECRET of {expected_text('jwt_secret')}"
        yield Fault("JWT_SECRET", "not set", f"{how}; or else JWT_PUBLIC_KEY_FILE or JWT_JWKS_URL")
