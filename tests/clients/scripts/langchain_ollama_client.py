"""langchain-ollama: chat, plain completion, tools, schemas, thinking and embeddings, sync and async."""

import asyncio
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import BaseModel
from seen import Seen, asked

SKY = [SystemMessage("Answer in one sentence."), HumanMessage("Why is the sky blue?")]
WEATHER = HumanMessage("What is the weather in Paris?")


class Place(BaseModel):
    """A place."""

    city: str


@tool
def get_weather(city: str) -> str:
    """Current weather of a city."""
    return f"22 degrees in {city}"


def message(answer: Any) -> dict[str, Any]:
    return {
        "content": answer.content,
        "reasoning": answer.additional_kwargs.get("reasoning_content"),
        "tool_calls": answer.tool_calls,
        "invalid_tool_calls": answer.invalid_tool_calls,
        "usage": answer.usage_metadata,
        "metadata": answer.response_metadata,
    }


def round_trip(chat: ChatOllama) -> dict[str, Any]:
    """The answer to a tool's result; a model that does not call is given a call as if it had."""
    with_tools = chat.bind_tools([get_weather])
    first = with_tools.invoke([WEATHER])
    calls = first.tool_calls or [{"name": "get_weather", "args": {"city": "Paris"}, "id": "call_1"}]
    said = first if first.tool_calls else AIMessage("", tool_calls=calls)
    results = [ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in calls]
    return {"first": message(first), "last": message(with_tools.invoke([WEATHER, said, *results]))}


async def together(chat: ChatOllama) -> dict[str, Any]:
    whole = await chat.ainvoke(SKY)
    parts = [part.content async for part in chat.astream(SKY)]
    return {"whole": message(whole), "parts": parts}


def main(told: dict[str, Any], seen: Seen) -> None:
    common = {"base_url": told["url"], "temperature": 0, "num_predict": 12, "seed": 7}
    seen.step("validate", lambda: bool(ChatOllama(model=told["chat"], validate_model_on_init=True, **common)))
    seen.step("validate_unknown", lambda: bool(ChatOllama(model="nope", validate_model_on_init=True, **common)))
    # All that it can send, the removed ones of Ollama among them.
    full = {"mirostat": 0, "mirostat_eta": 0.1, "mirostat_tau": 5.0, "num_ctx": 1024, "repeat_last_n": 64}
    full |= {"repeat_penalty": 1.0, "tfs_z": 1.0, "top_k": 40, "top_p": 0.9, "stop": ["\n\n\n"], "keep_alive": "10m"}
    chat = ChatOllama(model=told["chat"], **common, **full)
    seen.step("invoke", lambda: message(chat.invoke(SKY)))
    seen.step("stream", lambda: [message(part) for part in chat.stream(SKY)])
    seen.step("async", lambda: asyncio.run(together(chat)))
    seen.step("json", lambda: message(ChatOllama(model=told["chat"], format="json", **common).invoke(SKY)))
    longer = ChatOllama(model=told["chat"], **common | {"num_predict": 60})
    schema = longer.with_structured_output(Place, method="json_schema", include_raw=True)
    seen.step("schema", lambda: schema.invoke("Name a city of France, as JSON.")["parsed"])
    if told["tools"]:
        seen.step("tools", lambda: round_trip(ChatOllama(model=told["tools"], **common)))
    if told["thinking"]:
        thinker = ChatOllama(model=told["thinking"], reasoning=True, **common)
        seen.step("thinking", lambda: message(thinker.invoke("Think about the sky.")))
        quiet = ChatOllama(model=told["thinking"], reasoning=False, **common)
        seen.step("no_thinking", lambda: message(quiet.invoke("Think about the sky.")))
    llm = OllamaLLM(model=told["chat"], **common)
    seen.step("llm", lambda: llm.invoke("The sky is"))
    seen.step("llm_stream", lambda: list(llm.stream("The sky is")))
    if told["embed"]:
        embeddings = OllamaEmbeddings(model=told["embed"], base_url=told["url"])
        seen.step("embed", lambda: embeddings.embed_documents(["a cat", "a dog", "a steam engine"]))
        seen.step("embed_query", lambda: asyncio.run(embeddings.aembed_query("a cat")))
    seen.step("unknown", lambda: message(ChatOllama(model="nope", **common).invoke(SKY)))


if __name__ == "__main__":
    wanted, noted = asked(), Seen()
    main(wanted, noted)
    noted.tell()
