"""A small program that stands for an engine and misbehaves on demand; every line it prints is flushed.

    python server.py [--port P] [--model M] [--ready-after-s T] [--dies-after-s T --code N] [--says FILE]
                     [--ignores-sigterm] [--grandchild {same,own}]

It answers GET /v1/models with 503 until it is ready. Without --port it does not listen.
"""

import argparse
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def say(text: str) -> None:
    print(text, flush=True)


def handler(model: str, *, ready_at: float) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_ready = time.monotonic() >= ready_at
            known = {"/health": {}, "/v1/models": {"object": "list", "data": [{"id": model, "owned_by": "fake"}]}}
            body = json.dumps(known.get(self.path, {"error": "not found"})).encode()
            self.send_response((200 if self.path in known else 404) if is_ready else 503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(prog="server.py")
    parser.add_argument("--port", type=int)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--ready-after-s", type=float, default=0.0)
    parser.add_argument("--dies-after-s", type=float)
    parser.add_argument("--code", type=int, default=1)
    parser.add_argument("--says", type=Path)
    parser.add_argument("--ignores-sigterm", action="store_true")
    parser.add_argument("--grandchild", choices=("same", "own"), help="one in our group, or in a session of its own")
    args = parser.parse_args()

    def on_sigterm(*_: object) -> None:
        say("got SIGTERM")
        if not args.ignores_sigterm:
            raise SystemExit(0)

    signal.signal(signal.SIGTERM, on_sigterm)
    say(f"pid {os.getpid()}")
    if args.grandchild:
        stubborn = ["--ignores-sigterm"] if args.ignores_sigterm else []
        subprocess.Popen([sys.executable, __file__, *stubborn], start_new_session=args.grandchild == "own")
    if args.says:
        say(args.says.read_text())
    if args.dies_after_s is not None:
        threading.Timer(args.dies_after_s, lambda: os._exit(args.code)).start()
    if args.port is not None:
        now = time.monotonic()
        made = handler(args.model, ready_at=now + args.ready_after_s)
        http.server.ThreadingHTTPServer(("127.0.0.1", args.port), made).serve_forever()
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
