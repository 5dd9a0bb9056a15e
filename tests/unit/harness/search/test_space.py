"""Spaces: places on ladders and the flags that they are, and the space of a card, a model and a load."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config
from harness.engines import violations
from harness.engines.flags import names_only
from harness.errors import UsageError
from harness.models.registry import entry
from harness.presets import preset_path, write_preset
from harness.records import Flags, FlagValue, GpuProfile, KnownFlag, Preset
from harness.search import (
    ALLOWABLE,
    Aim,
    Axis,
    Cost,
    Demand,
    Space,
    aim_of,
    demand_of,
    memory_need,
    presets_of,
    seeds_for,
    space_for,
)
from harness.search.axes import accepts

EVERY_FLAG = names_only(
    [
        *("max-num-batched-tokens", "max-num-seqs", "max-model-len", "max-num-active-seqs", "gpu-memory-utilization"),
        *("kv-cache-memory-bytes", "kv-cache-dtype", "enable-prefix-caching", "performance-mode", "async-scheduling"),
        *("stream-interval", "compilation-config", "optimization-level", "block-size", "speculative-config"),
        *("long-prefill-token-threshold", "quantization", "enable-chunked-prefill", "max-cudagraph-capture-size"),
    ]
)
LADDERS = Space(
    axes=(
        Axis(flag="max-num-seqs", steps=(32, 64, 128), cost=Cost.COMPILE),
        Axis(flag="gpu-memory-utilization", steps=(None, 0.95)),
        Axis(flag="performance-mode", steps=(None, "throughput"), is_ordered=False),
    ),
    base={"enforce-eager": True},
    defaults={"max-num-seqs": 1024},
)
CARDS = [name for name, profile in config.gpu_profiles().items() if not profile.is_predict_only]
MODELS = ["smollm2-135m", "qwen2.5-1.5b", "llama-3.2-3b", "llama-3.1-8b"]


def demand(*, most_users: int = 100, needed_tokens: int = 600, prompt_tokens: int = 400) -> Demand:
    return Demand(most_users=most_users, prompt_tokens=prompt_tokens, output_tokens=128, needed_tokens=needed_tokens)


def space_of(
    card: str = "rtx4090",
    model: str = "qwen2.5-1.5b",
    *,
    schema: dict[str, KnownFlag] = EVERY_FLAG,
    wanted: Demand | None = None,
    allow: tuple[str, ...] = (),
    is_shared: bool = False,
    precision: str = "bf16",
) -> Space:
    return space_for(
        config.gpu_profile(card),
        entry(model).shape,
        precision=precision,
        schema=schema,
        demand=wanted or demand(),
        allow=allow,
        is_shared=is_shared,
    )


def ladder(space: Space, flag: str) -> tuple[FlagValue | None, ...]:
    return next((axis.steps for axis in space.axes if axis.flag == flag), ())


# ---------------------------------------------------------------- places


def test_a_place_is_flags_on_top_of_the_base_and_none_is_not_sent() -> None:
    assert LADDERS.flags_at((1, 0, 1)) == {"enforce-eager": True, "max-num-seqs": 64, "performance-mode": "throughput"}


def test_all_places_are_counted_once() -> None:
    everywhere = list(LADDERS.everywhere())
    assert len(everywhere) == len(set(everywhere)) == LADDERS.size == 12


@settings(deadline=None)  # time says how busy the machine is
@given(number=st.integers(0, 11))
def test_flags_lead_back_to_their_place(number: int) -> None:
    places = LADDERS.at(number)
    assert LADDERS.places_of(LADDERS.flags_at(places)) == places


@pytest.mark.parametrize(
    ("flags", "places"),
    [
        ({"max-num-seqs": 127}, (1, 0, 0)),
        ({"max-num-seqs": 5}, (0, 0, 0)),
        ({"max-num-seqs": 64, "gpu-memory-utilization": 0.97}, (1, 1, 0)),
        ({"max-num-seqs": 64, "gpu-memory-utilization": 0.93}, (1, 0, 0)),
        ({"performance-mode": "interactivity"}, (2, 0, 0)),
        ({}, (2, 0, 0)),
    ],
)
def test_other_flags_are_at_the_nearest_step_below(flags: Flags, places: tuple[int, ...]) -> None:
    assert LADDERS.places_of(flags) == places


def test_candidates_share_what_is_compiled_where_no_costly_flag_differs() -> None:
    assert LADDERS.compile_key((1, 0, 0)) == LADDERS.compile_key((1, 1, 1)) != LADDERS.compile_key((2, 0, 0))


# ---------------------------------------------------------------- which axes apply


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("model", MODELS)
def test_every_card_has_the_three_axes_that_always_count_or_says_what_would_fit(card: str, model: str) -> None:
    if (card, model) == ("rtx4060", "llama-3.1-8b"):
        with pytest.raises(UsageError) as caught:
            space_of(card, model)
        assert "what would fit" in caught.value.hint
        return
    space = space_of(card, model)
    assert [axis.flag for axis in space.axes[:3]] == ["max-num-batched-tokens", "max-num-seqs", "max-model-len"]
    assert all(axis.steps for axis in space.axes)


def test_an_unknown_flag_has_no_axis() -> None:
    space = space_of(schema=names_only(["max-num-batched-tokens", "max-num-seqs", "max-model-len"]))
    assert len(space.axes) == 3


@settings(deadline=None)  # time says how busy the machine is
@given(names=st.sets(st.sampled_from(sorted(EVERY_FLAG))), allow=st.sets(st.sampled_from(sorted(ALLOWABLE))))
def test_no_candidate_has_a_flag_that_vllm_does_not_know(names: set[str], allow: set[str]) -> None:
    space = space_of(schema=names_only(names), allow=tuple(allow))
    assert {axis.flag for axis in space.axes} <= names


def test_a_value_that_vllm_does_not_take_is_no_step() -> None:
    schema = dict(EVERY_FLAG)
    schema["stream-interval"] = KnownFlag(name="stream-interval", kind="int", choices=(1, 4))
    assert ladder(space_of(schema=schema, allow=("wide",)), "stream-interval") == (None, 4)


def test_an_axis_of_which_only_the_default_is_left_is_none() -> None:
    schema = {**EVERY_FLAG, "performance-mode": KnownFlag(name="performance-mode", kind="str", choices=("balanced",))}
    assert ladder(space_of(schema=schema), "performance-mode") == ()


@pytest.mark.parametrize(
    ("known", "value", "is_taken"),
    [
        (KnownFlag(name="x", kind="bool"), False, True),
        (KnownFlag(name="x", kind="bool"), 1, False),
        (KnownFlag(name="x", kind="int"), True, False),
        (KnownFlag(name="x", kind="int", choices=(8, 16)), 16, True),
        (KnownFlag(name="x", kind="int", choices=(8, 16)), 32, False),
        (KnownFlag(name="x", kind=""), False, True),
    ],
)
def test_a_value_is_held_against_the_schema(known: KnownFlag, value: FlagValue, *, is_taken: bool) -> None:
    assert accepts({"x": known}, "x", value) is is_taken


def test_a_context_holds_the_load_and_no_more_than_the_model_knows() -> None:
    assert ladder(space_of(wanted=demand(needed_tokens=3000)), "max-model-len") == (4096, 8192)
    assert ladder(space_of(wanted=demand(needed_tokens=9000)), "max-model-len") == (9216,)
    assert ladder(space_of(model="smollm2-135m", wanted=demand(needed_tokens=8100)), "max-model-len") == (8192,)


def test_what_changes_answers_is_only_searched_when_asked_for() -> None:
    risky = {"kv-cache-dtype", "speculative-config", "quantization"}
    assert not risky & {axis.flag for axis in space_of().axes}
    everything = space_of(allow=("kv-fp8", "speculation", "quantisation"))
    assert risky <= {axis.flag for axis in everything.axes}


def test_a_card_without_such_units_is_not_offered_eight_bits() -> None:
    space = space_of("rtx3090", allow=("kv-fp8", "quantisation"))
    assert not {"kv-cache-dtype", "quantization"} & {axis.flag for axis in space.axes}


def test_an_unknown_permission_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing called 'kv'"):
        space_of(allow=("kv",))


def test_more_memory_is_tried_where_the_load_fills_the_cache() -> None:
    assert ladder(space_of("rtx4090", "llama-3.1-8b"), "gpu-memory-utilization") == (None, 0.95)
    assert ladder(space_of("h100", "qwen2.5-1.5b"), "gpu-memory-utilization") == ()


def test_beside_a_desktop_the_cache_is_asked_for_in_bytes() -> None:
    space = space_of("rtx4090", "llama-3.1-8b", is_shared=True)
    assert ladder(space, "gpu-memory-utilization") == ()
    sizes = ladder(space, "kv-cache-memory-bytes")
    assert sizes
    assert all(isinstance(size, int) and 0 < size < 6 * 2**30 for size in sizes)


def test_a_shared_prefix_keeps_its_cache() -> None:
    shared = msgspec.structs.replace(demand(), is_prefix_shared=True)
    assert ladder(space_of(wanted=shared), "enable-prefix-caching") == ()
    assert ladder(space_of(), "enable-prefix-caching") == (None, False)


def test_flags_of_second_rank_are_searched_when_asked_for() -> None:
    wide = {"enable-chunked-prefill", "max-cudagraph-capture-size", "stream-interval", "async-scheduling"}
    assert not wide & {axis.flag for axis in space_of().axes}
    assert wide <= {axis.flag for axis in space_of(allow=("wide",)).axes}


def test_whole_prompts_are_only_tried_where_a_batch_holds_one() -> None:
    long = demand(needed_tokens=17_000, prompt_tokens=16_000)  # the largest batch of the card is 16,384
    assert ladder(space_of(wanted=long, allow=("wide",)), "enable-chunked-prefill") == ()


def test_without_chunks_only_batches_that_hold_the_context_are_left() -> None:
    names = ["max-num-batched-tokens", "max-num-seqs", "max-model-len", "enable-chunked-prefill"]
    space = space_of(schema=names_only(names), allow=("wide",))
    left = {
        (flags["max-num-batched-tokens"], flags["max-model-len"])
        for flags in map(space.flags_at, space.everywhere())
        if flags.get("enable-chunked-prefill") is False
        and not violations(flags, model_max_len=32768, needed_tokens=600)
    }
    assert left == {
        (batch, context) for batch in (2048, 4096, 8192, 16384) for context in (2048, 4096, 8192) if batch >= context
    }


def test_a_cpu_captures_no_graphs() -> None:
    assert ladder(space_of("cpu", "smollm2-135m", allow=("wide",)), "max-cudagraph-capture-size") == ()


# ---------------------------------------------------------------- what cannot fit


def test_a_model_that_fits_nowhere_is_refused_with_what_would() -> None:
    with pytest.raises(UsageError, match=r"no setting fits: the weights in bf16 take 15\.0 of 8 GiB") as caught:
        space_of("rtx4060", "llama-3.1-8b")
    assert caught.value.hint == "what would fit: int4 weights"


def test_a_request_that_does_not_fit_is_refused_with_the_length_that_would() -> None:
    with pytest.raises(UsageError, match="no setting fits") as caught:
        space_of("rtx4090", "llama-3.1-8b", wanted=demand(needed_tokens=100_000))
    assert "requests of" in caught.value.hint
    assert "int4 weights" in caught.value.hint


def test_a_request_longer_than_the_models_context_is_refused() -> None:
    with pytest.raises(UsageError, match="the model's context is 8,192"):
        space_of(model="smollm2-135m", wanted=demand(needed_tokens=9000))


def test_more_batch_leaves_less_cache() -> None:
    need = memory_need(config.gpu_profile("rtx4090"), entry("llama-3.1-8b").shape, "bf16")
    assert need is not None
    small: Flags = {"max-num-batched-tokens": 2048, "max-num-seqs": 32}
    assert need.kv_bytes(small) > need.kv_bytes({**small, "max-num-batched-tokens": 16384})
    assert need.kv_bytes({**small, "gpu-memory-utilization": 0.95}) > need.kv_bytes(small)
    assert need.kv_bytes({**small, "kv-cache-memory-bytes": 2**30}) == 2**30


def test_on_a_cpu_nothing_is_cut_by_a_plan() -> None:
    assert space_of("cpu", "smollm2-135m").memory is None


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize("card", [card for card in CARDS if card != "rtx4060"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("users", [1, 20, 100])
def test_all_seeds_lie_on_the_ladders_once_and_vllm_takes_the_first(card: str, model: str, users: int) -> None:
    wanted = demand(most_users=users)
    space = space_of(card, model, wanted=wanted)
    seeds = seeds_for(space, config.gpu_profile(card), demand=wanted)
    everywhere = [space.flags_at(places) for places in space.everywhere()]
    assert all(seed.flags in everywhere for seed in seeds)
    assert len({str(seed.flags) for seed in seeds}) == len(seeds)
    longest = entry(model).shape.max_context_tokens
    assert violations(seeds[0].flags, model_max_len=longest, needed_tokens=600) == []


def test_the_plan_proposes_the_fewest_sequences_that_hold_the_load() -> None:
    wanted = demand(most_users=50)
    first = seeds_for(space_of(wanted=wanted), config.gpu_profile("rtx4090"), demand=wanted)[0]
    assert (first.origin, first.flags["max-num-seqs"], first.flags["max-model-len"]) == ("memory plan", 64, 2048)


def proposed(
    card: str = "h100",
    model: str = "qwen2.5-1.5b",
    *,
    aim: Aim = Aim.ANSWERS,
    allow: tuple[str, ...] = (),
    users: int = 100,
    prompt_tokens: int = 273,
) -> Flags:
    wanted = demand(most_users=users, prompt_tokens=prompt_tokens, needed_tokens=prompt_tokens + 160)
    wanted = msgspec.structs.replace(wanted, aim=aim)
    space = space_of(card, model, wanted=wanted, allow=allow)
    return seeds_for(space, config.gpu_profile(card), demand=wanted)[0].flags


def test_first_tokens_get_smaller_batches_than_whole_answers() -> None:
    # 16 times the 164 tokens at which an RTX 4090's arithmetic outweighs its reads; one prompt beside 100 users is 373.
    batches = {aim: proposed("rtx4090", aim=aim)["max-num-batched-tokens"] for aim in Aim}
    assert batches == {Aim.ANSWERS: 4096, Aim.FIRST_TOKENS: 2048, Aim.GAPS: 2048}


def test_of_first_tokens_a_larger_batch_is_tried_next() -> None:
    wanted = msgspec.structs.replace(demand(), aim=Aim.FIRST_TOKENS)
    seeds = seeds_for(space_of(wanted=wanted), config.gpu_profile("rtx4090"), demand=wanted)
    assert [seed.flags["max-num-batched-tokens"] for seed in seeds[:2]] == [2048, 4096]
    assert seeds[1].origin == "memory plan, larger batch"
    assert [one.origin for one in seeds_for(space_of(), config.gpu_profile("rtx4090"), demand=demand())] == [
        "memory plan",
        "conservative start",
    ]


def test_first_tokens_get_graphs_for_a_pass_that_a_prompt_joins() -> None:
    few = {"users": 50, "prompt_tokens": 130}  # 180 tokens, and vLLM has graphs for twice the sequences
    assert proposed(aim=Aim.ANSWERS, **few)["max-num-seqs"] == 64
    assert proposed(aim=Aim.FIRST_TOKENS, **few)["max-num-seqs"] == 128
    long = {"users": 50, "prompt_tokens": 900}  # no graph is so large
    assert proposed(aim=Aim.FIRST_TOKENS, **long)["max-num-seqs"] == 64


def test_where_the_cache_is_short_batches_are_small_and_its_prefixes_are_kept() -> None:
    # 100 requests of 610 tokens are 7.4 GiB for Llama 3.1 8B, and a 24 GB card has 5.5 left beside its weights.
    tight = proposed("rtx4090", "llama-3.1-8b", prompt_tokens=482)
    assert tight["max-num-batched-tokens"] == 2048
    assert "enable-prefix-caching" not in tight
    assert proposed("h100", "llama-3.1-8b", prompt_tokens=482)["enable-prefix-caching"] is False


def test_gaps_are_not_made_longer_by_sending_larger_pieces() -> None:
    assert proposed(allow=("wide",))["stream-interval"] == 16
    assert "stream-interval" not in proposed(allow=("wide",), aim=Aim.GAPS)


def test_first_tokens_get_whole_prompts_in_a_batch_that_holds_the_context() -> None:
    first = proposed("rtx4090", allow=("wide",), aim=Aim.FIRST_TOKENS, prompt_tokens=3000)
    assert first["enable-chunked-prefill"] is False
    assert violations(first, model_max_len=32768, needed_tokens=3160) == []
    assert "enable-chunked-prefill" not in proposed(allow=("wide",))


def test_eight_bits_that_were_asked_for_are_proposed() -> None:
    flags = proposed(allow=("kv-fp8", "quantisation"))
    assert (flags["kv-cache-dtype"], flags["quantization"]) == ("fp8", "fp8")


@pytest.mark.parametrize("aim", Aim)
@pytest.mark.parametrize("users", [1, 20, 100])
@pytest.mark.parametrize("prompt_tokens", [60, 900, 7000])
def test_vllm_takes_what_the_plan_proposes_for_every_aim(aim: Aim, users: int, prompt_tokens: int) -> None:
    for card in ("rtx3090", "a100"):
        flags = proposed(card, aim=aim, allow=("wide",), users=users, prompt_tokens=prompt_tokens)
        assert violations(flags, model_max_len=32768, needed_tokens=prompt_tokens + 160) == []


@pytest.mark.parametrize(
    ("metrics", "aim"),
    [
        (["output_tok_s"], Aim.ANSWERS),
        (["e2e_s.p50"], Aim.ANSWERS),
        (["tpot_s.p95"], Aim.ANSWERS),
        (["ttft_s.p95"], Aim.FIRST_TOKENS),
        (["ttft_s.p95", "output_tok_s"], Aim.ANSWERS),
        (["goodput", "ttft_s"], Aim.ANSWERS),
        (["itl_s.p95", "output_tok_s"], Aim.GAPS),
        (["goodput", "itl_s"], Aim.GAPS),
    ],
)
def test_the_aim_of_a_study_follows_from_its_objectives_and_limits(metrics: list[str], aim: Aim) -> None:
    assert aim_of(metrics) == aim


def test_a_value_that_does_nothing_beside_the_limits_that_are_sent_is_not_searched() -> None:
    # vLLM 0.32, engine/arg_utils.py: "throughput" doubles the two limits where they are not given.
    assert ladder(space_of(), "performance-mode") == (None, "interactivity")


def preset(gpu: str, seqs: int) -> Preset:
    flags: Flags = {"max-num-seqs": seqs, "max-num-batched-tokens": 4096, "max-model-len": 4096}
    return Preset(
        gpu=gpu, model="qwen2.5-1.5b", flags=flags, is_default=False, objective="throughput", vllm_version="0.32",
        gpu_title="", run="", created_utc="",
    )  # fmt: skip


def origins(card: str, presets: dict[str, Preset]) -> list[str]:
    profiles: dict[str, GpuProfile] = config.gpu_profiles()
    seeds = seeds_for(space_of(card), profiles[card], demand=demand(), presets=presets, profiles=profiles)
    return [seed.origin for seed in seeds]


def test_the_preset_of_the_nearest_card_is_a_seed() -> None:
    known = {"h100": preset("h100", 256), "rtx3090": preset("rtx3090", 64)}
    assert "preset of the rtx3090" in origins("rtx4090", known)
    assert "preset of the h100" in origins("a100", known)


def test_the_cards_own_preset_comes_before_all_others() -> None:
    known = {"rtx3090": preset("rtx3090", 256), "rtx4090": preset("rtx4090", 64)}
    assert "preset of the rtx4090" in origins("rtx4090", known)


def test_a_preset_that_says_keep_the_defaults_is_no_seed() -> None:
    known = {"rtx4090": msgspec.structs.replace(preset("rtx4090", 64), is_default=True, flags={})}
    assert origins("rtx4090", known) == ["memory plan", "conservative start"]


def test_a_damaged_preset_keeps_nobody_from_searching_anew(tmp_path: Path) -> None:
    """Its message says "find it anew", and that ended with the same message."""
    for gpu in ("rtx3090", "rtx4090"):
        write_preset(preset(gpu, 64), preset_path(tmp_path, gpu=gpu, model="qwen2.5-1.5b"))
    preset_path(tmp_path, gpu="rtx4090", model="qwen2.5-1.5b").write_text("gpu = ")
    found = presets_of("qwen2.5-1.5b", results=tmp_path, cards=["rtx3090", "rtx4090", "l4"])
    assert found == {"rtx3090": preset("rtx3090", 64)}


def test_what_a_scenario_asks_grows_with_its_turns_and_its_shared_words() -> None:
    plain, chat, rag = (
        demand_of(config.scenario(name, is_cpu=False), most_users=10, prompt_tokens=None)
        for name in ("concurrent", "chat", "rag")
    )
    assert not plain.is_prefix_shared
    assert chat.is_prefix_shared
    assert rag.is_prefix_shared
    assert rag.needed_tokens > 1200
    counted = demand_of(config.scenario("concurrent", is_cpu=False), most_users=10, prompt_tokens=250.0)
    assert counted.needed_tokens == 275 + 128 + 32
