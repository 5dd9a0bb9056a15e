"""The Python package `ollama`: runs the calls it is told, sync or async.

A call: {"name", "call": method, "with": arguments, "leave_after": n parts and then the stream is closed,
"wait_s": before it}. A message {"answer_of": name} stands for the message of an earlier answer.
"""

import asyncio
import time
from typing import Any

import ollama
from seen import Seen, asked


def arguments(call: dict[str, Any], answers: dict[str, Any]) -> dict[str, Any]:
    given = dict(call.get("with", {}))
    if "from" in given:
        given["from_"] = given.pop("from")
    if "messages" in given:
        given["messages"] = [
            answers[message["answer_of"]].message if "answer_of" in message else message
            for message in given["messages"]
        ]
    return given


def run(client: ollama.Client, call: dict[str, Any], answers: dict[str, Any]) -> Any:
    answer = getattr(client, call["call"])(**arguments(call, answers))
    if not call.get("with", {}).get("stream"):
        return answer
    parts = []
    for part in answer:
        parts.append(part)
        if len(parts) == call.get("leave_after"):
            answer.close()
            break
    return parts


async def arun(client: ollama.AsyncClient, call: dict[str, Any], answers: dict[str, Any]) -> Any:
    answer = await getattr(client, call["call"])(**arguments(call, answers))
    if not call.get("with", {}).get("stream"):
        return answer
    parts = []
    async for part in answer:
        parts.append(part)
        if len(parts) == call.get("leave_after"):
            await answer.aclose()
            break
    return parts


def sync_main(told: dict[str, Any], seen: Seen) -> None:
    client, answers = ollama.Client(host=told["url"]), {}
    for call in told["calls"]:
        time.sleep(call.get("wait_s", 0))
        answers[call["name"]] = seen.step(call["name"], lambda call=call: run(client, call, answers))


async def async_main(told: dict[str, Any], seen: Seen) -> None:
    client, answers = ollama.AsyncClient(host=told["url"]), {}
    for call in told["calls"]:
        await asyncio.sleep(call.get("wait_s", 0))
        answers[call["name"]] = await seen.astep(call["name"], lambda call=call: arun(client, call, answers))
    together = [client.generate(**told["together"]) for _ in range(4)] if "together" in told else []
    if together:
        await seen.astep("together", lambda: asyncio.gather(*together))


if __name__ == "__main__":
    told, seen = asked(), Seen()
    if told.get("is_async"):
        asyncio.run(async_main(told, seen))
    else:
        sync_main(told, seen)
    seen.tell()
