"""Whether settings that may change answers still give the baseline's: greedy answers to fixed questions, compared."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec

from harness import store
from harness.engines import Engine
from harness.errors import EngineCrashed
from harness.records import Estimate, Flags
from harness.stats.estimate import share

MIN_AGREEMENT: Final = 0.7
"""The whole interval of the share of equal answers must lie at or above it: with 32 questions 28 must be equal."""
ANSWER_TOKENS: Final = 16
"""Short: one token that differs makes all that follow differ, and says no more."""
TIMEOUT_S: Final = 120.0
TEXTS: Final = ("content", "reasoning_content", "reasoning")
"""Of an answer: a parser for thoughts leaves the first one empty; the others are its names in different versions."""
CHANGING: Final = frozenset(
    {
        "kv-cache-dtype", "kv-cache-dtype-skip-layers", "calculate-kv-scales", "quantization", "dtype", "model",
        "load-format", "speculative-config", "spec-method", "spec-model", "spec-tokens", "enable-chunked-prefill",
    }
)  # fmt: skip
"""Flags that decide on weights, the KV cache's precision or speculation; `speculative-config.…` too. Without chunked
prefill vLLM itself warns that it may produce incorrect outputs."""

QUESTIONS: Final = (
    "What is the capital of France?",
    "Name the four seasons in order, beginning with spring.",
    "What is 17 plus 25?",
    "Translate to French: Good morning, my friend.",
    "Which planet is known as the red planet?",
    "Finish the sentence: The early bird catches the",
    "Write the first six prime numbers.",
    "What colour do you get when you mix blue and yellow?",
    "Who wrote the play Romeo and Juliet?",
    "List three animals that lay eggs.",
    "What is the opposite of the word ancient?",
    "How many minutes are there in three hours?",
    "Name the largest ocean on Earth.",
    "Spell the word rhythm backwards.",
    "Which gas do plants take in from the air?",
    "Write a function in Python that returns the square of a number.",
    "What is the chemical formula of water?",
    "In one sentence: why is the sky blue?",
    "Put these in order of size: house, ant, dog.",
    "What is the past tense of the verb to go?",
    "Name a country that borders Germany.",
    "How many sides does a hexagon have?",
    "What is the boiling point of water at sea level, in degrees Celsius?",
    "Complete the pattern: 2, 4, 8, 16,",
    "Which month has the fewest days?",
    "Give a synonym for the word happy.",
    "What do bees make?",
    "Is the number 91 prime? Answer yes or no, then say why.",
    "Write the word hello in capital letters.",
    "Which instrument has 88 keys?",
    "What is the freezing point of water in degrees Fahrenheit?",
    "Name two metals that a magnet attracts.",
)

Ask = Callable[[Engine], tuple[str, ...]]
"""`answers`, or what takes its place."""


def changes_answers(flags: Flags) -> bool:
    """Whether a flag decides on weights, the KV cache's precision or speculation, or vLLM warns of its answers."""
    return any(name.replace("_", "-").partition(".")[0] in CHANGING for name in flags)


def answers(engine: Engine) -> tuple[str, ...]:
    """The engine's answers to all questions, greedy and one at a time. Raises: EngineError where it gives none.

    Nobody else may ask it meanwhile: of 32 answers of vLLM 0.32 in bf16, on a CPU, all were the same when asked again,
    and 28 were while four others were being answered, since other batches round differently.
    """
    with httpx.Client(base_url=engine.url, timeout=TIMEOUT_S, trust_env=False) as http:
        return tuple(answer(http, engine, question) for question in QUESTIONS)


def answer(http: httpx.Client, engine: Engine, question: str) -> str:
    """One answer."""
    body = {
        "model": engine.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0.0,
        "seed": 0,
    }
    try:
        said = http.post("/v1/chat/completions", json=body)
        said.raise_for_status()
        message = said.json()["choices"][0]["message"]
        return "".join(text for name in TEXTS if isinstance(text := message.get(name), str))
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        engine.check()  # a better name for it, where the engine has died
        raise EngineCrashed(f"{engine.title} did not answer {question!r}: {error}", log=engine.log) from error


def agreement(ours: Sequence[str], baseline: Sequence[str]) -> Estimate | None:
    """The share of equal answers with Wilson's interval. None where nothing can be compared.

    Where the baseline says nothing, nothing can be equal: two engines that are both silent would agree in all.
    """
    pairs = [pair for pair in zip(ours, baseline, strict=True) if pair[1].strip()]
    return share(sum(a == b for a, b in pairs), len(pairs))


def refusal(found: Estimate | None) -> str:
    """Why settings with such answers are refused; empty where they are not."""
    if found is None:
        return "the baseline answered none of the questions, so nothing tells whether its answers are still given"
    if found.low >= MIN_AGREEMENT:
        return ""
    silent = len(QUESTIONS) - found.n
    left_out = f" ({silent} more it left without an answer)" if silent > 0 else ""
    return (
        f"{round(found.value * found.n)} of {found.n} greedy answers are the baseline's{left_out}: at least "
        f"{found.low:.0%} agree, and {MIN_AGREEMENT:.0%} are asked"
    )


# ---------------------------------------------------------------- kept, for a study that goes on later


def path_of(folder: Path, name: str) -> Path:
    """Where the answers of one side of the finals lie."""
    return folder / f"answers-{name.replace(' ', '-')}.json"


def keep(folder: Path, name: str, said: Sequence[str]) -> None:
    """Writes them at once, each with its question: another harness may ask others."""
    store.replace(path_of(folder, name), msgspec.json.encode(dict(zip(QUESTIONS, said, strict=True))))


def known(folder: Path, name: str) -> tuple[str, ...] | None:
    """None: they were not asked yet, or other questions were, or the file is damaged; they are then asked anew."""
    try:
        found = msgspec.json.decode(path_of(folder, name).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return tuple(found.values()) if tuple(found) == QUESTIONS else None
