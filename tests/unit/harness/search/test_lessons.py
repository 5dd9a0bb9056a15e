"""Lessons: what a failure forbids from then on, and what it does not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines import failure
from harness.records import Flags, Outcome, Trial
from harness.search import Axis, MemoryNeed, Space
from harness.search.lessons import Lessons
from harness.tune.trials import failed_trial

LOGS = Path(__file__).parents[1] / "engines" / "logs"

BATCHED = (2048, 4096, 8192)
SEQS = (32, 64, 128)
CONTEXTS = (2048, 4096)
SPACE = Space(
    axes=(
        Axis(flag="max-num-batched-tokens", steps=BATCHED),
        Axis(flag="max-num-seqs", steps=SEQS),
        Axis(flag="max-model-len", steps=CONTEXTS),
        Axis(flag="gpu-memory-utilization", steps=(None, 0.95)),
    ),
    memory=MemoryNeed(
        memory_bytes=24 * 2**30,
        fixed_bytes=16 * 2**30,
        batched_token_bytes=2**17,
        sequence_bytes=2**20,
        kv_token_bytes=2**17,
    ),
)
any_flags = st.builds(SPACE.at, st.integers(0, SPACE.size - 1)).map(SPACE.flags_at)


def flags_of(batched: int, seqs: int, context: int = 2048, share: float | None = None) -> Flags:
    found: Flags = {"max-num-batched-tokens": batched, "max-num-seqs": seqs, "max-model-len": context}
    return found if share is None else {**found, "gpu-memory-utilization": share}


def after(flags: Flags, outcome: Outcome, **more: object) -> Lessons:
    lessons = Lessons(SPACE)
    lessons.learn(Trial(number=1, flags=flags, outcome=outcome, **more))  # type: ignore[arg-type]
    return lessons


@pytest.mark.parametrize(
    "outcome",
    [Outcome.OUT_OF_MEMORY, Outcome.CONTEXT_TOO_LONG, Outcome.BAD_FLAG, Outcome.CRASHED, Outcome.HUNG],
)
@given(flags=any_flags)
def test_what_failed_is_never_worth_a_launch_again(outcome: Outcome, flags: Flags) -> None:
    assert after(flags, outcome).reason(flags) is not None


@pytest.mark.parametrize("outcome", [Outcome.MEASURED, Outcome.INVALID, Outcome.STOPPED])
def test_what_was_measured_forbids_nothing(outcome: Outcome) -> None:
    assert after(flags_of(4096, 64), outcome).reason(flags_of(4096, 64)) is None


# ---------------------------------------------------------------- memory


@given(wall=any_flags, other=any_flags)
def test_beyond_a_wall_nothing_is_tried_and_below_it_all_is(wall: Flags, other: Flags) -> None:
    lessons = after(wall, Outcome.OUT_OF_MEMORY)
    is_beyond = wall.get("gpu-memory-utilization") == other.get("gpu-memory-utilization") and all(
        other[name] >= wall[name]  # type: ignore[operator]
        for name in ("max-num-batched-tokens", "max-num-seqs")
    )
    assert (lessons.reason(other) is not None) is is_beyond


def test_at_the_start_nobody_knows_whether_a_larger_share_helps() -> None:
    assert after(flags_of(4096, 64), Outcome.OUT_OF_MEMORY).reason(flags_of(4096, 64, share=0.95)) is None


def test_under_load_a_larger_share_leaves_less() -> None:
    lessons = after(flags_of(4096, 64), Outcome.OUT_OF_MEMORY, launch_s=90.0)
    assert lessons.reason(flags_of(4096, 64, share=0.95)) is not None
    lessons = after(flags_of(4096, 64, share=0.95), Outcome.OUT_OF_MEMORY, launch_s=90.0)
    assert lessons.reason(flags_of(4096, 64)) is None


def test_a_margin_cuts_what_saves_less_than_was_short() -> None:
    # 2048 tokens less save 0.25 GiB, 4096 less save 0.5 GiB.
    lessons = after(flags_of(8192, 64), Outcome.OUT_OF_MEMORY, constraints={"memory_short_gib": 0.6})
    assert lessons.reason(flags_of(4096, 64)) is not None
    assert lessons.reason(flags_of(2048, 64)) is None


# ---------------------------------------------------------------- contexts


def test_a_context_is_cut_to_the_length_that_fits() -> None:
    lessons = after(flags_of(4096, 64, 4096), Outcome.CONTEXT_TOO_LONG, fits_tokens=3000)
    assert lessons.mended(flags_of(2048, 32, 4096))["max-model-len"] == 2992
    assert lessons.mended(flags_of(2048, 32, 2048))["max-model-len"] == 2048


def test_the_shortest_of_several_that_fit_counts() -> None:
    lessons = after(flags_of(4096, 64, 4096), Outcome.CONTEXT_TOO_LONG, fits_tokens=3000)
    lessons.learn(Trial(number=2, flags=flags_of(8192, 64, 4096), outcome=Outcome.CONTEXT_TOO_LONG, fits_tokens=2500))
    assert lessons.mended(flags_of(2048, 32, 4096))["max-model-len"] == 2496


def test_with_more_room_for_the_cache_the_context_stays() -> None:
    lessons = after(flags_of(4096, 64, 4096), Outcome.CONTEXT_TOO_LONG, fits_tokens=3000)
    for more in ({"gpu-memory-utilization": 0.95}, {"kv-cache-dtype": "fp8"}):
        assert lessons.mended({**flags_of(4096, 64, 4096), **more})["max-model-len"] == 4096


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("reason", "flags", "other", "is_cut"),
    [
        ("error: unrecognized arguments: --new-flag 4", {"new-flag": 4}, {"new-flag": 8}, True),
        ("vLLM 0.26 does not know the flag --new-flag", {"new-flag": 4}, {"new-flag": 8}, True),
        ("error: unrecognized arguments: --no-x", {"x": False, "y": 1}, {"x": False}, True),
        ("error: unrecognized arguments: --no-x", {"x": False, "y": 1}, {"y": 1}, False),
        ("error: argument --kind: invalid choice: 'a'", {"kind": "a", "y": 1}, {"kind": "a", "y": 2}, True),
        ("error: argument --kind: invalid choice: 'a'", {"kind": "a"}, {"kind": "b"}, False),
        ("error: argument --kind/-k: invalid choice: 'a'", {"kind": "a"}, {"kind": "a", "y": 1}, True),
        ("Value error, x must not be y", {"x": 1, "y": 1}, {"x": 1, "y": 2}, False),
        ("vLLM 0.26 does not know the flag --a 4 --new-flag 5 (log: l)", {"new-flag": 5}, {"new-flag": 8}, True),
    ],
)
def test_a_refusal_cuts_what_it_names(reason: str, flags: Flags, other: Flags, *, is_cut: bool) -> None:
    lessons = after(flags, Outcome.BAD_FLAG, reason=reason)
    assert (lessons.reason(other) is not None) is is_cut


@pytest.mark.parametrize(
    ("log", "flags", "other", "is_cut"),
    [
        ("vllm_invalid_choice", {"kv-cache-dtype": "fp99"}, {"kv-cache-dtype": "fp99", "y": 1}, True),
        ("vllm_invalid_choice", {"kv-cache-dtype": "fp99"}, {"kv-cache-dtype": "fp8"}, False),
        ("vllm_invalid_value", {"max-num-seqs": "many"}, {"max-num-seqs": "many", "y": 1}, True),
        ("vllm_unknown_flag", {"max-num-sequences": 4}, {"max-num-sequences": 8}, True),
    ],
)
def test_a_refusal_of_the_real_vllm_is_understood(log: str, flags: Flags, other: Flags, *, is_cut: bool) -> None:
    """Not vLLM's log reaches the lessons but what was made of it, and that was not understood."""
    error = failure("vLLM 0.32.0", (LOGS / f"{log}.txt").read_text(), returncode=2, log=Path("engine.log"))
    lessons = Lessons(SPACE)
    lessons.learn(failed_trial(1, {**flags, "x": 1}, error, wall_s=1.0))
    assert (lessons.reason(other) is not None) is is_cut


def test_a_value_that_has_worked_is_not_given_up_for_one_refusal() -> None:
    lessons = Lessons(SPACE)
    lessons.learn(Trial(number=1, flags={"kind": "a"}, outcome=Outcome.MEASURED))
    lessons.learn(
        Trial(number=2, flags={"kind": "a", "y": 1}, outcome=Outcome.BAD_FLAG, reason="argument --kind: invalid")
    )
    assert lessons.reason({"kind": "a", "y": 2}) is None


# ---------------------------------------------------------------- neighbourhoods


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.HUNG, Outcome.OUT_OF_MEMORY])
def test_where_an_engine_died_is_remembered_as_rough(outcome: Outcome) -> None:
    assert after(flags_of(4096, 64), outcome).rough == [(1, 1, 0, 0)]


def test_a_refusal_is_not_rough() -> None:
    assert after(flags_of(4096, 64), Outcome.BAD_FLAG).rough == []
