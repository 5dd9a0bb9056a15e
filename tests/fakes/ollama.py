"""Ollama as far as the harness can see it: `ollama serve`, with the answers that Ollama 0.33 was recorded to give.

It prints its settings and every request, so that a test can read what it was asked. Models lie in
OLLAMA_MODELS/fake.json.

FAKE_OLLAMA_HAS=TAG,…        tags that can be pulled; others fail as without a network
FAKE_OLLAMA_REFUSES=TEXT     loading a model fails with this text
FAKE_OLLAMA_DIES_LOADING=1   the server ends while it loads a model
"""

import hashlib
import http.server
import json
import os
import sys
from pathlib import Path

STORE = Path(os.environ.get("OLLAMA_MODELS", ".")) / "fake.json"
NO_NETWORK = (
    'pull model manifest: Get "https://registry.ollama.ai/v2/": dial tcp: lookup registry.ollama.ai: no such host'
)


def say(text: str) -> None:
    print(text, flush=True)


class Store:
    """Models by full name and blobs by digest, kept between launches."""

    def __init__(self) -> None:
        found = json.loads(STORE.read_text()) if STORE.exists() else {}
        self.models: list[str] = found.get("models", [])
        self.blobs: list[str] = found.get("blobs", [])

    def add(self, *, model: str | None = None, blob: str | None = None) -> None:
        self.models += [model if ":" in model else f"{model}:latest"] if model else []
        self.blobs += [blob] if blob else []
        STORE.write_text(json.dumps({"models": self.models, "blobs": self.blobs}))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def answer(self, status: int, *bodies: object) -> None:
        """One JSON object, or a line for each; a text as it is."""
        content = b"\n".join(body.encode() if isinstance(body, str) else json.dumps(body).encode() for body in bodies)
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def content(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = b""
        while size := int(self.rfile.readline(), 16):
            parts += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return parts

    def do_HEAD(self) -> None:
        self.answer(200 if self.path.rpartition("/")[2] in self.store.blobs else 404, {})

    def do_GET(self) -> None:
        ps = [
            {"name": name, "model": name, "size": 209505483, "size_vram": 0, "context_length": 4096}
            for name in self.store.models
        ]
        bodies = {
            "/": "Ollama is running",
            "/api/version": {"version": "0.33.0-rc2"},
            "/api/tags": {"models": [{"name": name, "model": name, "size": 92115712} for name in self.store.models]},
            "/api/ps": {"models": ps},
        }
        self.answer(200 if self.path in bodies else 404, bodies.get(self.path))

    def do_POST(self) -> None:
        content = self.content()
        if self.path.startswith("/api/blobs/"):
            say(f"POST /api/blobs {len(content)} bytes")
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            if digest != self.path.rpartition("/")[2]:
                return self.answer(400, {"error": "digest mismatch"})
            self.store.add(blob=digest)
            return self.answer(201)
        say(f"POST {self.path} {content.decode()}")
        body = json.loads(content)
        if self.path == "/api/pull":
            return self.pull(body["model"])
        if self.path == "/api/create":
            return self.create(body)
        return self.load(body["model"])

    def pull(self, tag: str) -> None:
        if tag not in os.environ.get("FAKE_OLLAMA_HAS", "").split(","):
            return self.answer(200, {"status": "pulling manifest"}, {"error": NO_NETWORK})
        self.store.add(model=tag)
        return self.answer(200, {"status": "pulling manifest"}, {"status": "success"})

    def create(self, body: dict[str, object]) -> None:
        files = body["files"]
        assert isinstance(files, dict)
        if not set(files.values()) <= set(self.store.blobs):
            return self.answer(400, {"error": "invalid digest"})
        self.store.add(model=str(body["model"]))
        return self.answer(200, {"status": "success"})

    def load(self, model: str) -> None:
        if os.environ.get("FAKE_OLLAMA_DIES_LOADING"):
            say("panic: runtime error: invalid memory address or nil pointer dereference")
            os._exit(2)
        if trouble := os.environ.get("FAKE_OLLAMA_REFUSES"):
            return self.answer(500, {"error": trouble})
        return self.answer(200, {"model": model, "response": "", "done": True, "done_reason": "load"})

    def log_message(self, *words: object) -> None:
        pass


def main() -> None:
    assert sys.argv[1:] == ["serve"], sys.argv
    for name in sorted(name for name in os.environ if name.startswith("OLLAMA_")):
        say(f"{name}={os.environ[name]}")
    Handler.store = Store()
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
