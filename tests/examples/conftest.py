"""The examples run against the real packages, which `make test-examples` installs beside everything else."""

import os

from tests.agent.conftest import agents, people

__all__ = ["agents", "people"]

collect_ignore_glob = [] if os.environ.get("SSE_TEST_EXAMPLES") else ["test_*.py"]
