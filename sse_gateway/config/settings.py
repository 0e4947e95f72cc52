"""Define every setting: its name, default, unit, bounds and purpose, and the rules between settings.

`Settings` is frozen and reads nothing by itself: no environment, no file but the secrets' `*_file` twins.
Flags, variables and the TOML file are put together in `sources`. The same field metadata makes the flags of
the command line, the messages about wrong values and docs/settings.md, so that they cannot disagree.

Secrets are `SecretStr` (`settings.jwt_secret.get_secret_value()`), so a repr, a log line or a traceback shows
stars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from sse_gateway.config import forms
from sse_gateway.config.fields import (
    CLAIM_EXPECTED,
    KEY_EXPECTED,
    LONGEST_DEADLINE_SECONDS,
    MANY,
    SECRETS,
    CertificateFile,
    ClaimName,
    Key,
    PerSecond,
    ReadableFile,
    RedisUrl,
    Seconds,
    SecretFile,
    Section,
    Size,
    Whole,
    Words,
    read_secret,
)
from sse_gateway.config.rules import KEY_NAMES, DisagreementError, disagreements

LISTENING = Section("Listening")
REDIS = Section("Redis")
KEYS = Section("Tokens and keys")
BROWSERS = Section("Browsers and proxies")
STREAMS = Section("Streams")
RATES = Section("Rates")
EVENTS = Section("Events and history")
PERMISSIONS = Section("Permissions")
RUNNING = Section("Logs and extras")

LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(forms.lowered)]


class Settings(BaseModel):
    """Hold the effective settings of one gateway; build it by `load`, or directly in tests."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True)

    host: Annotated[str, Field(pattern=r"^[^\s/]{1,255}$")] = LISTENING.value(
        "127.0.0.1",
        "Address to listen on; `0.0.0.0` or `::` for all of them",
        expected="an address or host name",
    )
    port: Whole = LISTENING.whole(8000, 0, 65535, "Port to listen on", zero="any free one")
    admin_port: Whole | None = LISTENING.whole(
        None,
        0,
        65535,
        "Port of their own for `/healthz`, `/readyz` and `/metrics`; without it they share `PORT`",
        zero="any free one",
    )
    reuse_port: bool = LISTENING.flag(
        "Let several gateway processes share one port (SO_REUSEPORT), one a core"
    )
    base_path: Annotated[str, AfterValidator(forms.base_path)] = LISTENING.value(
        "/agent_backend/api/sse",
        "What every path of the API begins with",
        expected='a path such as "/agent_backend/api/sse", without a slash at its end',
    )
    public_url: Annotated[str, AfterValidator(forms.public_url)] | None = LISTENING.value(
        None,
        "Address browsers reach the gateway at, when a proxy stands before it; for links it prints",
        expected="an http:// or https:// address without query or fragment",
        unit="URL",
    )
    drain_seconds: Seconds = LISTENING.seconds(
        10, 0, 3600, "Time over which streams are closed, spread, after SIGTERM"
    )

    redis_url: RedisUrl | None = REDIS.value(
        None,
        "Where Redis is. `serve` needs it",
        expected="a URL beginning redis://, rediss://, unix://, redis+sentinel://h1:26379,h2:26379/PRIMARY/0 "
        "or redis+cluster://h1,h2",
        unit="URL",
    )
    redis_url_file: SecretFile | None = REDIS.secret_file("REDIS_URL")
    redis_password: SecretStr | None = REDIS.value(
        None, "Password for Redis, when the URL holds none", expected="a text"
    )
    redis_password_file: SecretFile | None = REDIS.secret_file("REDIS_PASSWORD")
    redis_ca_file: CertificateFile | None = REDIS.value(
        None,
        "Certificates that Redis's own is checked against (`rediss://`); the system's without it",
        expected="a readable PEM file with certificates",
        unit="path",
    )
    redis_wait_replicas: Whole = REDIS.whole(
        0,
        0,
        100,
        "Replicas that must have an answer or a claim before it is confirmed (`WAIT`)",
        unit="replicas",
        zero="none",
    )
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9_]{0,32}$")] = REDIS.value(
        "",
        "Put in front of every key, channel and function name, so that two deployments can share a server",
        expected="up to 32 characters of a-z 0-9 _",
    )

    jwt_secret: Key | None = KEYS.value(
        None, "Secret that HS* tokens are verified with", expected=KEY_EXPECTED
    )
    jwt_secret_file: SecretFile | None = KEYS.secret_file("JWT_SECRET")
    jwt_secret_previous: Key | None = KEYS.value(
        None, "The secret before this one, still accepted during a rotation", expected=KEY_EXPECTED
    )
    jwt_secret_previous_file: SecretFile | None = KEYS.secret_file("JWT_SECRET_PREVIOUS")
    jwt_public_key_file: ReadableFile | None = KEYS.value(
        None,
        "Public key that RS*, ES* or EdDSA tokens are verified with",
        expected="a readable PEM file",
        unit="path",
    )
    jwt_jwks_url: Annotated[str, AfterValidator(forms.jwks_url)] | None = KEYS.value(
        None,
        "Key set of an identity provider that RS*, ES* or EdDSA tokens are verified with",
        expected="an https:// address",
        unit="URL",
    )
    jwt_algorithms: Annotated[Words, AfterValidator(forms.algorithms)] = KEYS.value(
        (),
        "Signature algorithms accepted; by default HS256 with a secret, RS256, ES256 and EdDSA with others",
        expected=f"with a secret some of {' '.join(forms.SECRET_ALGORITHMS)}; "
        f"with public keys some of {' '.join(forms.PUBLIC_ALGORITHMS)}",
        unit="list",
    )
    jwt_issuer: Annotated[str, Field(min_length=1, max_length=1024)] | None = KEYS.value(
        None, "`iss` every token must carry", expected="a text"
    )
    jwt_audience: Annotated[str, Field(min_length=1, max_length=1024)] | None = KEYS.value(
        None, "`aud` every token must carry", expected="a text"
    )
    jwt_leeway_seconds: Seconds = KEYS.seconds(
        30, 0, 600, "How far clocks may differ when `exp` and `nbf` are checked"
    )
    jwt_user_claim: ClaimName = KEYS.value("sub", "Claim that names the user", expected=CLAIM_EXPECTED)
    jwt_session_claim: ClaimName = KEYS.value(
        "session_id", "Claim that names one session", expected=CLAIM_EXPECTED
    )
    jwt_sessions_claim: ClaimName = KEYS.value(
        "sessions", "Claim that lists sessions, prefixes or `*`", expected=CLAIM_EXPECTED
    )
    default_scopes: Annotated[Words, AfterValidator(forms.scopes)] = KEYS.value(
        ("sse:read", "sse:respond"),
        "Rights of a token that carries no `sse:` scope",
        expected=f"some of {' '.join(forms.SCOPES)}",
        unit="list",
    )

    cors_origins: Annotated[Words, AfterValidator(forms.origins)] = BROWSERS.value(
        (),
        "Pages of other origins that may call the API",
        expected='origins such as "https://app.example.org", or "*" alone',
        unit="list",
    )
    trusted_proxies: Annotated[tuple[forms.Network, ...], BeforeValidator(forms.networks)] = BROWSERS.value(
        (),
        "Proxies whose `X-Forwarded-For` is believed",
        expected='addresses or networks such as "10.0.0.0/8, ::1"',
        unit="list",
    )
    console: bool = BROWSERS.flag("Serve the developer console (`demo` turns it on)")

    heartbeat_seconds: Seconds = STREAMS.seconds(
        30, 0.1, 3600, "Time between two heartbeats on a stream, kept to a tenth of a second"
    )
    max_streams: Whole | None = STREAMS.whole(
        None,
        1,
        10_000_000,
        "Streams of this process. Default: what the descriptor limit allows",
        unit="streams",
    )
    max_streams_per_session: Whole = STREAMS.whole(
        1000, 0, MANY, "Streams of one session in this process", unit="streams", zero="no limit"
    )
    max_streams_per_user: Whole = STREAMS.whole(
        1000, 0, MANY, "Streams of one user in this process", unit="streams", zero="no limit"
    )
    max_stream_age_seconds: Seconds = STREAMS.seconds(
        0, 0, 31_536_000, "Age at which a stream is closed, to come back elsewhere", zero="no limit"
    )
    stream_queue_events: Whole = STREAMS.whole(
        100, 1, 1_000_000, "Unsent events after which a stream pauses and goes on from history", unit="events"
    )
    stream_queue_bytes: Size = STREAMS.size(
        1024**2, 4096, 1024**3, "Unsent bytes after which a stream pauses and goes on from history"
    )
    stream_transport: Literal["aiohttp", "handover"] = STREAMS.value(
        "handover",
        "How a stream is held: as an aiohttp response, or with its socket handed over to a smaller protocol",
        expected="aiohttp or handover",
    )

    stream_rate_per_client: PerSecond = RATES.per_second(
        100, "New streams of one client address; more are told to come back later"
    )
    call_rate_per_client: PerSecond = RATES.per_second(
        500, "Calls of one client address, streams left out; more get a 429"
    )
    call_rate_per_user: PerSecond = RATES.per_second(
        200, "Calls of one user from anywhere, streams left out; more get a 429"
    )

    history_events: Whole = EVENTS.whole(
        1000, 1, 1_000_000, "Events kept of a session for streams that come back", unit="events"
    )
    history_bytes: Size = EVENTS.size(
        4 * 1024**2, 8192, 1024**3, "Bytes kept of a session for streams that come back"
    )
    history_seconds: Whole = EVENTS.whole(
        600, 1, 82_800, "Time a session's events are kept after the last one", unit="seconds"
    )
    max_event_bytes: Size = EVENTS.size(256 * 1024, 1024, 16 * 1024**2, "Size of the largest event taken")

    permission_seconds: Whole = PERMISSIONS.whole(
        300,
        1,
        LONGEST_DEADLINE_SECONDS,
        "Time a human has to answer when the agent names none",
        unit="seconds",
    )
    require_request_id: bool = PERMISSIONS.flag("Refuse answers that do not name the request they answer")
    min_display_seconds: Seconds = PERMISSIONS.seconds(
        1, 0, 60, "How long a request must have been open before an answer without its id counts"
    )

    simple_notifier_compat: bool = RUNNING.flag(
        "Also take events from backends of the old kind (channel `sse_events` and its slots)"
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(lambda v: str(v).lower())
    ] = RUNNING.value("info", "Least important log line written", expected="debug, info, warning or error")
    log_format: Literal["auto", "json", "text"] = RUNNING.value(
        "auto",
        "Form of log lines; auto means text on a terminal and JSON elsewhere",
        expected="auto, json or text",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, given: Any) -> Any:
        """Fill secrets from their files; a file that cannot be read is reported by its own field."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for name in SECRETS:
            path = filled.get(f"{name}_file")
            if path and filled.get(name) is None:
                try:
                    filled[name] = read_secret(Path(path))
                except (OSError, ValueError, TypeError):
                    continue
        return filled

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        faults = tuple(disagreements(self))
        if faults:
            raise DisagreementError(faults)
        if self.key_names and not self.jwt_algorithms:
            default = ("HS256",) if self.jwt_secret else ("RS256", "ES256", "EdDSA")
            self.__dict__["jwt_algorithms"] = default
        return self

    @property
    def key_names(self) -> tuple[str, ...]:
        """Name the kinds of key that are configured; more than one is refused when settings are built."""
        return tuple(name for name in KEY_NAMES if getattr(self, name) is not None)
