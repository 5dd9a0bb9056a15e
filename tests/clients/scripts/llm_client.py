"""llm with its plugin llm-ollama; OLLAMA_HOST and LLM_USER_PATH are in the environment."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import llm
from seen import Seen, asked

SKY = "Why is the sky blue?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def get_weather(city: str) -> str:
    """Current weather of a city."""
    return f"22 degrees in {city}"


def command(*words: str) -> str:
    """What `llm WORDS` prints."""
    done = subprocess.run([sys.executable, "-m", "llm", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def answer(response: Any) -> dict[str, Any]:
    text = response.text()
    return {"text": text, "usage": [response.input_tokens, response.output_tokens], "json": response.response_json}


def chained(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Calls the tools that the model asks for, until it asks for none."""
    chain = model.chain("What is the weather in Paris?", tools=[get_weather], options=options)
    text = chain.text()
    calls = [call for response in chain._responses for call in response.tool_calls()]
    return {"text": text, "calls": [[call.name, call.arguments] for call in calls]}


async def prompted(name: str, options: dict[str, Any]) -> str:
    return await llm.get_async_model(name).prompt(SKY, **options).text()


def main(told: dict[str, Any], seen: Seen) -> None:
    options = {"temperature": 0, "num_predict": 12, "seed": 7}
    name = f"ollama/{told['chat']}"
    seen.step("models", lambda: command("ollama", "models"))
    seen.step("ids", lambda: [[found.model.model_id, found.aliases] for found in llm.get_models_with_aliases()])
    seen.step("command", lambda: command("-m", name, "-o", "temperature", "0", "-o", "num_predict", "12", SKY))
    seen.step("whole", lambda: answer(llm.get_model(name).prompt(SKY, stream=False, system="Be brief.", **options)))
    seen.step("stream", lambda: list(llm.get_model(name).prompt(SKY, **options)))
    seen.step("async", lambda: asyncio.run(prompted(name, options)))
    longer = options | {"num_predict": 60}
    seen.step(
        "schema", lambda: json.loads(llm.get_model(name).prompt("A city, as JSON.", schema=SCHEMA, **longer).text())
    )
    seen.step("conversation", lambda: conversation(name, options))
    if told["tools"]:
        seen.step("tools", lambda: chained(llm.get_model(f"ollama/{told['tools']}"), options))
    if told["embed"]:
        seen.step("embed", lambda: command("embed", "-m", f"ollama/{told['embed']}", "-c", "a cat"))
        model = llm.get_embedding_model(f"ollama/{told['embed']}")
        seen.step("embed_many", lambda: [list(vector) for vector in model.embed_multi(["a cat", "a dog"])])
    seen.step("bad_option", lambda: llm.get_model(name).prompt(SKY, num_ctx="big").text())


def conversation(name: str, options: dict[str, Any]) -> list[str]:
    talk = llm.get_model(name).conversation()
    return [talk.prompt(text, **options).text() for text in ("Hello.", "What did I say?")]


if __name__ == "__main__":
    wanted, noted = asked(), Seen()
    main(wanted, noted)
    noted.tell()
