"""What vLLM 0.32 accepts, refuses and answers, as far as a proxy in front of it can tell: no HTTP in here.

Words and shapes follow vllm/entrypoints and vllm/sampling_params.py of that version.
"""

import json
import re
import time
import uuid
from typing import Any, NamedTuple

Json = dict[str, Any]

VOCABULARY_SIZE = 49152
MOST_STOP_STRINGS = 4
MOST_LOGPROBS = 20
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
ANSWER = "The sky is blue because the air scatters blue light more than red light."
THOUGHT = "Let me think about that."
_PIECE = re.compile(r"<\|\w+\|>|</?\w+>| ?\w+| ?[^\w\s]|\s")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NUMBERS = {
    "integer": ("max_tokens", "max_completion_tokens", "seed", "top_k", "n", "min_tokens", "truncate_prompt_tokens"),
    "number": ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
}


class Server(NamedTuple):
    """What `vllm serve` was told."""

    models: tuple[str, ...]
    root: str
    max_model_len: int
    kind: str = "generate"
    loras: tuple[str, ...] = ()
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    api_key: str | None = None
    takes_images: bool = False
    knows_dimensions: bool = False
    embedding_length: int = 16


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def error_body(message: str, *, status: int, kind: str, param: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def refusal(message: str, *, parameter: str | None = None, value: object = None) -> Refusal:
    """What a check within vLLM says: VLLMValidationError."""
    told = [f"{name}={it}" for name, it in (("parameter", parameter), ("value", value)) if it is not None]
    text = f"{message} ({', '.join(told)})" if told else message
    return Refusal(400, error_body(text, status=400, kind="BadRequestError", param=parameter))


def misfit(message: str, *, loc: str = "body", param: str | None = None, kind: str = "value_error") -> Refusal:
    """What the check of a body's form says: FastAPI's error as vLLM prints it."""
    text = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{loc}', 'msg': '{message}'}}"
    return Refusal(400, error_body(text, status=400, kind="Bad Request", param=param or loc))


class Vocabulary:
    """A tokenizer: a word with the space before it, a sign or a white space is a token. It loses nothing."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.ids: dict[str, int] = {}
        for piece in _SPECIAL:
            self.id(piece)

    def id(self, piece: str) -> int:
        if piece not in self.ids:
            self.ids[piece] = len(self.pieces)
            self.pieces.append(piece)
        return self.ids[piece]

    def encode(self, text: str) -> list[int]:
        return [self.id(piece) for piece in _PIECE.findall(text)]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] if i < len(self.pieces) else "" for i in ids)


def rendered(body: Json, server: Server) -> str:
    """The prompt of a chat: ChatML, tools as a system message, `<image>` for each image."""
    tools, messages = body.get("tools"), body["messages"]
    lines = [f"<|im_start|>system\n{json.dumps(tools)}<|im_end|>\n"] if tools else []
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(part.get("text", "<image>") for part in content)
        if message.get("reasoning"):
            content = f"<think>{message['reasoning']}</think>{content}"
        if message.get("tool_calls"):
            content += json.dumps([call["function"] for call in message["tool_calls"]])
        lines.append(f"<|im_start|>{message['role']}\n{content}<|im_end|>\n")
    if body.get("continue_final_message"):
        lines[-1] = lines[-1].removesuffix("<|im_end|>\n")
    if body.get("add_generation_prompt", True):
        lines.append("<|im_start|>assistant\n")
    return "".join(lines)


def check_model(name: object, server: Server) -> str:
    """The served name that a request means."""
    if name is None or name == "":
        return server.models[0]
    if name in (*server.models, *server.loras):
        return str(name)
    text = f"The model `{name}` does not exist. Valid aliases: {', '.join(server.models)}."
    raise Refusal(404, error_body(text, status=404, kind="NotFoundError", param="model"))


def check_form(body: Json) -> None:
    """Types, as pydantic checks them: a number as a string is read, a fraction is no integer."""
    for kind, names in _NUMBERS.items():
        for name in names:
            value = body.get(name)
            if value is None:
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise misfit(f"Input should be a valid {kind}", loc=f"body.{name}", kind=f"{kind}_type") from None
            if kind == "integer" and number != int(number):
                raise misfit(
                    "Input should be a valid integer, got a number with a fractional part",
                    loc=f"body.{name}",
                    kind="int_from_float",
                )
    stop = body.get("stop") or []
    if isinstance(stop, list) and len(stop) > MOST_STOP_STRINGS:
        given = f"'input': '<list of {len(stop)} items>'"
        most = f"List should have at most {MOST_STOP_STRINGS} items after validation, not {len(stop)}"
        text = (
            f"2 validation errors:\n  {{'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a valid "
            f"string', {given}}}\n  {{'type': 'too_long', 'loc': 'body.stop', 'msg': '{most}', {given}}}"
        )
        raise Refusal(400, error_body(text, status=400, kind="Bad Request", param="body.stop"))
    if body.get("stream_options") and not body.get("stream"):
        raise misfit(
            "Value error, Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            param="stream_options",
        )
    shape = body.get("response_format") or {}
    if shape.get("type") == "json_schema":
        schema = shape.get("json_schema")
        if schema is None:
            raise misfit(
                "Value error, When response_format type is \\'json_schema\\', the \\'json_schema\\' field must be "
                "provided. (parameter=response_format)",
                param="response_format",
            )
        if not isinstance(schema.get("name"), str):
            raise misfit("Field required", loc="body.response_format.json_schema.name", kind="missing")
        if "(?<" in json.dumps(schema.get("schema")):
            raise refusal("Grammar error: Lookbehind is not supported")
    elif shape and shape.get("type") not in {"json_object", "text", "structural_tag"}:
        raise misfit("Input should be 'text', 'json_object' or 'json_schema'", loc="body.response_format.type")


def check_engine(body: Json, headers: dict[str, str], server: Server) -> None:
    """What the engine refuses before it begins: a budget for thoughts it cannot see, a replica it does not have."""
    if body.get("thinking_token_budget") is not None and not server.reasoning_parser:
        raise refusal(
            "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser and/or "
            "--reasoning-config to use thinking_token_budget."
        )
    if (rank := headers.get("x-data-parallel-rank", "0")) != "0":
        raise refusal(f"data_parallel_rank {rank} is out of range [0, 1).")


def check_sampling(body: Json) -> None:
    """SamplingParams._verify_args."""
    get = {name: value for name, value in body.items() if value is not None}.get
    for name in ("presence_penalty", "frequency_penalty"):
        if not -2 <= float(get(name, 0)) <= 2:
            raise refusal(f"{name} must be in [-2, 2], got {get(name)}.")
    if float(get("repetition_penalty", 1)) <= 0:
        raise refusal(f"repetition_penalty must be greater than zero, got {get('repetition_penalty')}.")
    temperature, top_p = float(get("temperature", 1)), float(get("top_p", 1))
    if temperature < 0:
        raise refusal(
            f"temperature must be non-negative, got {temperature}.", parameter="temperature", value=temperature
        )
    if temperature > 2:
        raise refusal(f"temperature must be in [0, 2], got {temperature}.", parameter="temperature", value=temperature)
    if not 0 < top_p <= 1:
        raise refusal(f"top_p must be in (0, 1], got {top_p}.", parameter="top_p", value=top_p)
    if int(get("top_k", 0)) < -1:
        raise refusal(f"top_k must be 0 (disable), or at least 1, got {get('top_k')}.")
    if not 0 <= float(get("min_p", 0)) <= 1:
        raise refusal(f"min_p must be in [0, 1], got {get('min_p')}.")
    if any(not text for text in _stop_strings(body)):
        raise refusal("stop cannot contain an empty string.")
    seed = get("seed", 0)
    if not -(2**63) <= int(seed) < 2**63:
        raise misfit("Input should be less than or equal to 9223372036854775807", loc="body.seed")


def check_length(prompt_tokens: int, body: Json, server: Server, *, limit_name: str, limit: int | None) -> int:
    """The most tokens that may be made; a prompt or a wish beyond the context is refused."""
    longest = server.max_model_len
    if limit is not None and limit > longest:
        raise refusal(
            f"{limit_name}={limit} cannot be greater than max_model_len={longest}. Please request fewer output tokens.",
            parameter=limit_name,
            value=limit,
        )
    if prompt_tokens > longest or (prompt_tokens == longest and server.kind == "generate"):
        raise refusal(
            f"This model's maximum context length is {longest} tokens. However, your prompt contains at least "
            f"{longest + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
            "length of the input prompt.",
            parameter="input_tokens",
            value=longest + 1,
        )
    most = longest - prompt_tokens if limit is None else min(limit, longest - prompt_tokens)
    if most < 1 and server.kind == "generate":
        raise refusal(f"max_tokens must be at least 1, got {most}.", parameter="max_tokens", value=most)
    return most


def truncated(ids: list[int], body: Json, server: Server) -> list[int]:
    """The end of a prompt, as long as truncate_prompt_tokens asks; -1: as long as fits with one token of answer."""
    wanted = body.get("truncate_prompt_tokens")
    if wanted is None:
        return ids
    longest = server.max_model_len - (server.kind == "generate")
    return ids[-(longest if wanted == -1 else wanted) :]


def check_chat(body: Json, server: Server) -> None:
    """What only /v1/chat/completions checks."""
    if not isinstance(body.get("messages"), list):
        raise misfit("Field required", loc="body.messages", kind="missing")
    if body.get("tools") == []:
        raise misfit(
            "Value error, `tools` must not be an empty array. Either provide at least one tool or omit the field "
            "entirely. (parameter=tools)",
            param="tools",
        )
    if not body["messages"]:
        raise refusal("Cannot apply chat template to an empty conversation. Provide at least one message.")
    if body.get("continue_final_message") and body.get("add_generation_prompt") is None:
        raise refusal(
            "continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you "
            "want the model to continue the final message, and add_generation_prompt when you want to add a header."
        )
    if body.get("continue_final_message") and body.get("add_generation_prompt"):
        raise misfit("Value error, Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    top = body.get("top_logprobs") or 0
    if top and not body.get("logprobs"):
        raise misfit("Value error, when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)")
    if top > MOST_LOGPROBS:
        text = f"Requested sample logprobs of {top}, which is greater than max allowed: {MOST_LOGPROBS}"
        raise refusal(text, parameter="logprobs", value=top)
    budget = body.get("thinking_token_budget")
    if budget is not None and not isinstance(budget, int):
        raise misfit(
            "Value error, `thinking_token_budget` must be a non-negative integer or -1 for unlimited. "
            "(parameter=thinking_token_budget)",
            param="thinking_token_budget",
        )
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        raise misfit(f"Input should be {', '.join(EFFORTS)}", loc="body.reasoning_effort", kind="literal_error")
    _check_tools(body, server)
    if body.get("chat_template"):
        raise refusal(
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template."
        )
    for message in body["messages"]:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise misfit("Field required", loc="body.messages.0.role", kind="missing")
        _check_message(message, server)


def _check_tools(body: Json, server: Server) -> None:
    for tool in body.get("tools") or []:
        if not isinstance(tool.get("function", {}).get("name"), str):
            raise misfit("Field required", loc="body.tools.0.function.name", kind="missing")
    choice = body.get("tool_choice", "auto" if body.get("tools") else None)
    if choice in (None, "none"):
        return
    if not body.get("tools"):
        raise misfit("Value error, When using `tool_choice`, `tools` must be set. (parameter=tool_choice)")
    if choice == "auto" and not server.tool_parser:
        raise refusal('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')


def _check_message(message: Json, server: Server) -> None:
    parts = message.get("content")
    if isinstance(parts, list) and any(part.get("type") == "image_url" for part in parts) and not server.takes_images:
        raise refusal(f"{server.root} is not a multimodal model")
    if parts is not None and not isinstance(parts, str | list):
        raise misfit("Input should be a valid string", loc="body.messages.0.content", kind="string_type")
    for call in message.get("tool_calls") or []:
        given = call.get("function", {}).get("arguments")
        if isinstance(given, str) and given:
            try:
                json.loads(given)
            except ValueError as error:
                raise refusal(str(error)) from None


def _stop_strings(body: Json) -> list[str]:
    stop = body.get("stop") or []
    return [stop] if isinstance(stop, str) else list(stop)


def cut_at_stop(text: str, body: Json) -> tuple[str, str | None]:
    """The text before the first stop string, and that string."""
    found = [(text.index(stop), stop) for stop in _stop_strings(body) if stop in text]
    if not found:
        return text, None
    at, stop = min(found)
    return text[:at], stop


def constrained(body: Json) -> str | None:
    """A text that keeps the response format; None where there is none."""
    shape = body.get("response_format") or {}
    if shape.get("type") == "json_object":
        return '{"answer": 42}'
    if shape.get("type") == "json_schema":
        return json.dumps(_example(shape["json_schema"].get("schema") or {}))
    return None


def _example(schema: Json) -> object:
    if "enum" in schema:
        return schema["enum"][0]
    made: dict[str, object] = {
        "string": "text",
        "integer": 1,
        "number": 1.5,
        "boolean": True,
        "array": [],
        "null": None,
    }
    kind = schema.get("type", "object")
    if kind != "object":
        return made.get(kind, "text")
    return {name: _example(part) for name, part in schema.get("properties", {}).items()}


def chat_logprobs(pieces: list[str], top: int) -> Json:
    """The same for every token: -0.25 for itself, one less for each that follows."""

    def one(piece: str, logprob: float) -> Json:
        return {"token": piece, "logprob": logprob, "bytes": list(piece.encode())}

    content = [
        {**one(p, -0.25), "top_logprobs": [one(p if n == 0 else f"~{n}", -0.25 - n) for n in range(top)]}
        for p in pieces
    ]
    return {"content": content}


def completion_logprobs(pieces: list[str], top: int, *, offset: int) -> Json:
    offsets = [offset + len("".join(pieces[:n])) for n in range(len(pieces))]
    tops = [{(p if n == 0 else f"~{n}"): -0.25 - n for n in range(max(top, 1))} for p in pieces]
    return {"text_offset": offsets, "token_logprobs": [-0.25] * len(pieces), "tokens": pieces, "top_logprobs": tops}


def usage(prompt: int, made: int, *, cached: int | None = None) -> Json:
    """UsageInfo with every field, as a whole answer has it."""
    details = None if cached is None else {"cached_tokens": cached}
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + made,
        "completion_tokens": made,
        "prompt_tokens_details": details,
        "completion_tokens_details": None,
    }


def model_card(name: str, server: Server) -> Json:
    """A fresh `created` and permission id each time, as vLLM gives them."""
    now, is_lora = int(time.time()), name in server.loras
    permission = {
        "id": f"modelperm-{uuid.uuid4().hex[:16]}",
        "object": "model_permission",
        "created": now,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": now,
        "owned_by": "vllm",
        "root": f"/adapters/{name}" if is_lora else server.root,
        "parent": server.models[0] if is_lora else None,
        "max_model_len": None if is_lora else server.max_model_len,
        "permission": [permission],
    }
