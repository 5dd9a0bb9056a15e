"""What was equal between two sides, told from what the engines said of themselves."""

from typing import Any

import msgspec
import pytest

from harness import fairness
from harness.fairness import Prompt, Prompts
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    EngineFacts,
    Estimate,
    Level,
    Manifest,
    RequestRecord,
    Sampling,
    Scenario,
    TelemetrySummary,
    Tier,
    Workload,
)

OLLAMA = EngineFacts(
    role="baseline", engine="ollama", title="Ollama 0.33.0", version="0.33.0", precision="q4_k_m",
    resolved={"context-tokens": 4096}, argv=("ollama", "serve"), env={"OLLAMA_KEEP_ALIVE": "-1"}, slots=1,
    weights_bytes=1_000_000_000,
)  # fmt: skip
VLLM = EngineFacts(
    role="candidate", engine="vllm", title="vLLM 0.32.0", version="0.32.0", precision="bf16",
    resolved={
        "max-model-len": 4096, "max-num-seqs": 256, "dtype": "bfloat16", "kv-cache-dtype": "auto",
        "enable-prefix-caching": True,
    },
    argv=("python", "-m", "vllm"), weights_bytes=3_000_000_000,
)  # fmt: skip
SCENARIO = Scenario(
    name="concurrent",
    title="",
    workload=Workload(prompt_words=8, output_tokens=8, is_streamed=True),
    load=ClosedLoop(users=(5,), requests_per_user=1, min_s=1, max_s=9),
)


def cell(role: str, **changes: Any) -> Cell:
    whole = Cell(
        engine="e", title="t", role=role, model="m", scenario="concurrent", users=5, repeat=1,
        state=CellState.MEASURED, requests=10, prompt_tokens_mean=100.0, output_tokens_mean=128.0,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def tok_s(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high, confidence=0.95, n=10, unit="tok/s")


def manifest(
    *engines: EngineFacts,
    tier: Tier = Tier.AS_RUN,
    cells: tuple[Cell, ...] | None = None,
    prompts: dict[str, Prompts] | None = None,
) -> Manifest:
    found = (cell("baseline"), cell("candidate")) if cells is None else cells
    return fairness.manifest(
        tier, engines=engines or (OLLAMA, VLLM), cells=found, scenarios=[SCENARIO], prompts=prompts or {}
    )


def counts(*tokens: int, users: int = 5) -> Prompts:
    """What a server counted of one user's first prompts."""
    load = fairness.Load("concurrent", Level(users=users))
    return {Prompt(load, 1, 1, 0, number): count for number, count in enumerate(tokens)}


def equal_ollama(**env: str) -> EngineFacts:
    return msgspec.structs.replace(OLLAMA, precision="f16", slots=50, env={**OLLAMA.env, **env})


# ---------------------------------------------------------------- one side


def test_a_side_is_told_by_what_its_engine_said() -> None:
    ollama, vllm = manifest().sides
    assert (ollama.kv_precision, vllm.kv_precision) == ("f16", "bf16")
    assert (ollama.context_tokens, vllm.context_tokens) == (4096, 4096)
    assert (ollama.sequences, vllm.sequences) == (1, 256)
    assert (ollama.weights_bytes, vllm.weights_bytes) == (1_000_000_000, 3_000_000_000)
    assert (ollama.prefix_cache, vllm.prefix_cache) == ("on", "on")
    assert (ollama.keep_alive, vllm.keep_alive) == ("forever", "forever")


def test_nothing_is_claimed_of_a_server_that_we_did_not_start() -> None:
    stranger = msgspec.structs.replace(OLLAMA, argv=(), env={}, resolved={}, slots=None, weights_bytes=None)
    side, _ = manifest(stranger, VLLM).sides
    assert (side.kv_precision, side.prefix_cache, side.keep_alive) == ("", "", "")
    assert (side.context_tokens, side.sequences, side.weights_bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("resolved", "expected"),
    [
        ({"kv-cache-dtype": "fp8_e4m3", "dtype": "bfloat16"}, "fp8_e4m3"),
        ({"kv-cache-dtype": "auto", "dtype": "float16"}, "f16"),
        ({}, ""),
    ],
)
def test_the_kv_precision_of_vllm_is_that_of_the_model_only_where_it_is_auto(
    resolved: dict[str, Any], expected: str
) -> None:
    assert fairness.kv_precision(msgspec.structs.replace(VLLM, resolved=resolved)) == expected


def test_the_kv_precision_of_ollama_and_llamacpp_is_what_they_were_told() -> None:
    assert fairness.kv_precision(equal_ollama(OLLAMA_KV_CACHE_TYPE="q8_0")) == "q8_0"
    llamacpp = msgspec.structs.replace(
        OLLAMA, engine="llamacpp", flags={"cache-type-k": "q8_0", "cache-type-v": "q8_0"}
    )
    assert fairness.kv_precision(llamacpp) == "q8_0"
    half = msgspec.structs.replace(llamacpp, flags={"cache-type-v": "q8_0"})
    assert fairness.kv_precision(half) == "f16 keys, q8_0 values", "values in 8 bits are not 16 bits"


def test_means_weigh_each_cell_by_its_requests_and_leave_invalid_ones_out() -> None:
    cells = (
        cell("baseline", output_tokens_mean=100.0, requests=30),
        cell("baseline", output_tokens_mean=120.0, requests=10),
        cell("baseline", output_tokens_mean=1.0, requests=99, state=CellState.INVALID),
        cell("candidate"),
    )
    side, _ = manifest(cells=cells).sides
    assert side.output_tokens_mean == pytest.approx(105.0)


def test_the_hit_rate_of_the_prefix_cache_is_the_mean_over_cells_that_know_it() -> None:
    seen = [TelemetrySummary(samples=3, has_gpu=False, prefix_hit_ratio=ratio) for ratio in (0.2, 0.4, None)]
    _, side = manifest(cells=tuple(cell("candidate", telemetry=one) for one in seen)).sides
    assert side.prefix_hit_ratio == pytest.approx(0.3)


# ---------------------------------------------------------------- what forbids a ratio


def test_other_precision_is_a_difference_of_what_people_run_and_a_fault_of_the_equal_tier() -> None:
    as_run, equal = manifest(), manifest(tier=Tier.EQUAL)
    assert as_run.faults == ()
    assert "Precision of the weights: q4_k_m (baseline), bf16 (candidate)." in as_run.differences
    assert any("precision of the weights is not shown to be: q4_k_m (baseline), 16 bit" in one for one in equal.faults)


def test_sixteen_bits_are_equal_under_all_their_names() -> None:
    found = manifest(equal_ollama(OLLAMA_KV_CACHE_TYPE="f16"), VLLM, tier=Tier.EQUAL)
    assert found.faults == ()
    assert any(one.startswith("Precision of the weights: f16 (baseline), bf16") for one in found.differences)


@pytest.mark.parametrize(
    ("ollama", "named"),
    [
        (equal_ollama(OLLAMA_KV_CACHE_TYPE="q8_0"), "precision of the KV cache"),
        (msgspec.structs.replace(equal_ollama(), resolved={"context-tokens": 2048}), "context of a sequence"),
        (msgspec.structs.replace(equal_ollama(), resolved={}), "not known (baseline), 4096 (candidate)"),
    ],
)
def test_the_equal_tier_takes_nothing_for_equal_that_is_not_shown_to_be(ollama: EngineFacts, named: str) -> None:
    (fault,) = manifest(ollama, VLLM, tier=Tier.EQUAL).faults
    assert named in fault


@pytest.mark.parametrize(
    "said", [{"resolved": {"enable-prefix-caching": False}}, {"flags": {"no-enable-prefix-caching": True}}]
)
def test_a_prefix_cache_on_one_side_only_is_a_fault_of_the_equal_tier(said: dict[str, Any]) -> None:
    resolved = {**VLLM.resolved, **said.get("resolved", {})}
    if "flags" in said:
        del resolved["enable-prefix-caching"]
    without = msgspec.structs.replace(VLLM, resolved=resolved, flags=said.get("flags", {}))
    (fault,) = manifest(equal_ollama(), without, tier=Tier.EQUAL).faults
    assert fault == "The tier is equal, and the prefix cache is not: on (baseline), off (candidate)."
    assert manifest(equal_ollama(), without).faults == ()


@pytest.mark.parametrize(("tier", "tokens", "is_fault"), [
    (Tier.EQUAL, 114.0, True), (Tier.EQUAL, 118.0, False), (Tier.AS_RUN, 114.0, False),
])  # fmt: skip
def test_answers_over_ten_percent_apart_are_no_equal_work(tier: Tier, tokens: float, is_fault: bool) -> None:
    """128 tokens are 12 % over 114 and 8 % over 118; another load with equal answers hides nothing."""
    cells = tuple(cell(role, users=users) for role in ("baseline", "candidate") for users in (1, 5))
    cells = (msgspec.structs.replace(cells[0], output_tokens_mean=tokens), *cells[1:])
    found = manifest(equal_ollama(), VLLM, tier=tier, cells=cells)
    assert bool(found.faults) == is_fault
    if is_fault:
        assert "concurrent at 1: the tier is equal, and answers have 114.0 tokens from the baseline" in found.faults[0]


def test_random_weights_on_one_side_are_another_model() -> None:
    (fault,) = manifest(OLLAMA, msgspec.structs.replace(VLLM, is_synthetic=True)).faults
    assert "random weights" in fault


@pytest.mark.parametrize(("tokens", "is_fault"), [(1009, False), (1011, True), (989, True)])
def test_prompts_that_count_over_one_percent_apart_are_not_the_same_work(tokens: int, is_fault: bool) -> None:
    found = manifest(prompts={"baseline": counts(tokens, tokens), "candidate": counts(1000, 1000)})
    assert bool(found.faults) == is_fault
    if is_fault:
        assert f"concurrent at 5: the same prompts were {tokens:.1f} tokens to the baseline" in found.faults[0]
        assert "not the same work" in found.faults[0]


def test_only_prompts_that_both_sides_answered_are_compared() -> None:
    """Measured: equal prompts, of which the faster side had answered more, had means of 49.5 and 50.0 tokens."""
    found = manifest(prompts={"baseline": counts(100, 98), "candidate": counts(100, 98, 120, 130)})
    assert found.faults == ()
    assert [side.prompt_tokens_mean for side in found.sides] == [99.0, 99.0]


def test_prompts_are_compared_load_by_load() -> None:
    """Over all loads together both means are 150: that would hide that neither load has equal prompts."""
    cells = tuple(cell(role, users=users) for role in ("baseline", "candidate") for users in (1, 5))
    found = manifest(
        cells=cells,
        prompts={
            "baseline": {**counts(100, users=1), **counts(200, users=5)},
            "candidate": {**counts(200, users=1), **counts(100, users=5)},
        },
    )
    assert len(found.faults) == 2


def test_sides_that_answered_no_common_prompt_are_not_accused() -> None:
    assert manifest(prompts={"baseline": counts(100), "candidate": {}}).faults == ()
    assert manifest(prompts={"baseline": counts(100)}).faults == ()


def test_what_a_server_counted_is_read_from_its_cells_requests() -> None:
    def line(number: int, **changes: object) -> bytes:
        record = RequestRecord(user=0, index=number, is_warmup=False, sent_s=0, end_s=1, chunks_s=(0.5,))
        return msgspec.json.encode(msgspec.structs.replace(record, **changes)) + b"\n"

    lines = [
        line(0, prompt_tokens=40, is_warmup=True),
        line(1, prompt_tokens=41),
        line(2, prompt_tokens=99, turn=1),
        line(3, prompt_tokens=42, error="cut off"),
        line(4),
    ]
    found = fairness.prompts_of(cell("baseline"), b"".join(lines) + b'{"user": 0, "ind')
    assert {one.number: tokens for one, tokens in found.items()} == {0: 40, 1: 41}


def test_sides_that_sample_differently_are_not_compared() -> None:
    one = fairness.side(OLLAMA, [], sampling=Sampling())
    other = fairness.side(VLLM, [], sampling=Sampling(temperature=0.7))
    assert list(fairness.faults(Tier.AS_RUN, [one, other])) == ["The sides were told to sample differently."]


# ---------------------------------------------------------------- what a reader must know


def test_equal_sides_have_no_differences() -> None:
    same = msgspec.structs.replace(VLLM, role="baseline")
    assert manifest(same, VLLM).differences == ()


def test_answers_of_other_length_and_other_prefix_hits_are_told() -> None:
    hit = TelemetrySummary(samples=3, has_gpu=False, prefix_hit_ratio=0.5)
    none = TelemetrySummary(samples=3, has_gpu=False, prefix_hit_ratio=0.0)
    cells = (cell("baseline", output_tokens_mean=96.0, telemetry=none), cell("candidate", telemetry=hit))
    told = manifest(cells=cells).differences
    assert "Mean length of the answers: 96.0 tokens (baseline), 128.0 tokens (candidate)." in told
    assert "Prompt tokens found in the prefix cache: 0% (baseline), 50% (candidate)." in told


def test_drift_is_told_where_the_last_block_lies_outside_the_first() -> None:
    cells = [
        cell("baseline", block=1, output_tok_s=tok_s(100, 110)),
        cell("baseline", block=2, output_tok_s=tok_s(50, 60)),
        cell("baseline", block=3, output_tok_s=tok_s(111, 120)),
        cell("candidate", block=1, output_tok_s=tok_s(100, 110)),
        cell("candidate", block=3, output_tok_s=tok_s(109, 120)),
    ]
    (note,) = fairness.drifts(cells)
    assert "baseline, concurrent at 5: 100.0 to 110.0 tok/s in block 1, 111.0 to 120.0 in block 3" in note
