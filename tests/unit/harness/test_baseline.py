"""Settings of Ollama and llama.cpp: which fit, which are tried, which win."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import baseline
from harness.baseline import Settings
from harness.config import gpu_profile
from harness.errors import EngineOutOfMemory
from harness.models.registry import entry
from harness.progress import Progress
from harness.recording import Recording, recorded
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    Estimate,
    LaunchSpec,
    Level,
    OpenLoop,
    Scenario,
    Tier,
    Workload,
)

OLLAMA = LaunchSpec(engine="ollama", model="m", source="m.gguf", env={"MINE": "1"})
WORKLOAD = Workload(prompt_words=192, output_tokens=128, is_streamed=True)
LADDER = Scenario(
    name="concurrent", title="", workload=WORKLOAD,
    load=ClosedLoop(users=(1, 50), requests_per_user=3, min_s=20, max_s=300),
)  # fmt: skip
ALONE = msgspec.structs.replace(LADDER, name="sequential", load=msgspec.structs.replace(LADDER.load, users=(1,)))
SLOW = Estimate(value=1, low=1, high=1, confidence=0.95, n=9, unit="tok/s")
MOST = Settings(slots=50, context_tokens=4096)


# ---------------------------------------------------------------- telling an engine


def test_ollama_is_told_in_its_environment() -> None:
    told = baseline.with_settings(OLLAMA, Settings(slots=8, context_tokens=2048, kv_precision="q8_0"))
    assert told.slots == 8
    assert told.env == {
        "MINE": "1",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_CONTEXT_LENGTH": "2048",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
    }
    assert told.flags == {}


def test_llamacpp_is_told_by_flags() -> None:
    spec = LaunchSpec(engine="llamacpp", model="m")
    told = baseline.with_settings(spec, Settings(slots=8, context_tokens=2048, has_flash_attention=False))
    assert told.slots == 8
    assert told.flags == {
        "flash-attn": "off", "context-tokens": 2048, "cache-type-k": "f16", "cache-type-v": "f16"
    }  # fmt: skip
    assert told.env == {}


# ---------------------------------------------------------------- how much fits


def slots(gpu: str, model: str, users: int, *, context_tokens: int = 4096, machine_gib: int = 16) -> int:
    return baseline.slots_for(
        [Level(users=1), Level(users=users)],
        profile=gpu_profile(gpu),
        shape=entry(model).shape,
        precision="f16",
        context_tokens=context_tokens,
        machine_bytes=machine_gib * 2**30,
    )


def test_each_user_has_a_slot_where_they_fit() -> None:
    assert slots("rtx4090", "qwen2.5-1.5b", 100) == 100


def test_slots_end_with_the_cards_memory() -> None:
    """Llama 3.1 8B: 16 GB of weights, 128 KiB of KV cache a token, so 512 MiB a slot of 4096; 24 GiB hold a dozen."""
    assert 6 <= slots("rtx4090", "llama-3.1-8b", 100) <= 16


def test_without_a_card_half_of_the_machines_memory_is_the_limit() -> None:
    """SmolLM2: 0.25 GiB of weights, 22.5 KiB a token, 90 MiB a slot: (8 - 0.25) GiB hold 88."""
    assert 80 <= slots("cpu", "smollm2-135m", 100, machine_gib=16) <= 88
    assert slots("cpu", "smollm2-135m", 100, machine_gib=1) in range(1, 5)


def test_there_is_always_one_slot() -> None:
    assert slots("rtx4060", "llama-3.1-8b", 100) == 1


def test_the_context_holds_the_longest_conversation() -> None:
    long = msgspec.structs.replace(WORKLOAD, prompt_words=2000, turns=3)
    assert baseline.context_for([WORKLOAD], longest=32768) == 4096
    assert baseline.context_for([WORKLOAD, long], longest=32768) == 16384  # 3 x (4000 + 128)
    assert baseline.context_for([long], longest=8192) == 8192


# ---------------------------------------------------------------- the search


def test_the_search_takes_the_highest_load_and_not_long() -> None:
    found = baseline.short([ALONE, LADDER])
    assert (found.name, found.levels) == ("concurrent", (Level(users=50),))
    assert isinstance(found.load, ClosedLoop)
    assert found.load.requests_per_user == 1
    assert found.load.min_s == baseline.SEARCH_HELD_S
    opened = msgspec.structs.replace(LADDER, load=OpenLoop(rates_per_s=(1.0, 4.0), duration_s=120))
    short = baseline.short([opened])
    assert short.levels == (Level(rate_per_s=4.0),)
    assert isinstance(short.load, OpenLoop)
    assert short.load.duration_s < 120


@pytest.fixture
def recording(tmp_path: Path) -> Any:
    with recorded(results=tmp_path, kind="compare", model="m", gpu="cpu", seed=1, scenarios=[LADDER]) as found:
        yield found


def searched(
    recording: Recording, rate: Callable[[LaunchSpec], float | None], *, tier: Tier = Tier.AS_RUN
) -> tuple[Settings | None, list[LaunchSpec]]:
    """The winner where an engine is as fast as `rate` says, and all launches. None: it runs out of memory."""
    tried: list[LaunchSpec] = []

    def measure(part: Any, work: Any, **_: object) -> list[Cell]:
        tried.append(part.spec)
        found = rate(part.spec)
        if found is None:
            raise EngineOutOfMemory("no room")
        return [
            Cell(
                engine="ollama", title="t", role=part.role, model="m", scenario=work[0].scenario.name,
                users=work[0].level.users, repeat=1, state=CellState.MEASURED,
                output_tok_s=Estimate(value=found, low=found, high=found, confidence=0.95, n=9, unit="tok/s"),
            )
        ]  # fmt: skip

    search = baseline.Search(
        OLLAMA,
        loads=[ALONE, LADDER],
        recording=recording,
        progress=Progress([], say=lambda _: None),
        measure=measure,
    )
    return search.best(MOST, tier=tier), tried


def test_at_most_four_launches_find_the_best_settings(recording: Recording) -> None:
    def rate(spec: LaunchSpec) -> float:
        return spec.slots + (20 if spec.env["OLLAMA_KV_CACHE_TYPE"] == "q8_0" else 0)

    best, tried = searched(recording, rate)
    assert best == Settings(slots=50, context_tokens=4096, kv_precision="q8_0")
    assert [(s.slots, s.env["OLLAMA_FLASH_ATTENTION"], s.env["OLLAMA_KV_CACHE_TYPE"]) for s in tried] == [
        (4, "1", "f16"), (50, "1", "f16"), (50, "0", "f16"), (50, "1", "q8_0")
    ]  # fmt: skip
    assert any("50 slots, flash attention on, KV q8_0: 70 tok/s" in note for note in recording.run.notes)


def test_the_equal_tier_never_tries_a_cache_of_eight_bits(recording: Recording) -> None:
    _, tried = searched(recording, lambda spec: float(spec.slots), tier=Tier.EQUAL)
    assert {spec.env["OLLAMA_KV_CACHE_TYPE"] for spec in tried} == {"f16"}


def test_settings_that_do_not_start_are_out_of_the_race(recording: Recording) -> None:
    best, tried = searched(recording, lambda spec: None if spec.slots > 4 else 100.0)
    assert best is not None
    assert best.slots == 4
    assert len(tried) == 4


def test_no_settings_that_start_are_no_winner(recording: Recording) -> None:
    best, tried = searched(recording, lambda _: None)
    assert best is None
    assert len(tried) == 2


def test_a_cell_with_failed_requests_ranks_nowhere_and_a_doubtful_one_last() -> None:
    found = Cell(
        engine="e", title="t", role="r", model="m", scenario="s", users=1, repeat=1, state=CellState.INVALID,
        failures=1,
        output_tok_s=Estimate(value=9, low=9, high=9, confidence=0.95, n=9, unit="tok/s"),
    )  # fmt: skip
    assert baseline.rank(found) is None
    doubtful = baseline.rank(msgspec.structs.replace(found, failures=0))
    sure = baseline.rank(msgspec.structs.replace(found, failures=0, state=CellState.MEASURED, output_tok_s=SLOW))
    assert doubtful is not None
    assert sure is not None
    assert sure > doubtful, "what counts goes before what does not, however fast"
