"""The calls that ollama's own packages are asked to make, and what an answer of theirs must look like."""

import re
from typing import Any

from tests.clients.servers import Json, Target

SKY = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
OPTIONS: Json = {"temperature": 0, "num_predict": 12, "seed": 7, "stop": ["\n\n\n"], "top_k": 40, "num_ctx": 1024}
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city.",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def together(target: Target) -> Json:
    """A generation of which several run at once."""
    return {"model": target.chat, "prompt": "The sky is", "options": OPTIONS}


def calls(target: Target, *, client: str) -> list[Json]:
    """In their order: later ones use what earlier ones made. Names of models are the client's own."""
    chat, made, copied = target.chat, f"made-{client}", f"copied-{client}"
    found: list[Json] = []

    def add(name: str, call: str, *, wait_s: float = 0.0, leave_after: int | None = None, **given: Any) -> None:
        entry: Json = {"name": name, "call": call, "with": given, "wait_s": wait_s}
        found.append(entry | ({"leave_after": leave_after} if leave_after else {}))

    add("list", "list")
    add("show", "show", model=chat)
    add("load", "generate", model=chat, prompt="", keep_alive="10m")
    add("ps", "ps")
    add("generate", "generate", model=chat, prompt="The sky is", options=OPTIONS)
    add("generate_stream", "generate", model=chat, prompt="The sky is", options=OPTIONS, stream=True)
    add("raw", "generate", model=chat, prompt="The sky is", raw=True, options=OPTIONS)
    add("system", "generate", model=chat, prompt="Hello.", system="You are a pirate.", options=OPTIONS)
    add("chat", "chat", model=chat, messages=SKY, options=OPTIONS)
    add("chat_tagged", "chat", model=f"{chat.upper()}:latest", messages=SKY, options=OPTIONS)
    add("chat_stream", "chat", model=chat, messages=SKY, options=OPTIONS, stream=True)
    add("defaults", "chat", model=chat, messages=SKY, options={"num_predict": 3})
    add("turns", "chat", model=chat, messages=[*SKY, {"answer_of": "chat"}, *SKY], options=OPTIONS)
    add("logprobs", "generate", model=chat, prompt="One, two,", logprobs=True, top_logprobs=2, options=OPTIONS)
    short = {**OPTIONS, "num_predict": 64}
    add("json", "chat", model=chat, messages=SKY, format="json", options=short)
    add("schema", "chat", model=chat, messages=SKY, format=SCHEMA, options=short)
    add("schema_stream", "generate", model=chat, prompt="A city.", format=SCHEMA, options=short, stream=True)
    if target.tools:
        asked: Json = {"model": target.tools, "tools": [TOOL], "options": OPTIONS}
        add("tools", "chat", messages=[WEATHER], **asked)
        add("tools_stream", "chat", messages=[WEATHER], stream=True, **asked)
        said: Json = {"role": "assistant", "content": "", "tool_calls": [{"function": CALLED}]}
        result = {"role": "tool", "content": "22 degrees", "tool_name": "get_weather"}
        add("tools_result", "chat", messages=[WEATHER, said, result], **asked)
        add("tools_answer", "chat", messages=[WEATHER, {"answer_of": "tools"}, result], **asked)
    if target.thinking:
        thought: Json = {"model": target.thinking, "options": OPTIONS}
        think = [{"role": "user", "content": "Think about the sky."}]
        add("think", "chat", messages=think, think=True, **thought)
        add("think_stream", "chat", messages=think, think=True, stream=True, **thought)
        add("think_low", "generate", prompt="Think about the sky.", think="low", **thought)
        add("think_not", "chat", messages=think, think=False, **thought)
    else:
        add("think_refused", "chat", model=chat, messages=SKY, think=True)
        add("think_not", "chat", model=chat, messages=SKY, think=False, options=OPTIONS)
    if target.embed:
        texts = ["a cat", "a dog", "a steam engine"]
        add("embed", "embed", model=target.embed, input=texts)
        add("embed_one", "embed", model=target.embed, input="a cat", truncate=True)
        add("embed_cut", "embed", model=target.embed, input="a cat", dimensions=8)
        add("embeddings", "embeddings", model=target.embed, prompt="a cat")
        add("embed_chats", "chat", model=target.embed, messages=SKY)
    add("chat_embeds", "embed", model=chat, input="a cat")
    add("image", "chat", model=chat, messages=[{"role": "user", "content": "What is it?", "images": [PNG]}])
    add("copy", "copy", source=chat, destination=copied)
    add("copied_chat", "chat", model=copied, messages=SKY, options=OPTIONS)
    add("copied_list", "list")
    add("delete", "delete", model=copied)
    add("deleted_chat", "chat", model=copied, messages=SKY)
    add("deleted_list", "list")
    of: Json = {
        "model": made,
        "from": chat,
        "system": "You are a pirate.",
        "parameters": {"num_predict": 3, "stop": ["|"]},
    }
    add("create", "create", stream=True, license="For tests only.", **of)
    add("created_show", "show", model=made)
    add("created_chat", "chat", model=made, messages=SKY)
    add("created_delete", "delete", model=made)
    add("create_unknown", "create", **{**of, "from": f"nope-{client}"})
    if target.kind != "ollama":  # which looks for a newer one, elsewhere
        add("pull", "pull", model=chat)
        add("pull_stream", "pull", model=chat, stream=True)
    add("push", "push", model=chat)
    add("push_stream", "push", model=chat, stream=True)
    for call, given in UNKNOWN.items():
        add(f"unknown_{call}", call, model="nope", **given)
    add("unknown_stream", "chat", model="nope", messages=SKY, stream=True)
    add("unknown_copy", "copy", source="nope", destination="nope2")
    add("bad_option", "generate", model=chat, prompt="x", options={"num_ctx": "big"})
    add("bad_think", "chat", model=chat, messages=SKY, think="sideways")
    add("bad_keep_alive", "generate", model=chat, prompt="x", keep_alive="10")
    long = {"temperature": 0, "num_predict": 1500}
    add("left", "chat", model=chat, messages=SKY, options=long, stream=True, leave_after=2)
    add("after_left", "generate", model=chat, prompt="The sky is", options=OPTIONS)
    add("unload", "generate", model=chat, prompt="", keep_alive=0)
    add("unloaded_ps", "ps", wait_s=0.5)
    add("chat_load", "chat", model=chat, messages=[])
    return found


CALLED: Json = {"name": "get_weather", "arguments": {"city": "Paris"}}
UNKNOWN: dict[str, Json] = {
    "generate": {"prompt": "x"},
    "chat": {"messages": SKY},
    "embed": {"input": "x"},
    "embeddings": {"prompt": "x"},
    "show": {},
    "delete": {},
}


# ---------------------------------------------------------------- what must hold

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def assert_final(answer: Json, *, model: str, most_tokens: int | None = None) -> None:
    """The last or only object of an answer: done, why, and counts and times in nanoseconds."""
    assert answer["model"] == model, "it is called as the request called it"
    assert TIME.fullmatch(answer["created_at"])
    assert answer["done"] is True
    assert answer["done_reason"] in ("stop", "length")
    assert answer["prompt_eval_count"] > 0
    assert answer["eval_count"] > 0
    for name in ("total_duration", "prompt_eval_duration", "eval_duration"):
        assert isinstance(answer[name], int), name
        assert answer[name] > 0, name
    assert answer["total_duration"] >= answer["eval_duration"]
    if most_tokens is not None:
        assert answer["eval_count"] <= most_tokens


def text_of(part: Json) -> str:
    """What a part of a stream, or a whole answer, says."""
    said = part["message"]["content"] if "message" in part else part["response"]
    return said or ""


def streamed(parts: list[Json], *, model: str) -> str:
    """The text of a stream; fails where its form is not Ollama's."""
    assert len(parts) > 1, "a stream comes in parts"
    assert [bool(part["done"]) for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(part["model"] == model for part in parts)
    assert all(part["message"]["role"] == "assistant" for part in parts if "message" in part)
    assert_final(parts[-1], model=model)
    return "".join(map(text_of, parts))


def assert_failed(seen: Json, *, status: int, text: str) -> None:
    """The client raised its own error for an answer, with the server's status and words."""
    assert "failed" in seen, f"it did not fail: {seen}"
    assert (seen["failed"], seen["status"]) == ("ResponseError", status), seen
    assert re.search(text, seen["text"]), seen
