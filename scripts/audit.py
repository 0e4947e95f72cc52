"""Ask the advisory database (OSV) whether anything is known against the locked versions.

Fails for a vulnerability that is found, and for whatever keeps pip-audit from its work. Only where the
database itself cannot be reached does it say so and go on: a machine without a way out cannot know more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

SAYS_NOTHING_OF_US = (403, 407, 429)
"""Statuses by which a proxy, or a database in trouble, refuses whoever asks."""
DATABASE = "https://api.osv.dev/v1/query"
SECONDS = 15


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "locks", nargs="+", type=Path, help="requirement files with exact versions and hashes"
    )
    parser.add_argument("--database", default=DATABASE, help="address that takes OSV queries")
    asked = parser.parse_args()
    if fault := out_of_reach(asked.database):
        click.echo(
            f"==> NOT AUDITED: cannot reach the advisory database {asked.database} ({fault}); going on"
        )
        return 0
    found = audit(asked.locks, asked.database)
    if found is None:
        return 1
    bad = [package for package in found if package.get("vulns")]
    for package in bad:
        for vulnerability in package["vulns"]:
            fixed = " or ".join(vulnerability["fix_versions"]) or "no version yet"
            click.echo(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    click.echo(f"==> {len(found)} locked packages audited, {len(bad)} with known vulnerabilities")
    return 1 if bad else 0


def out_of_reach(database: str) -> str:
    """Return why the database cannot be asked, or nothing when it answers."""
    question = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "26.0"}
    request = urllib.request.Request(database, data=json.dumps(question).encode())  # noqa: S310  https or a test's
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            json.load(answer)
    except urllib.error.HTTPError as error:
        # Any other status is about what we asked: pip-audit will meet it too, and fail.
        return f"status {error.code}" if error.code >= 500 or error.code in SAYS_NOTHING_OF_US else ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


def audit(locks: list[Path], database: str) -> list[dict[str, Any]] | None:
    """Return what pip-audit says of each package, or None when it could not do its work."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--strict"]
        command += ["--vulnerability-service", "osv", "--osv-url", database, "--progress-spinner", "off"]
        command += ["--format", "json", "--output", str(report)]
        for lock in locks:
            command += ["--requirement", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            said = done.stderr.strip() or f"pip-audit ended with {done.returncode} and said nothing"
            click.echo(said, err=True)
            return None
        packages: list[dict[str, Any]] = json.loads(report.read_text())["dependencies"]
        return packages


if __name__ == "__main__":
    sys.exit(main())
