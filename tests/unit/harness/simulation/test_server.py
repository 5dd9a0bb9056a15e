"""The simulated vLLM as a server, part by part: its command line, its questions, its steps on a clock of ours."""

import heapq
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engines.flags import Install, flag_schema, known_flags
from harness.records import CrashRegion, EngineMetric, Simulation
from harness.simulation import Crashed, Machine, build
from harness.simulation.blocks import BlockPool, block_keys
from harness.simulation.server import options, program, questions, told
from harness.simulation.server.live import Live
from harness.simulation.server.options import Options
from harness.simulation.server.questions import CHAT, COMPLETION, TextSequence
from harness.simulation.server.standin import stand_in
from harness.simulation.settings import MODELLED, WITHOUT_EFFECT
from harness.telemetry.metrics import metrics
from harness.wire.ticker import Waits

Even = Callable[..., Simulation]


# ---------------------------------------------------------------- the version


@pytest.mark.parametrize("speed", [1.0, 10.0, 2.5, 0.25])
def test_the_version_tells_the_card_and_the_pace(speed: float) -> None:
    version = build.version_of("h100", speed=speed)
    assert build.is_simulated(version)
    assert build.simulated_card(version) == "h100"
    assert build.simulated_speed(version) == speed


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu", "0.26.0rc1+cu129.simulated", ""])
def test_no_real_version_is_taken_for_a_simulated_one(version: str) -> None:
    assert not build.is_simulated(version)
    assert build.simulated_card(version) is None


# ---------------------------------------------------------------- the command line


def test_all_that_the_simulation_knows_is_a_flag_and_nothing_else() -> None:
    known = {name for action in options.parser()._actions for name in action.option_strings if name.startswith("--")}
    assert known == {f"--{name}" for name in MODELLED | WITHOUT_EFFECT} | {
        "--help",
        *(f"--no-{name}" for name in options.SWITCHES),
    }
    told_kinds = options.SWITCHES | options.COUNTS | options.NUMBERS | options.LISTS | options.CHOICES.keys()
    assert told_kinds <= MODELLED | WITHOUT_EFFECT


def test_a_command_line_is_read_as_vllm_reads_it() -> None:
    words = "--model m --max_num_seqs 8 --max-num-batched-tokens=8k --no-enable-prefix-caching --served-model-name a b"
    words += " --compilation-config.cudagraph_mode NONE --compilation-config.mode=3 --cudagraph-capture-sizes 1 2 -O 0"
    found = options.given(words.split())
    assert found.names == ("a", "b")
    assert json.loads(str(found.flags.pop("compilation-config"))) == {"cudagraph_mode": "NONE", "mode": "3"}
    assert found.flags == {
        "model": "m",
        "max-num-seqs": 8,
        "max-num-batched-tokens": 8000,
        "enable-prefix-caching": False,
        "served-model-name": "a b",
        "cudagraph-capture-sizes": "1 2",
        "optimization-level": "0",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-num-sequences", "8"], "api_server.py: error: unrecognized arguments: --max-num-sequences 8"),
        (["--max-num-seq", "8"], "unrecognized arguments"),
        (["--max-num-seqs", "many"], "api_server.py: error: argument --max-num-seqs: invalid int value: 'many'"),
        (["--kv-cache-dtype", "fp99"], "argument --kv-cache-dtype: invalid choice: 'fp99' (choose from 'auto', "),
    ],
)
def test_what_vllm_refuses_is_refused_in_its_words(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        options.given(words)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_the_harness_reads_the_flags_of_the_stand_in(tmp_path: Path, even: Even) -> None:
    """By --help and by its argparse, as those of vLLM."""
    install = Install(
        python=stand_in(Options(simulation=even()), tmp_path / "vllm"), version="0.32.0+simulated.rtx4090"
    )
    assert {"model", "max-num-seqs", "no-enable-prefix-caching"} <= known_flags(install, cache=tmp_path)
    schema = flag_schema(install, cache=tmp_path)
    assert schema.keys() == MODELLED | WITHOUT_EFFECT | {"help"}
    kinds = {name: schema[name].kind for name in ("max-num-seqs", "enforce-eager", "gpu-memory-utilization", "dtype")}
    assert kinds == {"max-num-seqs": "int", "enforce-eager": "bool", "gpu-memory-utilization": "float", "dtype": "str"}
    assert schema["compilation-config"].kind == "json"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "rtx4091", "--model-shape", "qwen2.5-1.5b"], "rtx4090"),
        (["--gpu", "rtx4090", "--model-shape", "qwen"], "qwen2.5-1.5b"),
        (["--gpu", "cpu", "--model-shape", "qwen2.5-1.5b"], "no card that vLLM can be simulated on"),
    ],
)
def test_a_card_or_model_that_is_none_exits_with_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(words) == 2
    assert said in capsys.readouterr().err


def test_the_command_writes_a_stand_in(tmp_path: Path) -> None:
    words = ["--gpu", "rtx4090", "--model-shape", "qwen2.5-1.5b", "--speed", "10", "--stand-in", str(tmp_path / "v")]
    done = subprocess.run(
        [sys.executable, "-m", "harness.simulation.server", *words], capture_output=True, text=True, check=True
    )
    python = done.stdout.strip()
    asked = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print(m.version('vllm'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert asked.stdout.strip() == "0.32.0+simulated.rtx4090.x10"


# ---------------------------------------------------------------- questions


def asked(path: str = CHAT, *, context: int = 100, **payload: Any) -> questions.Question:
    return questions.question(path, payload, names=["m"], context_tokens=context)


def test_every_word_and_sign_is_a_token() -> None:
    found = asked(messages=[{"role": "user", "content": "Is it so? Yes."}], max_tokens=3)
    assert len(found.prompt) == 6 + 3 + 2, "its tokens, three marks around it, two that open the answer"
    assert found.pieces == [" the", " river", " ran"]
    assert found.reason == "length"
    assert len(asked(COMPLETION, prompt="Is it so?").prompt) == 4
    assert len(asked(COMPLETION, prompt=[7, 8, 9]).prompt) == 3
    assert len(asked(COMPLETION, prompt="a").pieces) == 16
    assert len(asked(messages=[{"role": "user", "content": "a"}]).pieces) == 100 - 6, "all that is left of the context"


def test_a_stop_string_ends_the_text_before_it_and_counts_its_tokens() -> None:
    found = asked(COMPLETION, prompt="a", max_tokens=20, stop=["old", "an ov"])
    assert "".join(found.pieces) == " the river r"
    assert len(found.pieces) == 4
    assert found.reason == "stop"


@pytest.mark.parametrize(
    ("payload", "status", "said"),
    [
        ({"model": "other", "prompt": "a"}, 404, "The model `other` does not exist."),
        ({"prompt": "a " * 100}, 400, "maximum context length is 100 tokens. However, your prompt contains at least"),
        ({"prompt": "a " * 50, "max_tokens": 51}, 400, "you requested 51 output tokens and your prompt contains 50"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens must be at least 1, got 0."),
        ({"prompt": "a", "max_tokens": "5"}, 400, "valid integer"),
        ({"prompt": "a", "stop": ""}, 400, "stop cannot contain an empty string."),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, 400, "`stream=True`"),
        ({"prompt": ["a", "b"], "n": 2}, 400, "one answer"),
        ({"prompt": [[1], [2]]}, 400, "non-empty"),
        ({}, 400, "non-empty"),
    ],
)
def test_a_request_is_refused_as_vllm_refuses_it(payload: dict[str, Any], status: int, said: str) -> None:
    with pytest.raises(questions.Refused) as caught:
        asked(COMPLETION, **payload)
    assert caught.value.status == status
    assert said in caught.value.message


def test_prompts_share_the_blocks_before_they_differ() -> None:
    """Also the block in which a prompt ends and its answer begins, where the next prompt repeats both."""
    said = [{"role": "user", "content": "word " * 30}]
    first = asked(messages=said, max_tokens=20).sequence(block_tokens=16)
    answer = "".join(asked(messages=said, max_tokens=20).pieces)
    turns = [*said, {"role": "assistant", "content": answer}, {"role": "user", "content": "more"}]
    second = asked(messages=turns, max_tokens=1).sequence(block_tokens=16)
    other = asked(messages=[{"role": "user", "content": "word " * 29 + "end"}], max_tokens=1).sequence(block_tokens=16)

    def keys(sequence: TextSequence, blocks: int) -> list[object]:
        return list(block_keys(sequence.whole, block_tokens=16, blocks=blocks))

    first.generated = 20
    assert len(keys(first, 99)) == (35 + 20) // 16
    assert keys(first, 3) == keys(second, 3)
    assert keys(first, 1) == keys(other, 1)
    assert keys(first, 2)[1] != keys(other, 2)[1:]


def test_a_cache_forgets_only_while_nobody_holds_any_of_it() -> None:
    pool = BlockPool(4)
    pool.take(1)
    held = pool.keep(iter([("a", 0)]))
    assert pool.forget() is False
    pool.release(held, blank=0)
    assert pool.kept == 1
    assert pool.forget() is True
    assert pool.kept == 0


# ---------------------------------------------------------------- steps


class FreeTicker:
    """Does at once what is due, in the order in which it is."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Waits, Callable[[], None]]] = []
        self._order = itertools.count()

    def run(self, answer: Waits, on_end: Callable[[], None]) -> None:
        at_s = next(answer, None)
        if at_s is None:
            on_end()
        else:
            heapq.heappush(self._due, (at_s, next(self._order), answer, on_end))

    def pump(self, times: int | None = None) -> None:
        """So many of them; all without a number."""
        while self._due and times != 0:
            _, _, answer, on_end = heapq.heappop(self._due)
            self.run(answer, on_end)
            times = None if times is None else times - 1


class Counting:
    """A reader that counts."""

    def __init__(self) -> None:
        self.tokens, self.has_failed = 0, False

    def token(self) -> None:
        self.tokens += 1

    def fail(self) -> None:
        self.has_failed = True


def live(simulation: Simulation, **flags: Any) -> tuple[Live, FreeTicker, list[Crashed]]:
    """An engine whose time passes as we want it."""
    server = Machine(simulation).launch({name.replace("_", "-"): flags[name] for name in flags}, precision="bf16")
    ticker, deaths = FreeTicker(), list[Crashed]()
    return Live(server, speed=1e6, ticker=ticker, on_death=deaths.append), ticker, deaths  # type: ignore[arg-type] # the ticker


def sequence(tokens: int, *, words: int = 10, name: str = "a") -> TextSequence:
    return TextSequence([name] * words, answer_tokens=tokens, block_tokens=16)


def test_two_users_share_steps(even: Even) -> None:
    engine, ticker, _ = live(even())
    readers = [Counting(), Counting()]
    for reader, tokens in zip(readers, (50, 30), strict=True):
        engine.submit(sequence(tokens), reader, received_s=0.0)
    ticker.pump()
    assert [reader.tokens for reader in readers] == [50, 30]
    assert 50 <= engine.scheduler.number <= 52
    assert (engine.prompt_tokens, engine.output_tokens) == (20, 80)
    assert engine.scheduler.is_idle


def test_an_abort_in_mid_step_frees_its_blocks_and_leaves_the_others_alone(even: Even) -> None:
    engine, ticker, _ = live(even())
    gone, stays, late = sequence(500), sequence(40), sequence(5)
    readers = {one: Counting() for one in (gone, stays, late)}
    for one in (gone, stays):
        engine.submit(one, readers[one], received_s=0.0)
    ticker.pump(15)
    assert 0 < readers[gone].tokens < 40
    engine.abort(gone)
    engine.submit(late, readers[late], received_s=0.0)
    engine.abort(late)
    seen = readers[gone].tokens
    ticker.pump()
    assert readers[gone].tokens == seen
    assert readers[stays].tokens == 40
    assert readers[late].tokens == 0
    assert engine.output_tokens <= seen + 1 + 40, "only the step under way counted it"
    assert engine.scheduler.is_idle
    assert engine.scheduler.pool.held == 0


def test_preempted_answers_come_whole(even: Even) -> None:
    engine, ticker, _ = live(even(), max_model_len=512, kv_cache_memory_bytes=40 * 16 * 28672)
    readers = [Counting() for _ in range(3)]
    for number, reader in enumerate(readers):
        engine.submit(sequence(480, name=str(number)), reader, received_s=0.0)
    ticker.pump()
    assert [reader.tokens for reader in readers] == [480] * 3
    assert engine.scheduler.preemptions > 0
    assert (engine.prompt_tokens, engine.output_tokens) == (30, 1440)
    assert engine.scheduler.pool.held == 0


def test_an_engine_that_dies_tells_all_its_readers(even: Even) -> None:
    crash = CrashRegion(flags={}, users=2, log_text="torch.OutOfMemoryError: CUDA out of memory.")
    engine, ticker, deaths = live(even(crashes=(crash,)))
    readers = [Counting(), Counting()]
    for reader in readers:
        engine.submit(sequence(50), reader, received_s=0.0)
    ticker.pump()
    assert [reader.has_failed for reader in readers] == [True, True]
    assert [death.log_text for death in deaths] == [crash.log_text]


def test_telemetry_reads_its_metrics(even: Even) -> None:
    engine, ticker, _ = live(even())
    engine.submit(sequence(1000, words=100), Counting(), received_s=0.0)
    ticker.pump(30)
    engine.submit(sequence(1000, words=100), Counting(), received_s=0.0)
    ticker.pump(30)
    found = metrics(told.metrics(engine, model="m"), dialect="vllm")
    assert found.keys() == {metric.value for metric in EngineMetric}
    assert found[EngineMetric.RUNNING] == 2
    assert found[EngineMetric.WAITING] == 0
    assert 0 < found[EngineMetric.KV_USED_RATIO] < 1
    assert found[EngineMetric.PREFIX_QUERIES] == found[EngineMetric.PROMPT_TOKENS] == 200
    assert found[EngineMetric.PREFIX_HITS] == 96
    assert found[EngineMetric.OUTPUT_TOKENS] == engine.output_tokens > 50
