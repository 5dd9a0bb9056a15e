"""Launches: what they take, what they leave for the KV cache, and of what they die."""

import pytest

from harness.records import CrashRegion
from harness.simulation import Crashed, Machine, Refused
from harness.simulation.scheduler import Step
from harness.simulation.settings import settings
from harness.simulation.startup import memory_plan


def launch(made_of, **flags):
    machine = Machine(made_of)
    return machine.launch({name.replace("_", "-"): value for name, value in flags.items()}, precision="bf16")


def refusal(made_of, **flags) -> str:
    with pytest.raises(Refused) as caught:
        launch(made_of, **flags)
    return caught.value.log_text


def plan(made_of, **flags):
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    made = settings(given, profile=made_of.profile, shape=made_of.shape, precision="bf16")
    return memory_plan(made, profile=made_of.profile, shape=made_of.shape)


def test_a_larger_batch_leaves_less_for_the_cache(even):
    made_of = even("rtx4060")
    caches = [plan(made_of, max_num_batched_tokens=tokens).cache_bytes for tokens in (2048, 8192, 16384)]
    # activations in 16 bits: twice the inner size and four times the hidden one, for each token of the batch
    assert caches[0] - caches[1] == pytest.approx(6144 * 2 * (2 * 8960 + 4 * 1536))
    assert caches == sorted(caches, reverse=True)


def test_weights_that_do_not_fit_are_out_of_memory_by_so_many_bytes(even):
    told = refusal(even("rtx4060", "llama-3.1-8b"))
    assert told.startswith("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate ")


def test_a_context_that_does_not_fit_is_refused_with_the_one_that_does(even):
    made_of = even("rtx4090", "llama-3.1-8b")
    told = refusal(made_of)
    assert "max seq len (131072)" in told
    fits = int(told.partition("estimated maximum model length is ")[2].partition(".")[0])
    assert launch(made_of, max_model_len=fits).context_tokens == fits
    assert "max seq len" in refusal(made_of, max_model_len=fits + 16)


def test_a_context_left_to_vllm_is_the_longest_that_fits(even):
    made_of = even("rtx4090", "llama-3.1-8b")
    longest = launch(made_of, max_model_len=-1).context_tokens
    assert launch(made_of, max_model_len=longest).context_tokens == longest


def test_no_share_of_the_memory_for_the_cache_is_said_so(even):
    assert "No available memory for the cache blocks" in refusal(even("rtx4060"), gpu_memory_utilization=0.45)


def test_all_of_the_memory_leaves_none_for_graphs(even):
    assert "CUDA out of memory" in refusal(even("rtx4090"), gpu_memory_utilization=1.0)


def test_nearly_all_of_the_memory_starts_well_and_dies_of_a_full_batch(even):
    server = launch(even("rtx4090"), gpu_memory_utilization=0.975, max_num_batched_tokens=8192)
    server.step_s(Step(1, 100, [], []))
    with pytest.raises(Crashed, match="CUDA out of memory"):
        server.step_s(Step(8192, 8192 * 10, [], []))


def test_a_crash_region_kills_what_is_in_it_and_nothing_else(even):
    region = CrashRegion(flags={"max-num-seqs": 200}, users=50, log_text="CUDA error: an illegal memory access")
    made_of = even("h100", crashes=(region,))
    inside, outside = launch(made_of, max_num_seqs=256), launch(made_of, max_num_seqs=128)
    many, few = Step(50, 5000, [], []), Step(49, 4900, [], [])
    inside.step_s(few)
    outside.step_s(many)
    with pytest.raises(Crashed, match="illegal memory access"):
        inside.step_s(many)


def test_a_launch_takes_time_on_the_machines_clock_and_the_next_one_of_the_same_key_less(even):
    machine = Machine(even("h100"), now_s=1000.0)
    first = machine.launch({}, precision="bf16")
    assert machine.clock() == pytest.approx(1000 + first.launch_s)
    again = machine.launch({"gpu-memory-utilization": 0.9}, precision="bf16")
    other = machine.launch({"max-num-seqs": 128}, precision="bf16")
    assert again.launch_s < 0.7 * first.launch_s
    assert other.launch_s > again.launch_s
    assert 80 < first.launch_s < 150, "as the recorded launches on an H100"
    eager = Machine(even("h100")).launch({"enforce-eager": True}, precision="bf16")
    assert eager.launch_s < 0.5 * first.launch_s


def test_a_launch_that_fails_takes_time_too(even):
    machine = Machine(even("rtx4060", "llama-3.1-8b"))
    with pytest.raises(Refused):
        machine.launch({}, precision="bf16")
    out_of_memory_s = machine.clock()
    with pytest.raises(Refused):
        machine.launch({"no-such-flag": 1}, precision="bf16")
    assert 10 < out_of_memory_s < 60
    assert 3 < machine.clock() - out_of_memory_s < 15


def test_a_card_without_figures_cannot_be_simulated(even):
    assert "no data-sheet figures" in refusal(even("cpu"))


def test_launches_of_one_seed_are_alike_and_of_another_are_not(even):
    noisy = {"launch_noise_ratio": 0.05, "step_noise_ratio": 0.05}
    step = Step(5, 500, [], [])

    def steps(seed):
        server = Machine(even("h100", seed=seed, **noisy)).launch({}, precision="bf16")
        return [server.step_s(step) for _ in range(5)]

    assert steps(1) == steps(1)
    assert steps(1) != steps(2)
    assert len(set(steps(1))) == 5


def test_drift_makes_later_steps_slower(even):
    step = Step(5, 500, [], [])
    machine = Machine(even("h100", drift_ratio_per_hour=0.5))
    server = machine.launch({}, precision="bf16")
    before_s, began_s = server.step_s(step), machine.now_s
    machine.now_s += 3600
    assert server.step_s(step) / before_s == pytest.approx(1 + 0.5 / (1 + 0.5 * began_s / 3600))
