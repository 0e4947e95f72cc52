"""A server under config/redis.acl, made ready by the very lines of docs/security.md."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import redis

from tests.support.servers import Kind, RedisProcess

ROOT = Path(__file__).parents[2]
FILE = ROOT / "config" / "redis.acl"
PASSWORDS = {"gateway": "gateway-0123456789", "agent": "agent-0123456789", "admin": "admin-0123456789"}


def rules(user: str, text: str | None = None) -> list[str]:
    """Return the rules of one user in the file, or in a text like it."""
    lines = (FILE.read_text() if text is None else text).splitlines()
    (line,) = [line for line in lines if line.startswith(f"user {user} ")]
    return line.split()[2:]


def commands(user: str) -> set[str]:
    """Return the commands that the file grants a user, and subcommands as `client|setname`."""
    return {rule[1:] for rule in rules(user) if rule.startswith("+")}


class AclServer(RedisProcess):
    """A server that knows the users of the file and an administrator, the test itself.

    `changed` maps texts of the file to what takes their place.
    """

    def __init__(self, kind: Kind, changed: dict[str, str] | None = None, **options: str) -> None:
        """Put passwords into a copy of the file, as the page tells operators to do."""
        super().__init__(kind, options=options)
        page = (ROOT / "docs" / "security.md").read_text()
        (block,) = re.findall(r"```sh\n(# Into /etc/redis/users\.acl.*?)```", page, re.DOTALL)
        self.acl_file = self.folder / "users.acl"
        script = block.replace("/etc/redis/users.acl", str(self.acl_file))
        given = {f"{user.upper()}_PASSWORD": password for user, password in PASSWORDS.items()}
        subprocess.run(["bash", "-euc", script], cwd=ROOT, env={**os.environ, **given}, check=True)
        text = self.acl_file.read_text()
        for old, new in (changed or {}).items():
            assert old in text, old
            text = text.replace(old, new)
        self.acl_file.write_text(text)
        self.options["aclfile"] = str(self.acl_file)
        self.credentials = {"username": "admin", "password": PASSWORDS["admin"]}

    def login(self, user: str, *, db: int = 0) -> Any:
        """Make a blocking client of one user, with text replies; the caller closes it."""
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            db=db,
            username=user,
            password=PASSWORDS[user],
            decode_responses=True,
            socket_timeout=10,
        )

    def url_of(self, user: str) -> str:
        """Return the URL of one user, whose password is given beside it."""
        return f"redis://{user}:@127.0.0.1:{self.port}/0"

    def refused(self) -> set[tuple[str, str]]:
        """Return what the server has refused whom, but for a name that redis-py gives itself from 7.2 on."""
        log = self.client.acl_log()
        return {(entry["username"], entry["object"]) for entry in log if entry["object"] != "client|setinfo"}
