"""What vLLM makes of its flags, and what it refuses."""

import pytest

from harness.simulation.settings import Refused, settings


def made(made_of, **flags):
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    return settings(given, profile=made_of.profile, shape=made_of.shape, precision="bf16")


@pytest.mark.parametrize(
    ("gpu", "tokens", "sequences"), [("rtx4090", 2048, 256), ("a100", 2048, 256), ("h100", 8192, 1024)]
)
def test_defaults_depend_on_the_card(even, gpu, tokens, sequences):
    found = made(even(gpu))
    assert (found.batched_tokens, found.sequences) == (tokens, sequences)


def test_the_throughput_mode_doubles_both_limits(even):
    found = made(even("rtx4090"), performance_mode="throughput")
    assert (found.batched_tokens, found.sequences) == (4096, 512)


def test_one_limit_alone_lowers_the_other(even):
    assert made(even("rtx4090"), max_num_batched_tokens=128).sequences == 128
    assert made(even("rtx4090"), max_num_seqs=1, max_model_len=1024).batched_tokens == 1024


def test_numbers_are_read_as_vllm_reads_them(even):
    assert made(even("rtx4090"), max_num_batched_tokens="8k").batched_tokens == 8000
    assert made(even("rtx4090"), max_num_batched_tokens="8K").batched_tokens == 8192


def test_graphs_are_captured_for_twice_the_sequences_up_to_512(even):
    sizes = made(even("rtx4090"), max_num_seqs=16).capture_sizes
    assert sizes == (1, 2, 4, 8, 16, 24, 32)
    assert made(even("rtx4090")).capture_sizes[-3:] == (480, 496, 512)
    assert made(even("rtx4090"), enforce_eager=True).capture_sizes == ()
    assert made(even("rtx4090"), compilation_config='{"cudagraph_mode": "NONE"}').capture_sizes == ()
    assert made(even("rtx4090"), cudagraph_capture_sizes="1,8,64").capture_sizes == (1, 8, 64)


def test_launches_share_compiled_code_unless_a_flag_is_in_its_key(even):
    one = made(even("rtx4090"))
    for same in ({"gpu_memory_utilization": 0.9}, {"enable_prefix_caching": False}, {"max_num_active_seqs": 32}):
        assert made(even("rtx4090"), **same).compile_key == one.compile_key
    for other in ({"max_num_seqs": 128}, {"max_num_batched_tokens": 4096}, {"max_model_len": 2048}):
        assert made(even("rtx4090"), **other).compile_key != one.compile_key


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"max_sequences": 3}, r"unrecognized arguments: --max-sequences"),
        ({"max_num_seqs": 512, "max_num_batched_tokens": 256}, r"must be greater than or equal to max_num_seqs"),
        ({"max_model_len": 40_000}, r"max_model_len \(40000\) is greater than the derived max_model_len"),
        ({"gpu_memory_utilization": 1.5}, r"gpu_memory_utilization must be in \(0, 1\]"),
        ({"kv_cache_dtype": "int2"}, r"argument --kv-cache-dtype: invalid choice"),
        ({"quantization": "magic"}, r"argument --quantization: invalid choice"),
        ({"dtype": "int8"}, r"argument --dtype: invalid choice"),
        ({"max_num_seqs": "many"}, r"argument --max-num-seqs: invalid int value"),
        ({"gpu_memory_utilization": "all"}, r"argument --gpu-memory-utilization: invalid float value"),
    ],
)
def test_what_vllm_refuses_is_refused_in_its_words(even, flags, told):
    with pytest.raises(Refused, match=told):
        made(even("rtx4090"), **flags)
