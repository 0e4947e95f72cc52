"""Settings: where they come from, which one wins, and what is said when they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sse_gateway.config import Settings, SettingsError, derive_max_streams, load
from sse_gateway.config.forms import mask_url, redis_database_in, size, size_text
from sse_gateway.config.table import effective, markdown, rows
from tests.support.certificates import Authority

SECRET = "correct-horse-battery-staple-0123456789"
URL = "redis://127.0.0.1:6379/0"
ROOT = Path(__file__).parents[1]

DESIGN_NAMES = frozenset(
    """
    HOST PORT ADMIN_PORT REDIS_URL NAMESPACE BASE_PATH PUBLIC_URL JWT_SECRET JWT_SECRET_PREVIOUS
    JWT_PUBLIC_KEY_FILE JWT_JWKS_URL JWT_ALGORITHMS JWT_ISSUER JWT_AUDIENCE JWT_LEEWAY_SECONDS
    JWT_USER_CLAIM JWT_SESSION_CLAIM JWT_SESSIONS_CLAIM DEFAULT_SCOPES CORS_ORIGINS TRUSTED_PROXIES
    HEARTBEAT_SECONDS STREAM_QUEUE_EVENTS STREAM_QUEUE_BYTES HISTORY_EVENTS HISTORY_BYTES
    HISTORY_SECONDS MAX_EVENT_BYTES PERMISSION_SECONDS REQUIRE_REQUEST_ID MIN_DISPLAY_SECONDS
    REDIS_WAIT_REPLICAS MAX_STREAMS MAX_STREAMS_PER_SESSION MAX_STREAMS_PER_USER MAX_STREAM_AGE_SECONDS
    DRAIN_SECONDS REUSE_PORT STREAM_TRANSPORT CONSOLE SIMPLE_NOTIFIER_COMPAT LOG_LEVEL LOG_FORMAT
    """.split()  # noqa: SIM905  (a list of names is read more easily than a list of literals)
)


def faults(**given: Any) -> dict[str, str]:
    """Load from variables that are wrong, and return each fault's line by its name."""
    with pytest.raises(SettingsError) as caught:
        load(environ={f"SSE_GATEWAY_{name.upper()}": value for name, value in given.items()})
    return {fault.name: str(fault) for fault in caught.value.faults}


def test_every_name_of_the_design_is_a_setting() -> None:
    names = {row.upper for row in rows()}
    assert names >= DESIGN_NAMES
    assert {"JWT_SECRET_FILE", "JWT_SECRET_PREVIOUS_FILE", "REDIS_URL_FILE", "REDIS_PASSWORD_FILE"} <= names


def test_flags_beat_variables_beat_the_file_beats_defaults(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("port = 1\nheartbeat_seconds = 2\nhistory_events = 3\n")
    variables = {"SSE_GATEWAY_PORT": "10", "SSE_GATEWAY_HEARTBEAT_SECONDS": "20"}
    settings = load({"port": 100, "host": None}, environ=variables, config=config)
    assert (settings.port, settings.heartbeat_seconds, settings.history_events) == (100, 20.0, 3)
    assert settings.host == "127.0.0.1"


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        'cors_origins = ["https://a.example", "https://b.example"]\nmax_event_bytes = "64KiB"\n'
    )
    settings = load(environ={"SSE_GATEWAY_CONFIG": str(config)})
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.max_event_bytes == 65536


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(environ={"SSE_GATEWAY_PORT": ""}).port == 8000


def test_all_faults_are_reported_at_once_and_no_secret_with_them() -> None:
    found = faults(
        port="http",
        jwt_secret="hunter2-hunter2",
        redis_url="http://user:opensesame@host",
        heartbeat_seconds="soon",
        namespace="Prod!",
        base_path="sse/",
        cors_origins="https://a.example/page",
        trusted_proxies="10.0.0.1/8",
        default_scopes="sse:reed",
        log_level="loud",
        stream_transport="pigeon",
        jwt_algorithms="none",
        console="perhaps",
        max_event_bytes="12 parsecs",
    )
    assert len(found) == 14
    text = "\n".join(found.values())
    assert "hunter2" not in text
    assert "opensesame" not in text
    assert found["PORT"] == (
        'PORT: "http" (SSE_GATEWAY_PORT); expected a whole number from 0 to 65,535 (0: any free one)'
    )
    assert "15 bytes, not shown" in found["JWT_SECRET"]
    assert "http://user:***@host" in found["REDIS_URL"]


def test_what_disagrees_is_reported_beside_what_is_wrong_by_itself() -> None:
    found = faults(port="x", jwt_secret=SECRET, jwt_jwks_url="https://id.example/keys", history_bytes="8192")
    assert set(found) == {"PORT", "JWT_SECRET, JWT_JWKS_URL", "MAX_EVENT_BYTES, HISTORY_BYTES"}


def test_one_mistake_is_one_line() -> None:
    """A secret that is too short is not also reported as missing, nor its algorithms as foreign."""
    with pytest.raises(SettingsError) as caught:
        load({"jwt_secret": "short", "redis_url": URL, "jwt_algorithms": "HS256"}, needs=("redis_url", "key"))
    assert [fault.name for fault in caught.value.faults] == ["JWT_SECRET"]


def test_what_a_command_needs_is_named_together() -> None:
    with pytest.raises(SettingsError) as caught:
        load(needs=("redis_url", "key"))
    assert [fault.name for fault in caught.value.faults] == ["JWT_SECRET", "REDIS_URL"]
    assert "JWT_PUBLIC_KEY_FILE" in str(caught.value)


def test_unknown_names_are_faults_with_a_suggestion(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('heartbeat = 5\nredis-url = "redis://h"\n[jwt]\nsecret = "x"\n')
    with pytest.raises(SettingsError) as caught:
        load(environ={"SSE_GATEWAY_JWT_SECRETS": SECRET, "OTHER": "1"}, config=config)
    found = {fault.name: fault.expected for fault in caught.value.faults}
    assert set(found) == {"heartbeat", "redis-url", "jwt", "SSE_GATEWAY_JWT_SECRETS"}
    assert "did you mean SSE_GATEWAY_JWT_SECRET?" in found["SSE_GATEWAY_JWT_SECRETS"]
    assert "did you mean redis_url?" in found["redis-url"]


def test_variables_that_kubernetes_invents_for_a_service_are_not_ours() -> None:
    """A Service named sse-gateway puts these into every pod of its namespace."""
    settings = load(
        environ={
            "SSE_GATEWAY_SERVICE_HOST": "10.0.0.7",
            "SSE_GATEWAY_SERVICE_PORT": "80",
            "SSE_GATEWAY_SERVICE_PORT_HTTP": "80",
            "SSE_GATEWAY_PORT": "tcp://10.0.0.7:80",
            "SSE_GATEWAY_PORT_80_TCP": "tcp://10.0.0.7:80",
            "SSE_GATEWAY_PORT_80_TCP_PROTO": "tcp",
            "SSE_GATEWAY_PORT_80_TCP_PORT": "80",
            "SSE_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.7",
        }
    )
    assert settings.port == 8000


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("port = \n", "TOML"), ("port = 1\nport = 2\n", "TOML"), (b"host = '\xff'", "TOML"), (None, "readable")],
)
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, content: Any, complaint: str) -> None:
    config = tmp_path / "gateway.toml"
    if content is not None:
        config.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as caught:
        load(config=config)
    assert caught.value.faults[0].name == "CONFIG"
    assert complaint in str(caught.value)


class TestSecrets:
    def test_a_secret_is_read_from_its_file_without_the_line_end(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text(f"{SECRET}\n")
        settings = load(environ={"SSE_GATEWAY_JWT_SECRET_FILE": str(path)})
        assert settings.jwt_secret is not None
        assert settings.jwt_secret.get_secret_value() == SECRET

    def test_a_file_given_above_beats_a_secret_given_below(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text(SECRET)
        variables = {"SSE_GATEWAY_JWT_SECRET": "another-secret-that-is-long-enough-too"}
        settings = load({"jwt_secret_file": path}, environ=variables)
        assert settings.jwt_secret is not None
        assert settings.jwt_secret.get_secret_value() == SECRET

    def test_a_secret_and_its_file_in_one_place_are_a_fault(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text(SECRET)
        assert "JWT_SECRET" in faults(jwt_secret=SECRET, jwt_secret_file=str(path))

    def test_a_secret_file_that_is_missing_or_too_short_is_named(self, tmp_path: Path) -> None:
        short = tmp_path / "short"
        short.write_text("tiny")
        found = faults(jwt_secret_file=str(short), redis_password_file=str(tmp_path / "none"))
        assert set(found) == {"JWT_SECRET", "REDIS_PASSWORD_FILE"}
        assert "tiny" not in str(found)
        assert str(short) in found["JWT_SECRET"]

    def test_no_way_of_showing_settings_shows_a_secret(self) -> None:
        settings = load({"redis_url": "redis://u:opensesame@h/0", "jwt_secret": SECRET})
        shown = [repr(settings), str(settings), settings.model_dump_json()]
        shown += [value for _row, value in effective(settings)]
        assert not any("opensesame" in text or SECRET in text for text in shown)

    def test_an_error_of_direct_construction_shows_no_secret(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Settings(jwt_secret="opensesame")
        assert "opensesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"jwt_secret": SECRET, "jwt_algorithms": "HS256 RS256"}, "JWT_ALGORITHMS, JWT_SECRET"),
        ({"jwt_jwks_url": "https://h/k", "jwt_algorithms": "HS256"}, "JWT_ALGORITHMS, JWT_JWKS_URL"),
        ({"jwt_secret_previous": SECRET}, "JWT_SECRET_PREVIOUS, JWT_SECRET"),
        ({"jwt_secret": SECRET, "jwt_secret_previous": SECRET}, "JWT_SECRET_PREVIOUS, JWT_SECRET"),
        ({"redis_url": "redis://:a@h", "redis_password": "b"}, "REDIS_PASSWORD, REDIS_URL"),
        (
            {"redis_url": "redis+cluster://h", "simple_notifier_compat": "true"},
            "SIMPLE_NOTIFIER_COMPAT, REDIS_URL",
        ),
        ({"port": "9", "admin_port": "9"}, "ADMIN_PORT, PORT"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, str], names: str) -> None:
    assert list(faults(**given)) == [names]


def test_a_ca_file_holds_certificates_and_goes_with_tls(tmp_path: Path) -> None:
    """Both faults show at start: later, the one looks like an outage and the other is no protection."""
    ca_file = str(Authority(tmp_path).ca_file)
    assert Settings(redis_url="rediss://h", redis_ca_file=ca_file).redis_ca_file == Path(ca_file)
    assert list(faults(redis_url="redis://h", redis_ca_file=ca_file)) == ["REDIS_CA_FILE, REDIS_URL"]
    assert list(faults(redis_url="rediss://h", redis_ca_file=__file__)) == ["REDIS_CA_FILE"]
    assert list(faults(redis_url="rediss://h", redis_ca_file="/nowhere/ca.pem")) == ["REDIS_CA_FILE"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "rediss://user:pw@h:6380/1",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://h1:26379,h2:26379/mymaster/0",
        "redis+cluster://h1,h2:7000",
        "redis://[::1]:6379/0",
    ],
)
def test_redis_urls_that_are_taken(url: str) -> None:
    settings = Settings(redis_url=url)
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://h",
        "redis://",
        "unix://",
        "redis://h:port",
        "redis+sentinel://h:1",
        "redis://a b",
    ],
)
def test_redis_urls_that_are_refused(url: str) -> None:
    assert list(faults(redis_url=url)) == ["REDIS_URL"]


@pytest.mark.parametrize("path", ["", "/sse", "/agent_backend/api/sse", "/v1.0/~x"])
def test_base_paths_that_are_taken(path: str) -> None:
    assert Settings(base_path=path).base_path == path


@pytest.mark.parametrize("path", ["sse", "/", "/sse/", "//sse", "/a/../b", "/{x}", "/a b", "/é", "/a?b"])
def test_base_paths_that_are_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        Settings(base_path=path)


@pytest.mark.parametrize(
    "given",
    [
        {"port": True},
        {"port": 65536},
        {"port": 80.5},
        {"heartbeat_seconds": 0},
        {"heartbeat_seconds": 0.09},
        {"heartbeat_seconds": float("inf")},
        {"heartbeat_seconds": float("nan")},
        {"permission_seconds": 24 * 3600},
        {"max_event_bytes": "1XB"},
        {"stream_queue_events": 0},
        {"cors_origins": ["*", "https://a.example"]},
        {"cors_origins": "null"},
        {"public_url": "https://h/?a=1"},
        {"jwt_jwks_url": "http://id.example/keys"},
        {"jwt_user_claim": ""},
        {"host": "a/b"},
        {"nonsense": 1},
    ],
)
def test_values_out_of_range_or_form_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**given)


def test_nothing_can_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_none_may_be_given_where_nothing_is_the_default() -> None:
    assert Settings(admin_port=None, max_streams=None, redis_url=None).max_streams is None


def test_algorithms_follow_the_kind_of_key(tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    pem.write_text("-----BEGIN PUBLIC KEY-----\n")
    assert Settings(jwt_secret=SECRET).jwt_algorithms == ("HS256",)
    assert Settings(jwt_public_key_file=pem).jwt_algorithms == ("RS256", "ES256", "EdDSA")
    assert Settings(jwt_public_key_file=pem, jwt_algorithms="ES384").jwt_algorithms == ("ES384",)


@pytest.mark.parametrize(
    ("written", "number"),
    [("0", 0), ("4096", 4096), ("64KiB", 65536), ("1 MB", 1_000_000), ("4MiB", 4 * 1024**2)],
)
def test_sizes(written: str, number: int) -> None:
    assert size(written) == number
    assert size(size_text(number)) == number


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u:p@h", "redis://u:***@h"),
        ("redis://:p@ss@h", "redis://:***@h"),
        ("redis://h?password=p&db=1", "redis://h?password=***&db=1"),
        ("u:p@h:6379", "***@h:6379"),
        ("redis://u:p/q@h", "redis://u:***@h"),
    ],
)
def test_passwords_in_urls_are_masked(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    ("url", "number"),
    [("redis://h", 0), ("redis://h/3", 3), ("unix:///s?db=2", 2), ("redis+sentinel://h:1/main/4", 4)],
)
def test_the_database_of_a_url(url: str, number: int) -> None:
    assert redis_database_in(url) == number


def test_the_limit_of_streams_follows_the_descriptor_limit() -> None:
    assert derive_max_streams(20_000) == 19_000
    assert derive_max_streams(1024) == 960
    assert derive_max_streams(10) == 1
    assert derive_max_streams(-1) == 1_000_000


def test_the_table_of_settings_in_the_documents_is_up_to_date() -> None:
    """Run `python scripts/settings_page.py` when this fails."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == markdown()


def test_every_setting_says_what_it_is_for_and_what_is_expected() -> None:
    for row in rows():
        assert row.purpose, row.name
        assert row.expected, row.name
        assert json.dumps(row.default)
