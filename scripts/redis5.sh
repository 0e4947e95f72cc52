#!/usr/bin/env bash
# Run the SDK's tests with redis-py 5, the oldest major release it supports, beside everything else as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
venv=.venv/redis5
site=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
if [ ! -x "$venv/bin/python" ] || [ pyproject.toml -nt "$venv/.installed" ] || [ scripts/redis5.sh -nt "$venv/.installed" ] || [ scripts/redis5.lock -nt "$venv/.installed" ]; then
    echo "==> making $venv: the locked packages, but redis before 6"
    "$python" -m venv --clear --without-pip "$venv"
    own=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --target "$own" --require-hashes -r scripts/redis5.lock
    # The rest comes from .venv, behind what was just installed.
    echo "import site; site.addsitedir('$site')" >"$own/rest.pth"
    # Gateways run as they are, so that both releases meet on one server.
    ln -s ../../bin/sse-gateway "$venv/bin/sse-gateway"
    touch "$venv/.installed"
fi
"$venv/bin/python" -c 'import redis; assert redis.__version__.startswith("5."), redis.__version__; print("redis-py", redis.__version__)'
exec "$venv/bin/python" -m pytest tests/agent "$@"
