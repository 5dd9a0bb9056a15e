"""A process that speaks vLLM's HTTP dialect, refuses what vLLM refuses, and misbehaves as a script says.

    python tests/fakes/vllm_server.py [--model ID …] [--root PATH] [--max-model-len N] [--kind generate|embed]
        [--lora NAME …] [--tool-parser P] [--reasoning-parser P] [--api-key K] [--takes-images] [--knows-dimensions]
        [--embedding-length N] [--port 0] [--token-s S]

It prints `listening on http://127.0.0.1:PORT`. Tokens are words (`vllm_dialect.Vocabulary`). Without a script the
answer is `vllm_dialect.ANSWER`, cut at max_tokens and stop strings, one token a chunk; as in vLLM an end token counts.

POST   /_script     one description, or a list: each serves one request that fits it, in order
DELETE /_script     forgets them
GET    /_requests   [{"method","path","headers","body","is_question"}…] of everything but these five
DELETE /_requests   forgets them
GET    /_running    {"running","aborted","done"}: POSTs to /v1 being answered; left by their client; ended

A description, all of it optional:
path                a route such as /v1/models; without it any POST to a /v1 route fits
match               text that the request's body holds
times               how many requests it serves (1); null: all
status, body, content_type, headers   this answer instead (body: JSON or text)
never_headers, delay_headers_s        before the head of the answer
hangup              closes the connection without an answer
garbage             bytes that are no HTTP
text, tokens_per_chunk                the answer's text, tokenised
pieces              the chunks of the answer instead: texts, or {"text","reasoning","tool_calls","tokens","delay_s"}
reasoning, reasoning_key              thoughts before the text; `reasoning` or `reasoning_content`
tool_calls          [{"name","arguments","id"}…]: sent as fragments of `fragment` characters, the calls interleaved
delay_first_s, delay_s                before the first chunk, before each further one
finish_reason       instead of the true one; null: none is sent
usage               as asked for (default); never; finish: on the finish chunk; every: on each chunk as well
prompt_tokens, completion_tokens, cached_tokens, metrics    instead of the true ones
error_after, error  an error event after n chunks, then [DONE]
cut_after, cut_how  the connection ends after n chunks: `close` (default), `reset`, or `half`, within the next chunk
stall_after         nothing more comes after n chunks
done                false: no [DONE]
comment_every       an SSE comment after every n chunks
newline             of the events, "\r\n" for example
split_bytes         the answer goes out in pieces of that many bytes
raw                 the whole event stream, as text
embeddings, is_reversed               vectors instead of the true ones; `data` in reverse order
"""

import argparse
import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable

from vllm_answers import Answer, ChatShape, CompletionShape, Delta, Shape, encoded, fragments, vector
from vllm_dialect import (
    ANSWER,
    THOUGHT,
    VOCABULARY_SIZE,
    Json,
    Refusal,
    Server,
    Vocabulary,
    check_chat,
    check_engine,
    check_form,
    check_length,
    check_model,
    check_sampling,
    constrained,
    cut_at_stop,
    error_body,
    misfit,
    model_card,
    refusal,
    rendered,
    truncated,
    usage,
)
from vllm_http import Asked, Left, Out, read_request

KEEP_ALIVE_S = 5.0
VERSION = "0.32.0"
EOS = 0


class Fake:
    """One server: its models, the scripts that wait, and what it was asked."""

    def __init__(self, server: Server, *, token_s: float) -> None:
        self.server, self.token_s, self.words = server, token_s, Vocabulary()
        self.scripts: list[Json] = []
        self.requests: list[Json] = []
        self.running = self.aborted = self.done = 0
        post: dict[str, Callable[[Asked, Json, Out], Awaitable[None]]] = {
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
        }
        if server.kind == "embed":
            post |= {"/v1/embeddings": self.embeddings}
        else:
            post |= {
                "/v1/chat/completions": self.chat,
                "/v1/completions": self.complete,
                "/v1/chat/completions/render": self.render,
                "/v1/completions/render": self.render,
                "/v1/responses": self.responses,
                "/v1/messages": self.messages,
            }
        get = {
            "/health": self.health,
            "/v1/models": self.models,
            "/version": self.version,
            "/metrics": self.metrics,
            "/openapi.json": self.openapi,
        }
        self.routes = {("POST", path): does for path, does in post.items()}
        self.routes |= {("GET", path): does for path, does in get.items()}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it is closed or idle for too long."""
        ahead = b""
        try:
            while (asked := await asyncio.wait_for(read_request(reader, ahead), KEEP_ALIVE_S)) is not None:
                ahead = await self.watched(asked, reader, Out(writer))
        except (Left, TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def watched(self, asked: Asked, reader: asyncio.StreamReader, out: Out) -> bytes:
        """Answers unless the client leaves first, then stops as vLLM does; gives back what was read too far."""
        answering = asyncio.create_task(self.answered(asked, out))
        listening = asyncio.create_task(reader.read(1))
        await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
        is_gone = listening.done() and (listening.exception() is not None or not listening.result())
        if is_gone and not answering.done():
            answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
        if is_gone:
            raise Left
        if listening.done():
            return listening.result()
        listening.cancel()
        return b""

    async def answered(self, asked: Asked, out: Out) -> None:
        if asked.path.startswith("/_"):
            await self.control(asked, out)
            return
        kept = {"method": asked.method, "path": asked.path, "headers": asked.headers, "body": asked.body}
        self.requests.append({**kept, "is_question": is_question(asked)})
        counts = asked.method == "POST" and asked.path.startswith("/v1/")
        self.running += counts
        try:
            await self.routed(asked, out)
            self.done += counts
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += counts
            raise
        finally:
            self.running -= counts

    async def routed(self, asked: Asked, out: Out) -> None:
        script = self.script(asked)
        out.split_bytes = script.get("split_bytes", 0)
        try:
            await asyncio.sleep(script.get("delay_headers_s", 0))
            if script.get("never_headers"):
                await asyncio.Event().wait()
            if script.get("hangup"):
                out.end("close")
            if script.get("garbage"):
                await out.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
                out.end("close")
            if "status" in script:
                kind = script.get("content_type", "application/json")
                raise Refusal(script["status"], (script.get("body", {}), kind, script.get("headers", {})))
            self.check_request(asked)
            await self.routes[asked.method, asked.path](asked, script, out)
        except Refusal as error:
            body, kind, headers = error.body if isinstance(error.body, tuple) else (error.body, "application/json", {})
            await out.whole(error.status, body, content_type=kind, headers=headers)

    def script(self, asked: Asked) -> Json:
        """The first description that fits; it is used up. Not by a question, which is there to be refused."""
        if is_question(asked):
            return {}
        is_v1 = asked.method == "POST" and asked.path.startswith("/v1/")
        for script in self.scripts:
            fits = script["path"] == asked.path if "path" in script else is_v1
            if fits and script.get("match", "") in asked.content.decode(errors="replace"):
                if script.get("times", 1) is not None:
                    script["times"] = script.get("times", 1) - 1
                    if not script["times"]:
                        self.scripts.remove(script)
                return script
        return {}

    def check_request(self, asked: Asked) -> None:
        key = self.server.api_key
        if key and asked.path.startswith("/v1") and asked.headers.get("authorization") != f"Bearer {key}":
            raise Refusal(401, {"error": "Unauthorized"})
        if (asked.method, asked.path) not in self.routes:
            is_known = any(path == asked.path for _, path in self.routes)
            raise Refusal(405 if is_known else 404, {"detail": "Method Not Allowed" if is_known else "Not Found"})
        if asked.method == "POST":
            if asked.headers.get("content-type", "").partition(";")[0].lower() != "application/json":
                raise misfit("Unsupported Media Type: Only \\'application/json\\' is allowed")
            if not isinstance(asked.body, dict):
                raise misfit("JSON decode error", kind="json_invalid")

    async def control(self, asked: Asked, out: Out) -> None:
        match asked.method, asked.path:
            case "POST", "/_script":
                self.scripts += asked.body if isinstance(asked.body, list) else [asked.body]
            case "DELETE", "/_script":
                self.scripts.clear()
            case "DELETE", "/_requests":
                self.requests.clear()
        told = {"running": self.running, "aborted": self.aborted, "done": self.done}
        await out.whole(200, self.requests if asked.path == "/_requests" else told)

    async def health(self, _: Asked, script: Json, out: Out) -> None:
        await out.whole(200, "", content_type="text/plain")

    async def version(self, _: Asked, script: Json, out: Out) -> None:
        await out.whole(200, {"version": VERSION})

    async def models(self, _: Asked, script: Json, out: Out) -> None:
        names = (*self.server.models, *self.server.loras)
        await out.whole(200, {"object": "list", "data": [model_card(name, self.server) for name in names]})

    async def openapi(self, _: Asked, script: Json, out: Out) -> None:
        paths: dict[str, Json] = {}
        for method, path in self.routes:
            paths.setdefault(path, {})[method.lower()] = {"responses": {}}
        await out.whole(200, {"openapi": "3.1.0", "info": {"title": "FastAPI", "version": VERSION}, "paths": paths})

    async def metrics(self, _: Asked, script: Json, out: Out) -> None:
        labels = f'{{engine="0",model_name="{self.server.models[0]}"}}'
        gauges = {"num_requests_running": self.running, "num_requests_waiting": 0, "kv_cache_usage_perc": 0}
        lines = [f"# TYPE vllm:{name} gauge\nvllm:{name}{labels} {float(value)}" for name, value in gauges.items()]
        await out.whole(200, "\n".join([*lines, ""]), content_type="text/plain; version=1.0.0; charset=utf-8")

    async def tokenize(self, asked: Asked, script: Json, out: Out) -> None:
        body = asked.body
        check_model(body.get("model"), self.server)
        if "messages" not in body and "prompt" not in body:
            raise misfit("Field required", loc="body.prompt", kind="missing")
        ids = self.words.encode(rendered(body, self.server) if "messages" in body else body["prompt"])
        told = {"count": len(ids), "max_model_len": self.server.max_model_len, "tokens": ids, "token_strs": None}
        await out.whole(200, told)

    async def detokenize(self, asked: Asked, script: Json, out: Out) -> None:
        check_model(asked.body.get("model"), self.server)
        ids = asked.body.get("tokens", [])
        if not all(isinstance(i, int) and i >= 0 for i in ids):
            raise misfit("Input should be greater than or equal to 0", loc="body.tokens.0", kind="greater_than_equal")
        await out.whole(200, {"prompt": self.words.decode(ids)})

    async def render(self, asked: Asked, script: Json, out: Out) -> None:
        body, is_chat = asked.body, "messages" in asked.body
        model = check_model(body.get("model"), self.server)
        check_form(body)
        if is_chat:
            check_chat(body, self.server)
        ids = self.prompt_ids(body)
        told = {
            "request_id": f"chatcmpl-{uuid.uuid4().hex[:16]}",
            "token_ids": ids,
            "token_offsets": None,
            "features": None,
            "sampling_params": {"max_tokens": body.get("max_tokens")},
            "model": model,
            "stream": bool(body.get("stream")),
        }
        await out.whole(200, told if is_chat else [told])

    def prompt_ids(self, body: Json) -> list[int]:
        if "messages" in body:
            return self.words.encode(rendered(body, self.server))
        prompt = body.get("prompt")
        prompt = prompt[0] if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else prompt
        if prompt is None or prompt == []:
            raise refusal("Either prompt or prompt_embeds must be provided and non-empty.", parameter="prompt")
        if isinstance(prompt, str):
            if not prompt:
                raise refusal("Either prompt or prompt_embeds must be provided and non-empty.", parameter="prompt")
            return self.words.encode(prompt)
        if min(prompt) < 0:
            raise misfit("Input should be greater than or equal to 0", loc="body.prompt.0", kind="greater_than_equal")
        worst = max(prompt)
        if worst >= VOCABULARY_SIZE:
            raise refusal(f"Token id {worst} is out of vocabulary")
        return list(prompt)

    async def chat(self, asked: Asked, script: Json, out: Out) -> None:
        body = asked.body
        check_form(body)
        check_chat(body, self.server)
        check_engine(body, asked.headers, self.server)
        name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        await self.generate(body, script, out, limit_name=name, limit=body.get(name))

    async def complete(self, asked: Asked, script: Json, out: Out) -> None:
        body = asked.body
        check_form(body)
        if body.get("suffix"):
            raise refusal("suffix is only supported for models with FIM completion rendering")
        limit = 16 if body.get("max_tokens") is None else body["max_tokens"]
        await self.generate(body, script, out, limit_name="max_tokens", limit=limit)

    async def generate(self, body: Json, script: Json, out: Out, *, limit_name: str, limit: int | None) -> None:
        model = check_model(body.get("model"), self.server)
        prompt_ids = truncated(self.prompt_ids(body), body, self.server)
        most = check_length(len(prompt_ids), body, self.server, limit_name=limit_name, limit=limit)
        check_sampling(body)
        answer = self.answer(body, script, model=model, prompt_ids=prompt_ids, most=most)
        kind = ChatShape if "messages" in body else CompletionShape
        shape = kind(body, script, answer, self.words)
        if body.get("stream"):
            await stream(shape, script, out)
        else:
            await asyncio.sleep(sum(delta.delay_s for delta in answer.deltas))
            if "error" in script:
                raise Refusal(script["error"]["error"].get("code", 500), script["error"])
            if "stall_after" in script:
                await asyncio.Event().wait()
            if "cut_after" in script:
                out.end(script.get("cut_how", "close"))
            await out.whole(200, shape.whole())

    def answer(self, body: Json, script: Json, *, model: str, prompt_ids: list[int], most: int) -> Answer:
        thoughts = script.get("reasoning", THOUGHT if self.thinks(body) and "text" not in script else "")
        text = script.get("text", constrained(body) or ANSWER)
        if body.get("continue_final_message") and "text" not in script:
            text = " " + text
        text, stop = cut_at_stop(text, body)
        made: list[Delta] = []
        left = most
        for part, is_thought in ((thoughts, True), (text, False)):
            ids = self.words.encode(part)[:left]
            left -= len(ids)
            step = script.get("tokens_per_chunk", 1)
            for at in range(0, len(ids), step):
                said = self.words.decode(ids[at : at + step])
                made.append(Delta(*(("", said) if is_thought else (said, "")), ids=tuple(ids[at : at + step])))
        whole = len(self.words.encode(thoughts)) + len(self.words.encode(text))
        finish = "length" if whole > most or (whole == most and stop is None) else "stop"
        if "pieces" in script:
            made, finish, stop = [self.piece(piece) for piece in script["pieces"]], "stop", None
        if "tool_calls" in script:
            made = (made if {"text", "pieces"} & script.keys() else []) + list(fragments(script, self.words))
            finish = "tool_calls"
        if finish != "length" and stop is None:
            made.append(Delta(ids=(EOS,)))
        delays = [script.get("delay_first_s", 0)] + [script.get("delay_s", self.token_s)] * len(made)
        made = [delta._replace(delay_s=delta.delay_s + pause) for delta, pause in zip(made, delays, strict=False)]
        finish = script.get("finish_reason", finish)
        tokens = script.get("completion_tokens", sum(len(delta.ids) for delta in made))
        prefix = "chatcmpl" if "messages" in body else "cmpl"
        return Answer(f"{prefix}-{uuid.uuid4().hex[:16]}", model, prompt_ids, made, finish, stop, tokens)

    def thinks(self, body: Json) -> bool:
        wish = (body.get("chat_template_kwargs") or {}).get("enable_thinking", body.get("reasoning_effort") != "none")
        return bool(
            self.server.reasoning_parser and "messages" in body and wish and body.get("include_reasoning", True)
        )

    def piece(self, given: str | Json) -> Delta:
        piece: Json = {"text": given} if isinstance(given, str) else given
        text, reasoning = piece.get("text", ""), piece.get("reasoning", "")
        ids = tuple(self.words.encode(reasoning + text))
        if "tokens" in piece:
            ids = (ids * piece["tokens"] or (EOS,) * piece["tokens"])[: piece["tokens"]]
        return Delta(text, reasoning, piece.get("tool_calls"), ids, piece.get("delay_s", 0.0))

    async def embeddings(self, asked: Asked, script: Json, out: Out) -> None:
        body = asked.body
        model = check_model(body.get("model"), self.server)
        check_form(body)
        given = body.get("input")
        if given is None:
            raise misfit("Field required", loc="body.input", kind="missing")
        if given == []:
            raise refusal("You must pass at least one prompt")
        inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        wanted = body.get("dimensions")
        if wanted is not None and not self.server.knows_dimensions:
            raise refusal(
                f"Model '{model}' does not support Matryoshka embeddings; dimensions must be unset "
                f"(received dimensions={wanted})."
            )
        vectors, tokens = [], 0
        for one in inputs:
            ids = self.words.encode(one) if isinstance(one, str) else one
            ids = truncated(ids, body, self.server)
            check_length(len(ids), body, self.server, limit_name="max_tokens", limit=None)
            tokens += len(ids)
            vectors.append(vector(self.words.decode(ids), wanted or self.server.embedding_length))
        await asyncio.sleep(script.get("delay_first_s", 0))
        data = [
            {"index": n, "object": "embedding", "embedding": encoded(it, body.get("encoding_format", "float"))}
            for n, it in enumerate(script.get("embeddings", vectors))
        ]
        told = {
            "id": f"embd-{uuid.uuid4().hex[:16]}",
            "object": "list",
            "created": int(time.time()),
            "model": model,
            "data": data[::-1] if script.get("is_reversed") else data,
            "usage": usage(script.get("prompt_tokens", tokens), 0),
        }
        await out.whole(200, told)

    async def responses(self, asked: Asked, script: Json, out: Out) -> None:
        model = check_model(asked.body.get("model"), self.server)
        part = {"type": "output_text", "text": ANSWER, "annotations": []}
        told = {
            "id": f"resp_{uuid.uuid4().hex[:16]}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "status": "completed",
            "output": [{"type": "message", "role": "assistant", "status": "completed", "content": [part]}],
        }
        events = [
            {"type": "response.created", "sequence_number": 0, "response": {**told, "status": "in_progress"}},
            {"type": "response.output_text.delta", "sequence_number": 1, "delta": ANSWER},
            {"type": "response.completed", "sequence_number": 2, "response": told},
        ]
        await named_events(asked, told, events, out)

    async def messages(self, asked: Asked, script: Json, out: Out) -> None:
        try:
            model = check_model(asked.body.get("model"), self.server)
        except Refusal as error:
            inner = error.body["error"]  # type: ignore[index]
            told = {"type": "error", "error": {"type": inner["type"], "message": inner["message"]}}
            raise Refusal(error.status, told) from None
        head = {"id": f"chatcmpl-{uuid.uuid4().hex[:16]}", "type": "message", "role": "assistant", "model": model}
        said = {"type": "text", "text": ANSWER}
        whole = {**head, "content": [said], "stop_reason": "end_turn", "usage": {"input_tokens": 6, "output_tokens": 9}}
        events: list[Json] = [
            {"type": "message_start", "message": {**head, "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ANSWER}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
        ]
        await named_events(asked, whole, events, out)


async def stream(shape: Shape, script: Json, out: Out) -> None:
    """Server-sent events, with what the script does to them."""
    newline = script.get("newline", "\n")
    await out.head(200, "text/event-stream; charset=utf-8", {"transfer-encoding": "chunked"})

    async def say(text: str) -> None:
        await out.chunk(f"{text}{newline}{newline}".encode())

    async def misbehave(sent: int) -> None:
        if sent == script.get("stall_after"):
            await asyncio.Event().wait()
        if sent == script.get("cut_after"):
            if script.get("cut_how") == "half":
                await out.chunk(b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"cont')
            out.end(script.get("cut_how", "close"))
        if sent == script.get("error_after"):
            message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
            told = script.get("error", error_body(message, status=500, kind="InternalServerError"))
            await say(f"data: {json.dumps(told)}")

    if "raw" in script:
        await out.chunk(script["raw"].encode())
        await out.send(b"0\r\n\r\n")
        return
    chunks = list(shape.chunks())
    for sent, (pause_s, chunk) in enumerate(chunks):
        await misbehave(sent)
        if sent == script.get("error_after"):
            break
        if pause_s:
            await asyncio.sleep(pause_s)
        await say(f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}")
        if script.get("comment_every") and (sent + 1) % script["comment_every"] == 0:
            await say(": keep-alive")
    else:
        await misbehave(len(chunks))
    if script.get("done", True):
        await say("data: [DONE]")
    await out.send(b"0\r\n\r\n")


async def named_events(asked: Asked, whole: Json, events: list[Json], out: Out) -> None:
    """An answer of /v1/responses or /v1/messages."""
    if not asked.body.get("stream"):
        await out.whole(200, whole)
        return
    await out.head(200, "text/event-stream; charset=utf-8", {"transfer-encoding": "chunked"})
    for event in events:
        await out.chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    await out.send(b"0\r\n\r\n")


def is_question(asked: Asked) -> bool:
    """Whether a request only asks what vLLM was started with: no client can make one of these."""
    return b'"chat_template":' in asked.content or "x-data-parallel-rank" in asked.headers


async def main() -> None:
    parser = argparse.ArgumentParser(prog="vllm_server.py")
    parser.add_argument("--model", action="append", help="a served name; the first is the base model's")
    parser.add_argument("--root", help="what /v1/models tells as root; the first model's name")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--kind", choices=("generate", "embed"), default="generate")
    parser.add_argument("--lora", action="append", default=[])
    parser.add_argument("--tool-parser")
    parser.add_argument("--reasoning-parser")
    parser.add_argument("--api-key")
    parser.add_argument("--takes-images", action="store_true")
    parser.add_argument("--knows-dimensions", action="store_true")
    parser.add_argument("--embedding-length", type=int, default=16)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token-s", type=float, default=0.0, help="pause before each chunk but the first")
    args = parser.parse_args()
    models = tuple(args.model or ["smollm2"])
    server = Server(
        models=models,
        root=args.root or models[0],
        max_model_len=args.max_model_len,
        kind=args.kind,
        loras=tuple(args.lora),
        tool_parser=args.tool_parser,
        reasoning_parser=args.reasoning_parser,
        api_key=args.api_key,
        takes_images=args.takes_images,
        knows_dimensions=args.knows_dimensions,
        embedding_length=args.embedding_length,
    )
    fake = Fake(server, token_s=args.token_s)
    listening = await asyncio.start_server(fake.serve, "127.0.0.1", args.port, limit=2**20, backlog=2048)
    print(f"listening on http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
