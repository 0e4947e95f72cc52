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

REFUSES_WHOEVER_ASKS = (403, 407, 429)
"""Statuses that say nothing of what was asked: a proxy's, or those of a database that is asked too often."""
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
        click.echo(f"==> NOTHING WAS AUDITED: the advisory database {asked.database} {fault}; going on")
        return 0
    packages: dict[tuple[str, str], dict[str, Any]] = {}
    for lock in asked.locks:
        # One by one: two locks may have different versions of one package, which is no fault.
        found = audit(lock, asked.database)
        if found is None:
            return 1
        packages |= {(package["name"], package["version"]): package for package in found}
    bad = [package for package in packages.values() if package.get("vulns")]
    for package in bad:
        for vulnerability in package["vulns"]:
            fixed = " or ".join(vulnerability["fix_versions"]) or "no version yet"
            click.echo(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    click.echo(f"==> {len(packages)} locked packages audited, {len(bad)} with known vulnerabilities")
    return 1 if bad else 0


def out_of_reach(database: str) -> str:
    """Return why the database cannot be asked, or nothing when it answers."""
    question = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "26.0"}
    request = urllib.request.Request(database, data=json.dumps(question).encode())  # noqa: S310  https or a test's
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            return f"is in trouble (status {error.code})"
        if error.code in REFUSES_WHOEVER_ASKS:
            return f"was reached, but it or a proxy before it refuses us (status {error.code})"
        # Any other status is about what we asked: pip-audit will meet it too, and fail.
    except OSError as error:
        return f"cannot be reached ({getattr(error, 'reason', error)})"
    except ValueError:
        return "was reached, but what answers is none (a proxy's page?)"
    return ""


def audit(lock: Path, database: str) -> list[dict[str, Any]] | None:
    """Return what pip-audit says of each package, or None when it could not do its work."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--strict"]
        command += ["--vulnerability-service", "osv", "--osv-url", database, "--progress-spinner", "off"]
        command += ["--format", "json", "--output", str(report), "--requirement", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            said = done.stderr.strip() or f"pip-audit ended with {done.returncode} and said nothing"
            click.echo(said, err=True)
            return None
        packages: list[dict[str, Any]] = json.loads(report.read_text())["dependencies"]
        return packages


if __name__ == "__main__":
    sys.exit(main())
