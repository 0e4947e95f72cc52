"""Real nginx, unprivileged: a generated or given configuration, its own folder, port and process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from tests.support import started
from tests.support.ports import free_port
from tests.support.wait import Hopeless, listening, until_sync


def binary() -> str | None:
    """Return the path of nginx, or None where the machine has none."""
    return shutil.which("nginx") or next(
        (path for path in ("/usr/sbin/nginx", "/usr/local/sbin/nginx") if Path(path).exists()), None
    )


class Nginx:
    """One nginx with a server block of the test's making.

    `Nginx.proxying([gateway.port, …])` makes a usual one; `Nginx(http)` takes the inside of the `http` block,
    in which `$PORT` stands for the port.
    """

    def __init__(self, http: str, *, modules: Sequence[str] = ()) -> None:
        """Prepare it; `modules` are names of dynamic modules such as `ngx_nchan_module`."""
        self.port = free_port()
        self.folder = started.folder("nginx")
        self._http = http
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def proxying(
        cls,
        upstreams: Sequence[int],
        *,
        http: Literal["1.0", "1.1"] = "1.1",
        location: str = "",
        server: str = "",
    ) -> Self:
        """Make a proxy before gateways on these ports, with further directives for its location and server.

        HTTP/1.0 to the upstream is nginx's default before 1.29. Nothing else is set: this shows what a proxy
        that nobody configured for event streams does to them.
        """
        servers = "\n".join(f"server 127.0.0.1:{port};" for port in upstreams)
        version = 'proxy_http_version 1.1; proxy_set_header Connection "";' if http == "1.1" else ""
        return cls(
            f"upstream gateways {{ {servers} }}\n"
            f"server {{ listen 127.0.0.1:$PORT; {server}\n"
            f"location / {{ proxy_pass http://gateways; {version} {location} }} }}\n"
        )

    def holding(self, http: str) -> Self:
        """Set the inside of the `http` block: some texts need to know the folder or the port."""
        self._http = http
        return self

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Write the configuration, start, and return once it listens."""
        path = binary()
        assert path is not None, "nginx is not installed"
        configuration = self.folder / "nginx.conf"
        configuration.write_text(self._configuration())
        with (self.folder / "output.log").open("ab") as output:
            self._process = started.start(
                f"nginx on port {self.port}",
                [
                    path,
                    "-p",
                    str(self.folder),
                    "-c",
                    str(configuration),
                    "-e",
                    str(self.folder / "error.log"),
                ],
                output=output,
                cwd=self.folder,
            )
        until_sync(self._listens, f"nginx to listen on port {self.port}")
        return self

    def reload(self) -> None:
        """Read the configuration again: new workers, and the old ones end with their last connection."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """Stop, and remove the folder."""
        if self._process is not None:
            started.end(self._process)
            self._process = None
        started.remove(self.folder)

    def log(self) -> str:
        """Return its error log."""
        texts = [self.folder / name for name in ("output.log", "error.log")]
        return "".join(path.read_text(errors="replace") for path in texts if path.exists())

    def access_log(self) -> str:
        """Return its access log."""
        path = self.folder / "access.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            started.forget(self._process)
            raise Hopeless(f"nginx ended at its start: {self.log()[-3000:]}")
        return listening(self.port)

    def _configuration(self) -> str:
        load = "".join(f"load_module /usr/lib/nginx/modules/{name}.so;\n" for name in self._modules)
        temporary = "\n".join(
            f"{name}_temp_path {self.folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # Started by root it would give its workers to a user who may not enter the folder.
        user = "user root;\n" if os.geteuid() == 0 else ""
        return (
            f"{load}{user}daemon off;\nworker_processes 1;\npid {self.folder}/nginx.pid;\n"
            "events { worker_connections 4096; }\n"
            # Without the query, as config/nginx.conf has it: a token may stand there.
            "http {\nlog_format main '$remote_addr \"$request_method $uri $server_protocol\" $status';\n"
            f"{temporary}\naccess_log {self.folder}/access.log main;\n"
            f"{self._http.replace('$PORT', str(self.port))}\n}}\n"
        )
