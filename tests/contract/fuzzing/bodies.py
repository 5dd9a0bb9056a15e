"""Bodies of requests that nobody would write, by path."""

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.contract.fuzzing.nearly_json import LEAVES, NUMBERS, TEXTS, VALUES, Members, mostly, nested, objects

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SERVED = ("smollm2", "thinker", "minilm")
GOOD_NAMES = ["smollm2", "SmolLM2", "smollm2:latest", "thinker", "Thinker:LATEST", "library/smollm2"]
NAMES = mostly(
    st.sampled_from(GOOD_NAMES),
    st.sampled_from(["minilm", "fuzz1", "fuzz2:tag", "fuzz3", "nobody", "hf.co/a/b:c"]),
    st.sampled_from([
        "", " ", ":", "a:", "/x", "../../x", "a%2f..", "x" * 5000, "a b", "a\x00b", "é", "a:b:c", "http://127.0.0.1/x",
        "a/b/c/d", "ſmollm2", "smollm2\n", "ＳＭＯＬＬＭ２", "smollm2:", "-x", "K", "\ud83d",
    ]),
)  # fmt: skip
BOOLS = st.one_of(st.booleans(), st.booleans(), st.none())
IMAGES = st.lists(
    st.one_of(
        *[st.just(PNG)] * 4,
        st.sampled_from(
            ["data:image/png;base64," + PNG, "AAAA", "!!!", "", "AA", "data:,x", "http://x/y.png", PNG[:-1]]
        ),
    ),
    max_size=3,
)
_OPTION_NAMES = [
    "num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature",
    "repeat_penalty", "presence_penalty", "frequency_penalty", "num_ctx", "num_batch", "num_gpu", "main_gpu",
    "num_thread", "draft_num_predict", "mirostat", "tfs_z", "unknown",
]  # fmt: skip
PRIVATE = dict.fromkeys(
    [
        "chat_template",
        "chat_template_kwargs",
        "kv_transfer_params",
        "vllm_xargs",
        "priority",
        "structured_outputs",
        "n",
        "prompt_logprobs",
        "mm_processor_kwargs",
        "truncate_prompt_tokens",
        "ignore_eos",
        "guided_json",
        "cache_salt",
        "request_id",
        "echo",
        "documents",
        "tool_choice",
        "best_of",
        "lora_request",
        "add_special_tokens",
        "bad_words",
        "allowed_token_ids",
        "media_io_kwargs",
    ],
    VALUES,
)
OPTIONS = objects(
    dict.fromkeys(_OPTION_NAMES, NUMBERS)
    | {"stop": st.lists(TEXTS, max_size=7), "use_mmap": BOOLS, "penalize_newline": BOOLS}
    | {"chat_template": TEXTS, "ignore_eos": BOOLS},
    odd=20,
)
SCHEMAS = objects({
    "type": st.sampled_from(["object", "array", "string", "integer", ["string", "null"]]),
    "properties": objects({"a": st.just({}), "b": st.just({"type": "string"}), "é": st.just({"enum": [1]})}),
    "required": st.lists(st.sampled_from(["a", "b"]), max_size=2),
    "enum": st.lists(LEAVES, min_size=1, max_size=2), "pattern": TEXTS, "$ref": TEXTS, "anyOf": st.just([]),
}, most=3)  # fmt: skip
FORMATS = st.one_of(st.sampled_from(["json", "", None]), SCHEMAS, st.sampled_from(["json", "xml"]))
KEEP_ALIVES = st.one_of(
    NUMBERS,
    st.sampled_from(["5m", "0", "-1", "10", "1h30m", "-1s", "", "5 m", "9" * 30 + "h", "1e3s", ".5s", "300s", None]),
)
THINKS = st.sampled_from([True, False, False, None, None, "low", "medium", "high", "max", "", "ultra", 1])
TOOLS = st.lists(
    objects({
        "type": st.just("function"),
        "function": objects({
            "name": TEXTS, "description": TEXTS,
            "parameters": objects({
                "type": st.just("object"),
                "properties": objects({"a": SCHEMAS, "b": SCHEMAS}, odd=12),
                "required": st.lists(TEXTS, max_size=2),
                "$defs": VALUES,
            }, odd=12),
            "strict": BOOLS, "chat_template": TEXTS,
        }, needs=("name",), odd=12),
    }, needs=("type", "function"), odd=12),
    max_size=2,
)  # fmt: skip
CALLS = st.lists(
    objects({
        "id": TEXTS, "type": st.just("function"),
        "function": objects({
            "name": TEXTS, "index": NUMBERS,
            "arguments": st.one_of(nested(LEAVES), st.sampled_from(["{}", '{"a":1}', "[]", "x", ""])),
        }, needs=("name", "arguments"), odd=12),
    }, needs=("function",), odd=12),
    max_size=2,
)  # fmt: skip
MESSAGES = st.lists(
    objects({
        "role": st.sampled_from(["user", "assistant", "system", "tool", "USER", "developer", "", "Tool"]),
        "content": TEXTS, "thinking": TEXTS, "images": IMAGES, "tool_calls": CALLS, "tool_name": TEXTS,
        "tool_call_id": TEXTS, "name": TEXTS, "reasoning": TEXTS,
    }, needs=("role", "content"), most=2, odd=16),
    max_size=4,
)  # fmt: skip
RUN = {
    "model": NAMES, "stream": BOOLS, "format": FORMATS, "keep_alive": KEEP_ALIVES, "options": OPTIONS,
    "think": THINKS, "truncate": BOOLS, "shift": BOOLS, "logprobs": BOOLS, "top_logprobs": st.integers(-1, 21),
    "_debug_render_only": BOOLS,
}  # fmt: skip
PULLED = {"model": NAMES, "name": NAMES, "insecure": BOOLS, "username": TEXTS, "password": TEXTS, "stream": BOOLS}

OLLAMA_BODIES: dict[bytes, SearchStrategy[Members]] = {
    b"/api/generate": objects(RUN | PRIVATE | {
        "prompt": TEXTS, "suffix": TEXTS, "system": TEXTS, "template": TEXTS, "raw": BOOLS, "images": IMAGES,
        "context": st.lists(mostly(st.integers(0, 60), NUMBERS), max_size=5),
    }, needs=("model", "prompt"), odd=14),
    b"/api/chat": objects(
        RUN | PRIVATE | {"messages": MESSAGES, "tools": TOOLS}, needs=("model", "messages"), odd=14
    ),
    b"/api/embed": objects({
        "model": mostly(st.just("minilm"), NAMES), "input": st.one_of(TEXTS, st.lists(TEXTS, max_size=4), VALUES),
        "truncate": BOOLS, "dimensions": NUMBERS, "keep_alive": KEEP_ALIVES, "options": OPTIONS,
    }, needs=("model", "input")),
    b"/api/embeddings": objects({
        "model": mostly(st.just("minilm"), NAMES), "prompt": TEXTS, "keep_alive": KEEP_ALIVES, "options": OPTIONS,
    }, needs=("model", "prompt")),
    b"/api/show": objects({
        "model": NAMES, "name": NAMES, "verbose": BOOLS, "system": TEXTS, "template": TEXTS, "options": OPTIONS,
    }, needs=("model",)),
    b"/api/pull": objects(PULLED, needs=("model",)),
    b"/api/push": objects(PULLED, needs=("model",)),
    b"/api/create": objects({
        "model": st.sampled_from(["fuzz1", "fuzz2:tag", "fuzz3", "smollm2", "", "../x"]), "from": NAMES,
        "stream": BOOLS, "files": OPTIONS, "adapters": OPTIONS, "template": TEXTS, "license": VALUES,
        "system": TEXTS, "parameters": OPTIONS, "messages": MESSAGES, "quantize": TEXTS, "info": OPTIONS,
        "renderer": TEXTS, "remote_host": TEXTS,
    }, needs=("model", "from"), most=4),
    b"/api/copy": objects({
        "source": NAMES, "destination": st.sampled_from(["fuzz1", "fuzz2:tag", "FUZZ3", "smollm2", "", "../x", "a b"]),
    }, needs=("source", "destination")),
    b"/api/delete": objects({
        "model": st.sampled_from(["fuzz1", "fuzz2:tag", "fuzz3", "smollm2", "", "nobody"]), "name": NAMES,
    }, needs=("model",)),
}  # fmt: skip

_PARTS = st.lists(
    objects({
        "type": st.sampled_from(["text", "image_url", "input_audio", "url", "image"]), "text": TEXTS,
        "image_url": st.one_of(
            TEXTS, objects({"url": st.one_of(TEXTS, st.just("data:image/png;base64," + PNG))}, needs=("url",))
        ),
        "source": objects({"type": st.sampled_from(["url", "base64"]), "url": TEXTS, "data": st.just(PNG)}),
    }, needs=("type",)),
    max_size=3,
)  # fmt: skip
_OPENAI_MESSAGES = st.lists(
    objects({
        "role": st.sampled_from(["user", "assistant", "system", "tool", "developer"]),
        "content": st.one_of(TEXTS, TEXTS, _PARTS), "tool_calls": CALLS, "tool_call_id": TEXTS, "name": TEXTS,
    }, needs=("role", "content"), most=1, odd=16),
    min_size=1,
    max_size=3,
)  # fmt: skip
_SAMPLED = {
    "model": NAMES, "stream": BOOLS, "temperature": NUMBERS, "top_p": NUMBERS, "max_tokens": NUMBERS, "seed": NUMBERS,
    "frequency_penalty": NUMBERS, "presence_penalty": NUMBERS, "n": NUMBERS, "stop": st.one_of(TEXTS, VALUES),
    "stream_options": objects({"include_usage": BOOLS}), "user": TEXTS, "logit_bias": VALUES,
    "response_format": objects({
        "type": st.sampled_from(["text", "json_object", "json_schema", "structural_tag"]),
        "json_schema": objects({"name": TEXTS, "schema": SCHEMAS}),
    }, needs=("type",)),
}  # fmt: skip
_IDS = st.lists(st.integers(0, 60), max_size=4)
_PROMPTS = st.one_of(TEXTS, st.lists(TEXTS, max_size=2), _IDS, st.lists(_IDS, max_size=2))
OPENAI_BODIES: dict[bytes, SearchStrategy[Members]] = {
    b"/v1/chat/completions": objects(PRIVATE | _SAMPLED | {
        "messages": _OPENAI_MESSAGES, "tools": TOOLS, "tool_choice": VALUES, "reasoning_effort": TEXTS,
        "reasoning": objects({"effort": THINKS}), "logprobs": BOOLS, "top_logprobs": NUMBERS,
    }, needs=("model", "messages"), odd=14),
    b"/v1/completions": objects(
        PRIVATE | _SAMPLED | {"prompt": _PROMPTS, "suffix": TEXTS, "logprobs": NUMBERS},
        needs=("model", "prompt"), odd=14,
    ),
    b"/v1/embeddings": objects({
        "model": mostly(st.just("minilm"), NAMES), "input": st.one_of(TEXTS, st.lists(TEXTS, max_size=3), VALUES),
        "dimensions": NUMBERS, "encoding_format": st.sampled_from(["float", "base64", "BASE64", "x", None]),
    }, needs=("model", "input")),
    b"/v1/responses": objects(PRIVATE | _SAMPLED | {
        "input": st.one_of(TEXTS, _OPENAI_MESSAGES), "instructions": TEXTS, "max_output_tokens": NUMBERS,
        "tools": TOOLS, "store": BOOLS, "background": BOOLS, "previous_response_id": TEXTS,
    }, needs=("model", "input"), odd=14),
    b"/v1/messages": objects(PRIVATE | _SAMPLED | {
        "messages": _OPENAI_MESSAGES, "system": TEXTS, "thinking": VALUES, "metadata": VALUES, "tools": VALUES,
    }, needs=("model", "messages", "max_tokens"), odd=14),
    b"/v1/audio/transcriptions": objects(
        {"model": NAMES, "file": TEXTS, "language": TEXTS, "prompt": TEXTS, "stream": TEXTS, "chat_template": TEXTS},
        needs=("model", "file"), most=2, odd=100,
    ),
}  # fmt: skip
