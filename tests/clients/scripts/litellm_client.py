"""LiteLLM's routes `ollama/` (generate) and `ollama_chat/` (chat)."""

import asyncio
from typing import Any

import litellm
from seen import Seen, asked

litellm.suppress_debug_info = True
litellm.telemetry = False
SKY = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def streamed(**given: Any) -> dict[str, Any]:
    parts = list(litellm.completion(stream=True, **given))
    choices = [choice for part in parts for choice in part.choices]
    return {
        "texts": [choice.delta.content or "" for choice in choices],
        "finish": [choice.finish_reason for choice in choices if choice.finish_reason],
    }


async def streamed_async(**given: Any) -> list[str]:
    stream = await litellm.acompletion(stream=True, **given)
    return [choice.delta.content or "" async for part in stream for choice in part.choices]


def round_trip(**given: Any) -> dict[str, Any]:
    first = litellm.completion(messages=[WEATHER], tools=TOOLS, **given)
    said = first.choices[0].message
    if not said.tool_calls:
        call = {"id": "call_1", "type": "function"}
        call["function"] = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
    calls = said["tool_calls"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "22 degrees"} for call in calls]
    return {"first": first, "last": litellm.completion(messages=[WEATHER, said, *results], tools=TOOLS, **given)}


def main(told: dict[str, Any], seen: Seen) -> None:
    for route in ("ollama", "ollama_chat"):
        given = {"api_base": told["url"], "temperature": 0, "max_tokens": 12, "seed": 7}
        sky = {"model": f"{route}/{told['chat']}", "messages": SKY, **given}
        seen.step(f"{route} whole", lambda sky=sky: litellm.completion(**sky))
        seen.step(f"{route} stream", lambda sky=sky: streamed(**sky))
        seen.step(f"{route} async", lambda sky=sky: asyncio.run(litellm.acompletion(**sky)))
        seen.step(f"{route} async stream", lambda sky=sky: asyncio.run(streamed_async(**sky)))
        shape = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
        place = sky | {"max_tokens": 60, "response_format": shape}
        seen.step(f"{route} schema", lambda place=place: litellm.completion(**place))
        unknown = sky | {"model": f"{route}/nope"}
        seen.step(f"{route} unknown", lambda unknown=unknown: litellm.completion(**unknown))
        if told["thinking"] and route == "ollama_chat":
            thinker = sky | {"model": f"{route}/{told['thinking']}", "reasoning_effort": "low"}
            seen.step(f"{route} thinking", lambda thinker=thinker: litellm.completion(**thinker))
        if told["tools"] and route == "ollama_chat":
            tools = given | {"model": f"{route}/{told['tools']}"}
            seen.step(f"{route} tools", lambda tools=tools: round_trip(**tools))
    seen.step("info", lambda: litellm.get_model_info(f"ollama/{told['tools'] or told['chat']}", api_base=told["url"]))
    if told["embed"]:
        embed = {"model": f"ollama/{told['embed']}", "api_base": told["url"]}
        seen.step("embed", lambda: litellm.embedding(input=["a cat", "a dog"], **embed))
        seen.step("async embed", lambda: asyncio.run(litellm.aembedding(input=["a cat"], **embed)))


if __name__ == "__main__":
    wanted, noted = asked(), Seen()
    main(wanted, noted)
    noted.tell()
