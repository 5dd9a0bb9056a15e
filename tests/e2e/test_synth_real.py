"""Random weights of the small model's shape, served by the real vLLM and by llama.cpp, and computed by plain NumPy.

How near two engines must come: see TOLERANCE.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import numpy as np
import pytest

from harness import config, engines, models, specs
from harness.errors import HarnessError
from harness.models.tensors import FAMILIES
from harness.models.weights import Weights
from harness.records import Flags, LaunchSpec, ModelFiles
from tests.fakes.transformer import Transformer, log_probabilities

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
LIKE: Final = "smollm2-135m"
LENGTHS: Final = (16, 64, 200)
CHATS: Final = (
    [{"role": "user", "content": "Why is the sky blue?"}],
    [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Ünïcode — 日本語 🙂 2**10 = 1024"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello! "}, {"role": "user", "content": " a"}],
    [{"role": "user", "content": "def f(x):\n\treturn x  # 12 345,6\n\n" + "All work and no play. " * 60}],
)
TOP: Final = 20

TOLERANCE: Final = {"vllm": 0.12, "f16": 0.015, "q8_0": 0.2}
"""How far a log probability may be from the exact one, in nats. Logits of words have a standard deviation of about 1.

bfloat16 has 8 significant bits: a rounding is wrong by 2^-9/√3 = 0.11 % in the mean. 30 layers round the residual
stream 60 times, which makes √60 × 0.11 % = 0.9 %; each part of a layer rounds about 8 times more, 0.3 % of what it
adds; and later layers carry an error on and up to double it. With the rounding of the logits themselves that is a
standard deviation of about 0.025, and the largest of a hundred such errors is below five of them. f16 has three bits
more: an eighth. Q8_0 rounds weights, and llama.cpp with them activations, to 1/127 of a block's largest value, 2.4
deviations: 0.55 % each, in two or three matrices of a part one after another, 0.02 in a logit, doubled as above.
Measured over 120 values: vLLM 0.061, llama.cpp f16 0.0026, q8_0 0.062; vLLM against llama.cpp f16 0.059.
"""

# Runs where vLLM is: what Hugging Face's own tokenizer makes of the same conversations and texts.
TOKENIZE = """
import json, sys, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.stdin.read())
print(json.dumps([tokenizer(text)["input_ids"] for text in texts]))
"""
TEXTS: Final = (
    " plain words",
    "12 345,6 x1 2x  3\n\n\t4",
    "Ünïcode — 日本語 🙂",
    "it's we'll THEY'RE <|im_end|> <|not special|>",
    "   indented\n        code = {'a': [1, 2.5e-3]}  \n",
)


class Seen(NamedTuple):
    """What one engine answered."""

    answers: dict[tuple[int, int], dict[str, Any]]
    """By chat and length."""
    tops: list[dict[str, float]]
    """For each prompt the likeliest tokens with their log probabilities."""


def missing(what: str) -> None:
    """Skips, naming what is missing; in CI, where all must be there, fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def vllm_python() -> str:
    path = Path(os.environ.get("HARNESS_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
    if not path.exists():
        missing(f"no vLLM: {path} is not there (make venv-vllm, or HARNESS_VLLM_PYTHON)")
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the command made and said; its tokenizer comes out of the model of `make model`."""
    out = tmp_path_factory.mktemp("synth")
    words = ["--like", LIKE, "--precision", "f16,q8_0", "--out", str(out), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "harness", "models", "synth", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if "pip could not download" in done.stderr:
        missing(done.stderr)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    shutil.rmtree(out)


@pytest.fixture(scope="module")
def vocabulary(made) -> dict[str, int]:
    found: dict[str, int] = json.loads((Path(made["vllm_source"]) / "tokenizer.json").read_text())["model"]["vocab"]
    return found


@pytest.fixture(scope="module")
def prompts(vocabulary) -> list[list[int]]:
    """Token ids: five mixed prompts that end in a line break, and one that ends in a word."""
    draw = np.random.default_rng(11)
    mixed = [draw.integers(3, len(vocabulary), size).tolist() for size in (4, 9, 17, 33, 80)]
    return [*([*ids, vocabulary["Ċ"]] for ids in mixed), [*mixed[1], vocabulary["Ġwater"]]]


@pytest.fixture(scope="module")
def exact(made) -> Transformer:
    """In 32 bits, which is exact enough here: an error of 1e-5."""
    return Transformer(Path(made["vllm_source"]), dtype=np.float32)


@pytest.fixture(scope="module")
def truth(exact, prompts):
    """Exact log probabilities of the token after each prompt."""
    return [log_probabilities(exact.logits(ids)[-1]) for ids in prompts]


@pytest.fixture(scope="module")
def seen_llama_cpp(made, prompts, tmp_path_factory) -> dict[str, Seen]:
    pytest.importorskip("xllamacpp")
    found = {}
    for precision, path in made["gguf_paths"].items():
        # One thread: two of llama.cpp's wait for each other in a loop, which takes minutes where the cores are shared.
        flags: Flags = {"threads": 1}
        spec = LaunchSpec(
            engine="llamacpp", model=made["model"], source=path, precision=precision, flags=flags, slots=4
        )
        found[precision] = seen(spec, prompts, log=tmp_path_factory.mktemp("llamacpp") / "log")
    return found


@pytest.fixture(scope="module")
def seen_vllm(made, prompts, vllm_python, tmp_path_factory) -> Seen:
    cpu = config.gpu_profile("cpu")
    files = ModelFiles(**{key: value for key, value in made.items() if key != "gguf_paths"})
    flags = {**cpu.vllm_flags, "max-model-len": 1024}
    spec = specs.launch_spec("vllm", files, flags=flags, env=cpu.vllm_env, program=vllm_python)
    return seen(spec, prompts, log=tmp_path_factory.mktemp("vllm") / "log")


def seen(spec: LaunchSpec, prompts: list[list[int]], *, log: Path) -> Seen:
    """One launch, and all that the tests below want to know of it."""
    with (
        engines.launched(spec, log=log) as engine,
        httpx.Client(base_url=engine.url, timeout=300, trust_env=False) as http,
    ):
        # The longest answers once: how long one is does not depend on what was asked.
        cases = [(number, length) for number in range(len(CHATS)) for length in LENGTHS[: 3 if number == 0 else 2]]

        def answer(case: tuple[int, int]) -> dict[str, Any]:
            chat, length = CHATS[case[0]], case[1]
            return asked(http, "/v1/chat/completions", engine.model, messages=chat, max_tokens=length)

        with ThreadPoolExecutor(len(cases)) as together:
            answers = dict(zip(cases, together.map(answer, cases), strict=True))
        tops = [
            top_of(asked(http, "/v1/completions", engine.model, prompt=ids, max_tokens=1, logprobs=TOP))
            for ids in prompts
        ]
    return Seen(answers, tops)


def asked(http: httpx.Client, path: str, model: str, **body: Any) -> dict[str, Any]:
    """One greedy answer; nothing forbids it to end early."""
    answer = http.post(path, json={"model": model, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def top_of(answer: dict[str, Any]) -> dict[str, float]:
    """Text of the likeliest tokens with their log probability; llama.cpp answers in the form of chats."""
    found = answer["choices"][0]["logprobs"]
    if "content" in found:
        return {one["token"]: one["logprob"] for one in found["content"][0]["top_logprobs"]}
    top: dict[str, float] = found["top_logprobs"][0]
    return top


# ---------------------------------------------------------------- answers


def check_lengths(seen: Seen) -> None:
    for (_, length), answer in seen.answers.items():
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == length
        assert len(answer["choices"][0]["message"]["content"].split()) == length


def check_words(seen: Seen, successors: dict[str, str]) -> None:
    for answer in seen.answers.values():
        words = answer["choices"][0]["message"]["content"].split()
        assert all(successors[word] == after for word, after in pairwise(words))
        assert len(set(words)) == len(words)


@pytest.fixture(scope="module")
def successors(made, vocabulary) -> dict[str, str]:
    """Which word must follow which, from the seed."""
    texts = {number: text.removeprefix("Ġ") for text, number in vocabulary.items()}
    words = tuple(
        sorted(n for text, n in vocabulary.items() if text[0] == "Ġ" and text[1:].isascii() and text[1:].isalpha())
    )
    circle = Weights(models.entry(made["model"]).shape, FAMILIES[LIKE], words=words, seed=1).circle.tolist()
    return {texts[one]: texts[after] for one, after in zip(circle, [*circle[1:], circle[0]], strict=True)}


@pytest.mark.parametrize("precision", ["f16", "q8_0"])
def test_llama_cpp_gives_every_answer_its_length_and_its_words(seen_llama_cpp, precision, successors):
    check_lengths(seen_llama_cpp[precision])
    check_words(seen_llama_cpp[precision], successors)


def test_vllm_gives_every_answer_its_length_and_its_words(seen_vllm, successors):
    check_lengths(seen_vllm)
    check_words(seen_vllm, successors)


def test_an_answer_that_is_too_short_or_says_another_word_would_be_seen(successors):
    words = list(successors)[:1]
    while len(words) < 16:
        words.append(successors[words[-1]])

    def of(words: list[str], *, tokens: int = 16, reason: str = "length") -> Seen:
        choice = {"finish_reason": reason, "message": {"content": " ".join(words)}}
        return Seen({(0, 16): {"choices": [choice], "usage": {"completion_tokens": tokens}}}, [])

    check_lengths(of(words))
    check_words(of(words), successors)
    for wrong in (of(words, tokens=15), of(words, reason="stop"), of(words[:15])):
        with pytest.raises(AssertionError):
            check_lengths(wrong)
    for other in (words[:8] + words[9:], [*words, words[0]], [words[0]] * 2):
        with pytest.raises(AssertionError):
            check_words(of(other), successors)


def test_both_engines_count_the_same_prompt_tokens(seen_llama_cpp, seen_vllm):
    counts = {
        name: {key: answer["usage"]["prompt_tokens"] for key, answer in one.answers.items()}
        for name, one in {**seen_llama_cpp, "vllm": seen_vllm}.items()
    }
    assert counts["vllm"] == counts["f16"] == counts["q8_0"]
    assert len(set(counts["vllm"].values())) == len(CHATS)


# ---------------------------------------------------------------- logits


def farthest(tops: list[dict[str, float]], truth: list[Any], vocabulary: dict[str, int]) -> float:
    """The largest distance of a log probability from the exact one."""
    return max(
        abs(value - exact[vocabulary[text.replace(" ", "Ġ")]])
        for top, exact in zip(tops, truth, strict=True)
        for text, value in top.items()
    )


@pytest.mark.parametrize("precision", ["f16", "q8_0"])
def test_llama_cpp_computes_what_the_weights_say(seen_llama_cpp, precision, truth, vocabulary):
    distance = farthest(seen_llama_cpp[precision].tops, truth, vocabulary)
    print(f"llama.cpp {precision}: {distance:.4f} nats at most")
    assert 0 < distance < TOLERANCE[precision]


def test_vllm_computes_what_the_weights_say(seen_vllm, truth, vocabulary):
    distance = farthest(seen_vllm.tops, truth, vocabulary)
    print(f"vLLM bf16: {distance:.4f} nats at most")
    assert 0 < distance < TOLERANCE["vllm"]


def test_first_token_logits_of_both_engines_agree(seen_llama_cpp, seen_vllm, vocabulary):
    """Of the tokens that both name among their twenty, which must be most of them, and the first one where it leads."""
    allowed = TOLERANCE["vllm"] + TOLERANCE["f16"]
    worst = 0.0
    for ours, theirs in zip(seen_vllm.tops, seen_llama_cpp["f16"].tops, strict=True):
        common = ours.keys() & theirs.keys()
        assert len(common) >= TOP * 0.7
        worst = max(worst, *(abs(ours[text] - theirs[text]) for text in common))
        first, second = sorted(theirs.values(), reverse=True)[:2]
        if first - second > 2 * allowed:
            assert max(ours, key=ours.__getitem__) == max(theirs, key=theirs.__getitem__)
    print(f"vLLM bf16 against llama.cpp f16: {worst:.4f} nats at most")
    assert worst < allowed


def test_one_wrong_matrix_would_be_seen(exact, prompts, truth, monkeypatch):
    """Rotary pairs in the other engine's order, in one layer of 30, move logits by more than is allowed."""
    name = "model.layers.3.self_attn.q_proj.weight"
    rows = exact.tensors[name]
    monkeypatch.setitem(exact.tensors, name, rows.reshape(-1, 2, 32, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape))
    moved = [log_probabilities(exact.logits(ids)[-1]) for ids in prompts[2:4]]
    tops = [np.argsort(one)[-TOP:] for one in truth[2:4]]
    distance = max(np.abs(m[top] - t[top]).max() for m, t, top in zip(moved, truth[2:4], tops, strict=True))
    print(f"one wrong matrix: {distance:.2f} nats")
    assert distance > 2 * TOLERANCE["vllm"]


# ---------------------------------------------------------------- tokenizers


def test_both_engines_cut_texts_into_the_same_tokens(made, vllm_python):
    """llama.cpp's tokens, which its server tells, against Hugging Face's library on tokenizer.json."""
    pytest.importorskip("xllamacpp")
    done = subprocess.run(
        [vllm_python, "-c", TOKENIZE, made["vllm_source"]],
        input=json.dumps(TEXTS), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    spec = LaunchSpec(engine="llamacpp", model=made["model"], source=made["gguf_paths"]["q8_0"])
    with engines.launched(spec, log=Path(made["vllm_source"]).parent / "log") as engine:
        told = [
            httpx.post(f"{engine.url}/tokenize", json={"content": text, "parse_special": True}, trust_env=False).json()
            for text in TEXTS
        ]
    assert json.loads(done.stdout.splitlines()[-1]) == [one["tokens"] for one in told]


def test_a_name_that_is_not_there_yet_is_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(HarnessError, match="has no file"):
        specs.launch_spec("vllm", models.files(f"synth-{LIKE}"))
