"""The build hook that compiles the hot path: the modules every live event passes, with mypyc.

Off unless asked for, since it needs a C compiler and its wheel is for one platform and one Python:

    HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip install .

The modules are compiled in a copy of the package, so a tree that is worked in never holds compiled code that
an edit has made stale. Their source is shipped beside them; Python takes the compiled ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOT_PATH = (
    "sse_gateway/core/wire.py",
    "sse_gateway/delivery/audience.py",
    "sse_gateway/delivery/feed.py",
    "sse_gateway/delivery/stream.py",
    "sse_gateway/gateway/live.py",
)
LAST_LINES = 15


class CompileHook(BuildHookInterface[Any]):
    """Put the compiled modules into the wheel, and what it can run on into its name."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the tree itself is what gets installed."""
        if version == "editable":
            self.app.display_warning("not compiled: an editable install runs the source as it is edited")
            return
        self._folder = tempfile.TemporaryDirectory()
        copy = Path(self._folder.name)
        shutil.copytree(Path(self.root, "sse_gateway"), copy / "sse_gateway")
        self.app.display_waiting(f"compiling {len(HOT_PATH)} modules, which takes half a minute")
        # Nobody's installation fails for a dependency's new annotations: no configuration (an empty name),
        # and only the modules themselves are judged.
        options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
        done = subprocess.run(
            [sys.executable, "-m", "mypyc", *options, *HOT_PATH],
            cwd=copy,
            env={**os.environ, "MYPYC_OPT_LEVEL": "3", "MYPYC_DEBUG_LEVEL": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            said = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
            self.app.abort(
                f"{said}\n\nCompiling the hot path failed. It needs a C compiler and Python's headers (on "
                "Debian and Ubuntu: apt-get install gcc libc6-dev python3-dev); without "
                "HATCH_BUILD_HOOK_ENABLE_CUSTOM nothing is compiled, and all works the same."
            )
        shutil.rmtree(copy / "build")
        # One library with all the code, and a module each that only names it.
        libraries = [path for path in copy.rglob("*") if path.suffix in {".so", ".pyd"}]
        build_data["force_include"].update({str(path): str(path.relative_to(copy)) for path in libraries})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the copy."""
        if version != "editable":
            self._folder.cleanup()
