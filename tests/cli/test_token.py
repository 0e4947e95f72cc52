"""`token`: what is minted is what the gateway verifies, and what it may do can be explained."""

from __future__ import annotations

import time
from pathlib import Path

import jwt
import pytest

from tests.cli.command import sse_gateway
from tests.support.servers import RedisProcess
from tests.support.tokens import SECRET, authenticator, public_pem, token


async def test_a_minted_token_is_one_the_gateway_accepts() -> None:
    done = sse_gateway("token", "--user", "ann", "--session", "s1", "--ttl", "1h30m", jwt_secret=SECRET)
    assert done.code == 0
    assert done.err == ""
    principal = await authenticator().verify(done.out.strip())
    assert principal.user == "ann"
    assert principal.sessions == ("s1",)
    assert principal.scopes == {"sse:read", "sse:respond"}
    assert principal.expires_at == pytest.approx(time.time() + 5400, abs=30)


async def test_claims_follow_the_settings() -> None:
    settings = {
        "jwt_issuer": "https://id.example",
        "jwt_audience": "sse",
        "jwt_user_claim": "uid",
        "jwt_session_claim": "sid",
        "jwt_sessions_claim": "sids",
        "jwt_algorithms": "HS512",
    }
    done = sse_gateway(
        *("token", "-u", "ann", "-s", "team:*", "-s", "s1", "--scope", "sse:publish"),
        jwt_secret=SECRET * 2,
        **settings,
    )
    assert done.code == 0, done
    assert done.err == ""
    token = done.out.strip()
    assert jwt.get_unverified_header(token)["alg"] == "HS512"
    settings["jwt_algorithms"] = ("HS512",)
    principal = await authenticator(jwt_secret=SECRET * 2, **settings).verify(token)
    assert principal.sessions == ("team:*", "s1")
    assert principal.scopes == {"sse:publish"}


def test_the_secret_may_come_from_a_file_or_the_configuration(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    config = tmp_path / "gateway.toml"
    config.write_text(f'jwt_secret_file = "{secret}"\nport = 9\n')
    for words in (("--jwt-secret-file", str(secret)), ("--config", str(config))):
        done = sse_gateway("token", "-u", "ann", *words)
        assert jwt.decode(done.out.strip(), SECRET, algorithms=["HS256"])["sub"] == "ann"


def test_where_the_gateway_verifies_by_a_public_key_there_is_nothing_to_sign_with(tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    pem.write_text(public_pem("p256"))
    done = sse_gateway("token", "-u", "ann", jwt_public_key_file=pem)
    assert done.code == 1
    assert "JWT_PUBLIC_KEY_FILE" in done.err
    assert "identity provider" in done.err


def test_explain_says_which_rule_lets_a_token_in_or_keeps_it_out() -> None:
    mine = token(sessions=["team:*"])
    inside = sse_gateway("token", "--explain", mine, "--session", "team:1", jwt_secret=SECRET)
    outside = sse_gateway("token", "--explain", mine, "--session", "other", jwt_secret=SECRET)
    assert (inside.code, outside.code) == (0, 1)
    assert "✓ verdict" in inside.out
    assert "✗ verdict" in outside.out
    assert mine not in inside.out + outside.out + outside.err


def test_explain_takes_the_token_from_standard_input_and_the_owner_from_whoever_knows(
    server: RedisProcess, session_id: str
) -> None:
    """A token that only ownership lets in is not said to be kept out, and need not stand in argv."""
    mine = token(sub="ann")
    words = ("token", "--explain", "-", "--session", session_id)
    told = {
        "nobody": sse_gateway(*words, stdin=mine.encode(), jwt_secret=SECRET),
        "the flag": sse_gateway(*words, "--owner", "ann", stdin=f"{mine}\n".encode(), jwt_secret=SECRET),
        "another": sse_gateway(*words, "--owner", "bob", stdin=mine.encode(), jwt_secret=SECRET),
    }
    assert {who: done.code for who, done in told.items()} == {"nobody": 1, "the flag": 0, "another": 1}
    assert "let in by: owner" in told["the flag"].out
    assert "the session's owner is not known here" in told["nobody"].out
    assert "the owner is 'bob'" in told["another"].out
    asked = sse_gateway(
        *("ask", session_id, "--tool", "bash", "--owner", "ann", "--timeout", "1"), redis_url=server.url
    )
    assert asked.code == 2, asked
    by_redis = sse_gateway(*words, stdin=mine.encode(), jwt_secret=SECRET, redis_url=server.url)
    assert by_redis.code == 0, by_redis
    assert "✓ owner" in by_redis.out
    away = sse_gateway(*words, stdin=mine.encode(), jwt_secret=SECRET, redis_url="redis://127.0.0.1:1")
    assert away.code == 1
    assert "owner is not known" in away.err
    assert mine not in "".join(done.out + done.err for done in (*told.values(), by_redis, away))
