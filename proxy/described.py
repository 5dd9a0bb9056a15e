"""What is known of a model that vLLM serves: found out by asking, read from its files, or guessed."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy import weights
from proxy.errors import OllamaError
from proxy.upstream import Upstream, message
from proxy.weights import Facts

PROBE_TIMEOUT_S: Final = 5.0


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One name that clients may ask for, and all that is known of the model behind it."""

    name: str
    """As lists show it, with its tag."""

    served_id: str
    """What vLLM calls it; this and nothing else is sent there."""

    upstream: Upstream
    max_model_len: int
    digest: str
    size_bytes: int
    modified_ns: int
    details: dict[str, Any]
    """As /api/show has them; /api/tags adds context_length and embedding_length."""

    model_info: dict[str, Any]
    capabilities: tuple[str, ...]
    system: str = ""
    parameters: dict[str, Any] = {}
    """The alias' own; {} for a served model."""

    messages: list[dict[str, Any]] = []
    """The alias' own, as vLLM takes them; they stand in front of a request's."""

    license: tuple[str, ...] = ()
    template: str
    """A text in the form of Ollama's templates that shows what the model can do; it is never run."""

    is_alias: bool = False
    base: str
    """The served model's name: itself, or what the alias stands for."""

    fim: tuple[str, str, str] | None = None
    """What stands before the prompt, between prompt and suffix, and after the suffix of a request to fill in."""

    has_reasoning_parser: bool | None = None
    """None: vLLM does not tell before it has answered."""

    facts: Facts = weights.UNKNOWN
    folder: Path | None = None

    @property
    def modified_at(self) -> str:
        """RFC 3339, as Ollama writes it."""
        return timestamp(self.modified_ns)


# ---------------------------------------------------------------- what is found out and what is guessed


async def accepts_tools(upstream: Upstream, served_id: str) -> bool | None:
    """Whether vLLM was started with a tool parser; None: it cannot be told now.

    The request is refused in any case, before a token is made: with the words of the tool check, which comes first, or
    else for its chat template, which is untrusted or, where the operator trusts requests, raises. gpt-oss looks at no
    template; it refuses the reasoning effort.
    """
    body: dict[str, object] = {
        "model": served_id,
        "messages": [{"role": "user", "content": "."}],
        "tools": [
            {"type": "function", "function": {"name": "probe", "parameters": {"type": "object", "properties": {}}}}
        ],
        "tool_choice": "auto",
        "chat_template": "{{ raise_exception('probe') }}",
        "reasoning_effort": "none",
        "max_completion_tokens": 1,
    }
    try:
        await upstream.json("POST", "/v1/chat/completions", body, timeout_s=PROBE_TIMEOUT_S)
    except OllamaError as why:
        if "tool-call-parser" in why.text or "does not support tools" in why.text:
            return False
        return True if why.status == 400 else None
    return True


async def splits_reasoning(upstream: Upstream, served_id: str) -> bool | None:
    """Whether vLLM was started with a reasoning parser; None: it cannot be told.

    vLLM refuses a budget for thinking without a parser, and then every request for an engine that it does not have: the
    first of the two refusals tells. A vLLM that knows no such budget is told by a budget that is no number. No token is
    made for either question.
    """
    refused = await _refused(upstream, served_id, budget="none")
    if refused is None or "thinking_token_budget" not in refused:
        return None
    refused = await _refused(upstream, served_id, budget=0)
    if refused is None:
        return None
    if "data_parallel_rank" in refused:
        return True
    return False if "reasoning_config" in refused else None


async def _refused(upstream: Upstream, served_id: str, *, budget: object) -> str | None:
    """vLLM's words to a request with that budget for an engine that is not there; None: it did not refuse."""
    body = {
        "model": served_id,
        "messages": [{"role": "user", "content": "."}],
        "max_completion_tokens": 1,
        "thinking_token_budget": budget,
    }
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            exchange = await upstream.wire.post(
                "/v1/chat/completions", msgspec.json.encode(body), headers={"x-data-parallel-rank": "2147483647"}
            )
            answer = await exchange.read()
    except (OllamaError, TimeoutError):
        return None
    return message(answer) if exchange.status == 400 else None


_CODE: Final = ("code", "coder", "codestral", "starcoder", "codegemma", "santacoder", "gpt_bigcode")


def capabilities(facts: Facts, *, name: str, tasks: frozenset[str], accepts_tools: bool | None) -> tuple[str, ...]:
    """What the model can do, as far as it can be told.

    completion, embedding: the routes that vLLM registered. vision: a vision part in config.json. tools: vLLM has a tool
    parser, and the chat template, where it can be read, mentions tools. thinking: the chat template opens or cuts away
    thinking. insert: fill-in-the-middle tokens, and a name that speaks of code: Qwen's chat models have the tokens too.
    """
    if "generate" not in tasks:
        return ("embedding",)
    found = ["completion"]
    if facts.has_vision:
        found.append("vision")
    mentions_tools = facts.mentions_tools
    if (accepts_tools and mentions_tools is not False) or (accepts_tools is None and mentions_tools):
        found.append("tools")
    if facts.fim is not None and any(word in f"{name} {facts.architecture}".lower() for word in _CODE):
        found.append("insert")
    if facts.mentions_thinking:
        found.append("thinking")
    if "embed" in tasks:
        found.append("embedding")
    return tuple(found)


def model_info(
    facts: Facts, *, architecture: str, basename: str, parameter_count: int | None, max_model_len: int
) -> dict[str, Any]:
    """GGUF's keys with what is known; context_length is what vLLM serves."""
    head_count = facts.head_count
    shape = {
        "attention.head_count": head_count,
        "attention.head_count_kv": facts.head_count_kv,
        "attention.key_length": facts.head_length,
        "attention.layer_norm_rms_epsilon": facts.norm_epsilon,
        "attention.value_length": facts.head_length,
        "block_count": facts.block_count,
        "context_length": max_model_len,
        "embedding_length": facts.embedding_length,
        "expert_count": facts.expert_count,
        "expert_used_count": facts.expert_used_count,
        "feed_forward_length": facts.feed_forward_length,
        "rope.dimension_count": facts.head_length if facts.rope_base is not None else None,
        "rope.freq_base": _plain(facts.rope_base),
        "vocab_size": facts.vocab_size,
    }
    info: dict[str, Any] = {"general.architecture": architecture, "general.basename": basename}
    if parameter_count is not None:
        info["general.parameter_count"] = parameter_count
    info["general.type"] = "model"
    return info | {f"{architecture}.{key}": value for key, value in shape.items() if value is not None}


def _plain(number: float | None) -> float | int | None:
    """`10000`, not `10000.0`, as Go writes it."""
    return int(number) if number is not None and number.is_integer() else number


def template_text(listed: tuple[str, ...], fim: tuple[str, str, str] | None) -> str:
    """`{{ .Prompt }}`, with the variables by which clients see what a model can do.

    The true template is Jinja, stays in vLLM, and is not shown.
    """
    text = "{{ .Prompt }}"
    if "thinking" in listed:
        text = "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}" + text
    if "tools" in listed:
        text = "{{ if .Tools }}{{ .Tools }}{{ end }}" + text
    if "insert" in listed:
        before, between, after = fim or ("", "", "")
        filled = before + "{{ .Prompt }}" + between + "{{ .Suffix }}" + after
        text = "{{ if .Suffix }}" + filled + "{{ else }}" + text + "{{ end }}"
    return text


def guessed_bytes(parameter_count: int | None, quantization: str) -> int:
    """What the weights take, from their number; 1, the least that clients bear, where even that is not known."""
    if parameter_count is None:
        return 1
    if any(sign in quantization for sign in ("INT4", "FP4", "AWQ", "W4")):
        return parameter_count * 9 // 16  # four bits and their scales
    return parameter_count * (1 if "8" in quantization else 4 if quantization == "F32" else 2)


def timestamp(time_ns: int) -> str:
    """RFC 3339 in UTC with its nanoseconds, trailing zeros dropped, as Go prints it."""
    seconds, rest_ns = divmod(time_ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest_ns:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"
