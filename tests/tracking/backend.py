"""A small W&B server on the loopback interface: what wandb-core asks for, kept in dictionaries one can look into.

It keeps what it is sent as the real one does: a run is its name, a history row is its ``_step``, and a stream that
begins anew is told how many rows there are. Unlike the real one it remembers every row that it was ever sent.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tracking.operations import ENTITY, Operations, TrackedRun, operation_of

__all__ = ["ENTITY", "Backend", "TrackedRun"]


class Backend(Operations):
    """The server; use it as a context manager. All that it was sent is in `runs`, `artifacts`, `views`, `calls`.

    ``fault`` is called before each request is answered: what it returns, if anything, is the HTTP status of the answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fault: Callable[[str], int | None] = lambda call: None
        self.lock = threading.RLock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.http.block_on_close = False
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> Backend:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def hang_up(self) -> None:
        """For a `fault`: close the connection without an answer."""
        raise ConnectionAbortedError

    def only(self) -> TrackedRun:
        """The one run that there is."""
        (run,) = self.runs.values()
        return run

    def stream(self, name: str, body: dict[str, Any]) -> None:
        run = self.runs[name]
        files = body.get("files") or {}
        run.rows += map(json.loads, files.get("wandb-history.jsonl", {"content": []})["content"])
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if body.get("complete"):
            run.exit_code = body.get("exitcode", 0)


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer("HEAD /", b"")

        def do_GET(self) -> None:
            self._answer(f"GET {self.path}", b"{}")

        def do_PUT(self) -> None:
            body = self._body()
            if self._answer_fault(f"PUT {self.path}"):
                return
            _, kind, owner, name = self.path.split("/", 3)
            with backend.lock:
                held = backend.runs if kind == "files" else backend.artifacts
                held[owner].files[name] = body
            self._send(200, b"{}")

        def do_POST(self) -> None:
            body = self._body()
            call = f"POST {self.path}"
            if self.path == "/graphql":
                call = operation_of(json.loads(body)["query"])
            if self._answer_fault(call):
                return
            with backend.lock:
                answer: dict[str, Any] = {}
                if self.path == "/graphql":
                    asked = json.loads(body)
                    answer = backend.graphql(asked["query"], asked.get("variables") or {})
                elif self.path.endswith("/file_stream"):
                    backend.stream(self.path.split("/")[-2], json.loads(body))
            self._send(200, json.dumps(answer).encode())

        def _answer(self, call: str, content: bytes) -> None:
            if not self._answer_fault(call):
                self._send(200, content)

        def _answer_fault(self, call: str) -> bool:
            backend.calls.append(call)
            if (status := backend.fault(call)) is not None:
                self._send(status, b"{}")
            return status is not None

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle(self) -> None:
            with suppress(OSError):  # wandb-core is killed with its process, and with it its connections
                super().handle()

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
