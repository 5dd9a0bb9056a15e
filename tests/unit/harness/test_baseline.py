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


Answer = float | CellState | None
"""Of one launch: tok/s, a state without a figure that counts, or None: it runs out of memory."""


def searched(
    recording: Recording,
    answer: Callable[[LaunchSpec, int], Answer],
    *,
    tier: Tier = Tier.AS_RUN,
    most: Settings = MOST,
    is_brief: bool = False,
) -> tuple[Settings | None, list[tuple[int, LaunchSpec]]]:
    """The winner where an engine is as fast as `answer` says of its settings and block, and all launches."""
    tried: list[tuple[int, LaunchSpec]] = []

    def measure(part: Any, work: Any, **_: object) -> list[Cell]:
        tried.append((part.block, part.spec))
        found = answer(part.spec, part.block)
        if found is None:
            raise EngineOutOfMemory("no room")
        value = found if isinstance(found, float) else 1e6
        return [
            Cell(
                engine="ollama", title="t", role=part.role, model="m", scenario=work[0].scenario.name, block=part.block,
                users=work[0].level.users, repeat=1,
                state=CellState.MEASURED if isinstance(found, float) else found,
                output_tok_s=Estimate(value=value, low=value, high=value, confidence=0.95, n=9, unit="tok/s"),
            )
        ]  # fmt: skip

    search = baseline.Search(
        OLLAMA,
        loads=[ALONE, LADDER],
        recording=recording,
        progress=Progress([], say=lambda _: None),
        measure=measure,
    )
    return search.best(most, tier=tier, is_brief=is_brief), tried


def kv_of(spec: LaunchSpec) -> str:
    return spec.env.get("OLLAMA_KV_CACHE_TYPE", "")


def test_races_find_the_best_settings_in_launches_that_take_turns(recording: Recording) -> None:
    best, tried = searched(recording, lambda spec, block: spec.slots + 20.0 * (kv_of(spec) == "q8_0") + 0.01 * block)
    assert best == Settings(slots=50, context_tokens=4096, kv_precision="q8_0")
    assert [(block, s.slots, s.env.get("OLLAMA_FLASH_ATTENTION"), kv_of(s)) for block, s in tried] == [
        (1, 1, None, ""), (1, 4, "1", "f16"), (1, 50, "1", "f16"),
        (2, 50, "1", "f16"), (2, 4, "1", "f16"), (2, 1, None, ""),
        (3, 50, "1", "f16"), (3, 50, "0", "f16"), (3, 50, "1", "q8_0"),
        (4, 50, "1", "q8_0"), (4, 50, "0", "f16"), (4, 50, "1", "f16"),
    ]  # fmt: skip
    (note,) = (note for note in recording.run.notes if "own settings" in note)
    assert "unchanged: 1.01 tok/s in 2 launches" in note
    assert "50 slots, flash attention on, KV q8_0: 70 tok/s in 2 launches, 1.40x" in note
    assert "Of them 50 slots, flash attention on, KV q8_0 won" in note


def test_the_equal_tier_never_tries_a_cache_of_eight_bits(recording: Recording) -> None:
    _, tried = searched(recording, lambda spec, _: float(spec.slots), tier=Tier.EQUAL)
    assert {kv_of(spec) for _, spec in tried} == {"", "f16"}


def test_where_nothing_is_surely_faster_the_defaults_stay_and_it_is_said(recording: Recording) -> None:
    """Four slots are faster in one launch and slower in the next: their better mean shows nothing."""

    def restless(spec: LaunchSpec, block: int) -> float:
        return (150.0 if block % 2 else 80.0) if spec.slots == 4 else 100.0 - spec.slots * (spec.slots > 4)

    best, tried = searched(recording, restless)
    assert best is None
    assert sum(spec.slots == 4 for _, spec in tried) == 3, "one more round, since it seemed to be faster"
    assert any("None of them was surely faster than the baseline unchanged" in note for note in recording.run.notes)


def test_figures_that_do_not_count_win_no_race(recording: Recording) -> None:
    best, _ = searched(recording, lambda spec, _: CellState.INVALID if spec.slots > 4 else 100.0 + spec.slots)
    assert best is not None
    assert best.slots == 4, "an INVALID cell says a million"


def test_a_baseline_without_any_figure_gives_way_to_settings_that_have_some(recording: Recording) -> None:
    best, _ = searched(recording, lambda spec, _: CellState.INVALID if spec.slots == 1 else float(spec.slots))
    assert best is not None
    assert best.slots == 50
    assert any("unchanged: no figure that counts (INVALID)" in note for note in recording.run.notes)


def test_settings_that_do_not_start_are_out_of_the_race(recording: Recording) -> None:
    best, tried = searched(recording, lambda spec, _: None if spec.slots > 4 else 100.0 * spec.slots)
    assert best is not None
    assert best.slots == 4
    assert sum(spec.slots == 50 for _, spec in tried) == 1
    assert any("50 slots, flash attention on, KV f16: did not start, or died" in note for note in recording.run.notes)


def test_no_settings_that_start_are_no_winner(recording: Recording) -> None:
    best, _ = searched(recording, lambda spec, _: 100.0 if spec.slots == 1 else None)
    assert best is None


def test_few_slots_and_many_that_are_one_setting_race_once(recording: Recording) -> None:
    one = Settings(slots=1, context_tokens=4096)
    _, tried = searched(recording, lambda spec, _: 100.0, most=one)
    assert sum(block == 1 for block, _ in tried) == 2


def test_a_brief_search_races_slots_alone(recording: Recording) -> None:
    best, tried = searched(recording, lambda spec, _: float(spec.slots), is_brief=True)
    assert best == MOST
    assert len(tried) == 2 * 3
