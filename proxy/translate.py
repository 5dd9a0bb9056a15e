"""What a client of Ollama asks → what vLLM is asked. Pure. What is sent to vLLM is named here, none passes by itself.

Sources: Ollama's request types and option table (README.md, "Options"), vLLM's chat and completion protocols.
"""

import base64
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from proxy.catalog import Model
from proxy.errors import OllamaError
from proxy.names import parsed
from proxy.schemas import ChatRequest, GenerateRequest, Message, ToolCall, checked_options, image_mime
from proxy.settings import Settings

VLLM_STOPS = 4
"""vLLM's own limit unless it was started with VLLM_MAX_STOP_STRINGS."""

OLLAMA_SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.0}
"""What Ollama samples with where neither model nor request say otherwise (0.32.10 and newer)."""

INT64 = 2**63 - 1


Think: TypeAlias = bool | str | None
"""A request's `think`; None: not said."""


class Asked(msgspec.Struct, kw_only=True):
    """One request to vLLM, ready to be sent."""

    path: Literal["/v1/chat/completions", "/v1/completions"]
    body: dict[str, Any]
    is_streamed: bool = True


# ---------------------------------------------------------------- options


def sampling(options: dict[str, Any], *, settings: Settings, max_model_len: int) -> dict[str, Any]:
    """vLLM's sampling parameters for Ollama's options, within what vLLM accepts.

    `options` are checked ones, the model's own parameters already below the request's. What vLLM has no counterpart of
    (mirostat, num_gpu, …) is left out. `max_tokens` is always there: without it completions stop after 16 tokens.
    """
    given = {**OLLAMA_SAMPLING, **options} if settings.sampling_defaults == "ollama" else dict(options)
    sent: dict[str, Any] = {}
    if "temperature" in given:
        sent["temperature"] = _between(given["temperature"], 0.0, 2.0)
    if "top_k" in given:
        sent["top_k"] = max(0, given["top_k"])
    if "top_p" in given:
        if given["top_p"] > 0:
            sent["top_p"] = min(1.0, given["top_p"])
        else:
            sent["top_k"] = 1  # nothing is left but the likeliest token
    if "min_p" in given:
        sent["min_p"] = _between(given["min_p"], 0.0, 1.0)
    has_penalties = given.get("repeat_last_n") != 0
    if "repeat_penalty" in given and has_penalties:
        sent["repetition_penalty"] = given["repeat_penalty"] if given["repeat_penalty"] > 0 else 1.0
    for name in ("presence_penalty", "frequency_penalty"):
        if name in given and has_penalties:
            sent[name] = _between(given[name], -2.0, 2.0)
    seed = given.get("seed", -1)
    if seed != -1:
        sent["seed"] = max(-INT64, min(INT64, seed))
    stops = list(dict.fromkeys(stop for stop in given.get("stop", []) if stop))
    if stops:
        sent["stop"] = stops
    # 0 does not stop Ollama (recorded), and -1 and -2 mean "as far as the context goes".
    wanted = given.get("num_predict", -1)
    sent["max_tokens"] = min(wanted, max_model_len) if wanted > 0 else max_model_len
    return sent


def _between(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


def merged_options(request_options: dict[str, Any], model: Model) -> dict[str, Any]:
    """The request's options over the model's own parameters. Raises OllamaError as Ollama does for a wrong type."""
    return {**checked_options(model.parameters), **checked_options(request_options)}


def checked_context(options: dict[str, Any], model: Model, settings: Settings) -> None:
    """Refuses a num_ctx that vLLM was not started for, where the proxy was told to be strict."""
    wanted = options.get("num_ctx", 0)
    if settings.num_ctx == "reject" and wanted > model.max_model_len:
        raise OllamaError(400, f"num_ctx {wanted} is more than this server's context of {model.max_model_len} tokens")


# ---------------------------------------------------------------- format, thinking


def response_format(raw: msgspec.Raw | None) -> dict[str, Any] | None:
    """vLLM's response_format; None where any text may come. Raises Ollama's 500 on what is neither."""
    if raw is None:
        return None
    text = bytes(raw).strip()
    if text in (b"null", b'""'):
        return None
    if text == b'"json"':
        return {"type": "json_object"}
    if text.startswith(b"{"):
        return {"type": "json_schema", "json_schema": {"name": "response", "schema": msgspec.json.decode(text)}}
    quoted = text.decode().replace("\\", "\\\\").replace('"', '\\"')
    raise OllamaError(500, f'invalid format: "{quoted}"; expected "json" or a valid JSON Schema object')


def is_thinking(think: Think, model: Model) -> bool:
    """Whether the answer's thinking is told apart: as asked, and by default where the model can think."""
    if think is None:
        return "thinking" in model.capabilities
    return think is not False


def thinking_fields(think: Think, model: Model, *, has_format: bool) -> dict[str, Any]:
    """What tells vLLM's chat template to think or not. Nothing for a model that cannot.

    Qwen spells it `enable_thinking`, DeepSeek `thinking`; a template ignores what it does not know. A format would be
    forced upon the thinking too, unless vLLM has a reasoning parser to know where it ends.
    """
    if "thinking" not in model.capabilities:
        return {}
    if has_format and not model.has_reasoning_parser:
        return {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
    if isinstance(think, str):
        return {"reasoning_effort": think, "chat_template_kwargs": {"enable_thinking": True, "thinking": True}}
    wanted = think is not False
    return {"chat_template_kwargs": {"enable_thinking": wanted, "thinking": wanted}}


def checked_thinking(think: Think, model: Model, name: str) -> None:
    """Refuses thinking of a model that cannot; `false` is never refused."""
    if think not in (None, False) and "thinking" not in model.capabilities:
        raise OllamaError(400, f'"{name}" does not support thinking')


def full_name(name: str) -> str:
    """`registry.ollama.ai/library/m:latest`, as Ollama names a model in some of its errors."""
    found = parsed(name)
    return found.full if found is not None else name


# ---------------------------------------------------------------- messages


def chat_messages(messages: Sequence[Message], model: Model, *, system: str = "") -> list[dict[str, Any]]:
    """OpenAI's messages: the model's own first, then the request's.

    The model's system prompt stands in front unless the request brings one. Results of tools that carry no id are
    matched to the calls before them, since Ollama's clients drop ids.
    """
    prompt = system or model.system
    own = list(model.messages)
    brings_system = bool(messages) and messages[0].role == "system"
    translated: list[dict[str, Any]] = []
    if prompt and not brings_system:
        translated.append({"role": "system", "content": prompt})
    calls = _Calls()
    translated += own
    translated += [_message(message, calls) for message in messages]
    if brings_system and own:
        translated.insert(0, translated.pop(len(own)))
    return translated


def _message(message: Message, calls: "_Calls") -> dict[str, Any]:
    translated: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.thinking and message.role == "assistant":
        translated["reasoning"] = message.thinking
    if message.tool_calls:
        translated["tool_calls"] = [calls.made(call) for call in message.tool_calls]
    if message.role == "tool":
        translated["tool_call_id"] = message.tool_call_id or calls.answered(message.tool_name)
        if message.tool_name:
            translated["name"] = message.tool_name
        if message.tool_call_id:
            calls.settle(message.tool_call_id)
    return translated


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    parts = [image_part(image) for image in message.images]
    return [*parts, {"type": "text", "text": message.content}] if message.content else parts


def image_part(image: bytes) -> dict[str, Any]:
    """An image as a data URI. Raises OllamaError where it is no PNG, JPEG, WebP or GIF."""
    mime = image_mime(image)
    if mime is None:
        raise OllamaError(400, "Failed to load image or audio file")
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{base64.b64encode(image).decode()}"}}


class _Calls:
    """Calls of tools that wait for their results, in order."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, str]] = []
        self._count = 0

    def made(self, call: ToolCall) -> dict[str, Any]:
        identity = call.id or f"call_{self._count}"
        self._count += 1
        self._waiting.append((identity, call.function.name))
        arguments = msgspec.json.encode(call.function.arguments).decode()
        return {"id": identity, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}

    def answered(self, name: str) -> str:
        """The id of the earliest waiting call of that name, else of the earliest, else a new one."""
        for position, (identity, its_name) in enumerate(self._waiting):
            if not name or its_name == name:
                del self._waiting[position]
                return identity
        if self._waiting:
            return self._waiting.pop(0)[0]
        self._count += 1
        return f"call_{self._count - 1}"

    def settle(self, identity: str) -> None:
        self._waiting = [waiting for waiting in self._waiting if waiting[0] != identity]


# ---------------------------------------------------------------- whole requests


def common_fields(model: Model, options: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """What chat and completions have in common: streamed, with the usage at the end."""
    return {
        "model": model.served_id,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling(options, settings=settings, max_model_len=model.max_model_len),
    }


def chat_asked(request: ChatRequest, model: Model, *, settings: Settings) -> Asked:
    """vLLM's chat completion for a request of /api/chat with messages."""
    options = merged_options(request.options, model)
    checked_context(options, model, settings)
    if request.tools and "tools" not in model.capabilities:
        raise OllamaError(400, f"{full_name(request.model)} does not support tools")
    asked_format = response_format(request.format)
    body = common_fields(model, options, settings)
    body["messages"] = chat_messages(request.messages, model)
    body |= thinking_fields(request.think, model, has_format=asked_format is not None)
    if asked_format is not None:
        body["response_format"] = asked_format
    if request.tools:
        body["tools"] = request.tools
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    last = request.messages[-1]
    if last.role == "assistant" and not last.tool_calls:
        # Ollama goes on with an answer that was begun.
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    asked = Asked(path="/v1/chat/completions", body=body)
    if request.tools and request.stream is False:
        # vLLM has two readers of tool calls; the one for whole answers sees all of the text.
        asked.is_streamed = body["stream"] = False
        del body["stream_options"]
    return asked


def generate_messages(request: GenerateRequest, model: Model) -> list[dict[str, Any]]:
    """The chat that a prompt of /api/generate stands for: one message of the user's."""
    message = Message(role="user", content=request.prompt, images=request.images)
    if request.context:
        # The context stands for the turns before; messages of the model's own are part of it already.
        model = msgspec.structs.replace(model, messages=[])
    return chat_messages([message], model, system=request.system)


def generate_asked(request: GenerateRequest, model: Model, *, settings: Settings) -> Asked:
    """vLLM's request for /api/generate with a prompt, but without `context` (see `continued`)."""
    options = merged_options(request.options, model)
    checked_context(options, model, settings)
    asked_format = response_format(request.format)
    body = common_fields(model, options, settings)
    if asked_format is not None:
        body["response_format"] = asked_format
    plain = completion_prompt(request, model)
    if plain is not None:
        body["prompt"] = plain
        if request.suffix and not request.raw and model.fim is None:
            body["suffix"] = request.suffix
        if not request.raw:
            body["return_token_ids"] = True
        if request.logprobs:
            body["logprobs"] = request.top_logprobs
        return Asked(path="/v1/completions", body=body)
    body["messages"] = generate_messages(request, model)
    body["return_token_ids"] = True
    body |= thinking_fields(request.think, model, has_format=asked_format is not None)
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return Asked(path="/v1/chat/completions", body=body)


def continued(asked: Asked, prompt_ids: list[int]) -> Asked:
    """`asked` as a completion of token ids: an earlier `context` and the new turn after it."""
    kept = {
        name: value
        for name, value in asked.body.items()
        if name not in ("messages", "chat_template_kwargs", "reasoning_effort", "logprobs", "top_logprobs")
    }
    kept["prompt"] = prompt_ids
    if asked.body.get("logprobs") is True:
        kept["logprobs"] = asked.body["top_logprobs"]
    elif "logprobs" in asked.body:
        kept["logprobs"] = asked.body["logprobs"]
    return Asked(path="/v1/completions", body=kept)


def completion_prompt(request: GenerateRequest, model: Model) -> str | None:
    """The text to complete as it stands, for raw, suffix and template; None where the prompt is a chat."""
    if request.raw:
        return request.prompt
    if request.suffix:
        if "insert" not in model.capabilities:
            raise OllamaError(400, f"{full_name(request.model)} does not support insert")
        if model.fim is None:
            return request.prompt  # vLLM knows this model's tokens, and gets the suffix as a field
        prefix, suffix, middle = model.fim
        return f"{prefix}{request.prompt}{suffix}{request.suffix}{middle}"
    if request.template:
        return rendered(request.template, system=request.system or model.system, prompt=request.prompt)
    return None


# ---------------------------------------------------------------- templates

BEYOND = (
    "template override is not supported beyond .System, .Prompt, .Response and if: vLLM uses the model's own template"
)


def rendered(template: str, *, system: str, prompt: str) -> str:
    """A Go template of the simple kind that old Modelfiles have, rendered up to `.Response`.

    Knows `{{ .System }}`, `{{ .Prompt }}`, `{{ .Response }}`, `{{ if .System }} … {{ else }} … {{ end }}` and the
    trimming dashes. Raises a 400 on anything else rather than prompt the model with something other than was meant.
    """
    values = {".System": system, ".Prompt": prompt, ".Suffix": ""}
    out: list[str] = []
    shown: list[bool] = []
    trims = False
    position = 0
    while position < len(template):
        start = template.find("{{", position)
        text = template[position:] if start < 0 else template[position:start]
        end = template.find("}}", start) if start >= 0 else -1
        if start >= 0 and end < 0:
            raise OllamaError(400, BEYOND)
        action = template[start + 2 : end] if start >= 0 else ""
        if trims:
            text = text.lstrip()
        if action.startswith("-"):
            text = text.rstrip()
        trims = action.endswith("-")
        word = action.strip("- \t\n")
        if all(shown):
            out.append(text)
        if start < 0:
            break
        position = end + 2
        if word in values:
            if all(shown):
                out.append(values[word])
        elif word == ".Response":
            if all(shown):
                break
        elif word.startswith("if ") and word[3:].strip() in values:
            shown.append(bool(values[word[3:].strip()]))
        elif word == "else" and shown:
            shown[-1] = not shown[-1]
        elif word == "end" and shown:
            shown.pop()
        else:
            raise OllamaError(400, BEYOND)
    return "".join(out)
