"""The service: over HTTP, or once on the command line.

    python3 -m src.server --query "where do we retry?"
    python3 -m src.server --serve           GET /health, GET /search?q=...
    python3 -m src.server --check           asks a running server whether it is well
    python3 -m src.server --selftest        builds the index, asks it what it must know
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from . import __version__
from .ranking import NumpyRanker
from .search import Index, answer

# A question and the file that answers it: what --selftest asks.
KNOWN = [
    ("how are failed requests retried?", "retry.py"),
    ("where do we limit the rate of calls?", "ratelimit.go"),
    ("least recently used cache", "lru.py"),
    ("parse an arithmetic expression", "calc.ts"),
    ('"heapq.heappush"', "routes.py"),
]


def serve(index: Index, port: int) -> None:
    """Answers until SIGTERM or SIGINT."""

    class Handler(BaseHTTPRequestHandler):
        server_version = f"ragex/{__version__}"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/health":
                self.reply(200, index.health())
            elif url.path == "/search" and (query := parse_qs(url.query).get("q", [""])[0]):
                self.reply(200, answer(index, query))
            elif url.path == "/search":
                self.reply(400, {"error": "the parameter q is missing"})
            else:
                self.reply(404, {"error": f"nothing at {url.path}: ask /health or /search?q=..."})

        def reply(self, status: int, body: dict[str, object]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("", port), Handler) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"ragex {__version__}: {len(index.chunks)} chunks, {index.ranker.name}, port {server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


def check(port: int) -> int:
    """Asks the server on this machine; 0 when it is well."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=4) as reply:
        return 0 if json.load(reply)["status"] == "ok" else 1


def selftest(index: Index) -> int:
    """Asks what the index must know; 0 when every answer came first, and both rankers agree on all of them."""
    wrong = 0
    plain = NumpyRanker(index.texts)
    for query, path in KNOWN:
        hits = index.search(query)
        first = hits[0] if hits else None
        same = plain.rank(query, 3) == index.ranker.rank(query, 3)
        good = same and first is not None and first.path == path
        wrong += not good
        found = f"{first.path}:{first.line} ({first.by} {first.score:.2f})" if first else "nothing"
        print(f"{'ok  ' if good else 'FAIL'} {query} -> {found}{'' if same else ': the rankers differ'}")
    print(f"selftest: {len(KNOWN) - wrong} of {len(KNOWN)} right, {len(index.chunks)} chunks, {index.ranker.name}")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="ragex", description="Searches code by meaning and by text.")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--query", metavar="TEXT", help='answer one question; "..." in quotes is taken literally')
    mode.add_argument("--serve", action="store_true", help="answer over HTTP")
    mode.add_argument("--check", action="store_true", help="ask the running server whether it is well")
    mode.add_argument("--selftest", action="store_true", help="ask the index what it must know")
    parser.add_argument("--config", type=Path, default=Path(os.environ.get("RAGEX_CONFIG", "ragex.yaml")))
    parser.add_argument("--port", type=int, default=int(os.environ.get("RAGEX_PORT", "8080")))
    asked = parser.parse_args()

    if asked.check:
        return check(asked.port)
    index = Index(asked.config)
    if asked.serve:
        serve(index, asked.port)
        return 0
    if asked.selftest:
        return selftest(index)
    reply = answer(index, asked.query)
    for hit in reply["hits"]:
        print(f"{hit['score']:.2f}  {hit['path']}:{hit['line']}  {hit['title']}")
    return 0 if reply["hits"] else 1


if __name__ == "__main__":
    sys.exit(main())
