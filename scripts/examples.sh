#!/usr/bin/env bash
# Run the tests of examples/ against the real packages: a venv beside .venv, and npm's packages (needs node).
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
venv=.venv/examples
stamp=$venv/.installed
if [ ! -e "$stamp" ] || [ examples/requirements.txt -nt "$stamp" ] || [ scripts/examples.sh -nt "$stamp" ]; then
    echo "==> making $venv (claude-agent-sdk brings a program of 250 MB)"
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r examples/requirements.txt
    # pytest, sse_gateway and what it needs come from .venv, behind what was just installed.
    "$venv/bin/python" - "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" <<'END'
import pathlib, sys, sysconfig
rest = pathlib.Path(sysconfig.get_paths()["purelib"]) / "rest.pth"
rest.write_text(f"import site; site.addsitedir({sys.argv[1]!r})\n")
END
    touch "$stamp"
fi
if [ ! -d examples/node_modules ] || [ examples/package-lock.json -nt examples/node_modules ]; then
    echo "==> npm ci in examples/"
    (cd examples && npm ci --silent --no-audit --no-fund)
    touch examples/node_modules
fi
SSE_TEST_EXAMPLES=1 exec "$venv/bin/python" -m pytest tests/examples "$@"
