"""Why an engine ended, by its own words: excerpts of real logs in logs/, and texts of vLLM's source for GPUs."""

import signal
from pathlib import Path

import pytest

from harness.engines.failures import cause, failure, last_lines, plain
from harness.errors import (
    EngineBadFlag,
    EngineContextTooLong,
    EngineCrashed,
    EngineError,
    EngineModelNotFound,
    EngineOutOfMemory,
    EnginePortTaken,
)

LOGS = Path(__file__).parent / "logs"
GIB = 2**30

FREE_MEMORY = """\
ERROR 11-22 15:01:26 [core.py:1100] ValueError: Free memory on device cuda:0 (10.21/23.64 GiB) on startup is less than \
desired GPU memory utilization (0.92, 21.75 GiB). Decrease GPU memory utilization or reduce GPU memory used by other \
processes.
"""
"""`request_memory` in vllm/v1/worker/utils.py."""
NO_CACHE = """\
(EngineCore_DP0 pid=9) ERROR 11-22 15:01:26 [core.py:1100] ValueError: No available memory for the cache blocks. Try \
increasing `gpu_memory_utilization` when initializing the engine.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': 1}
"""
"""`_check_enough_kv_cache_memory` in vllm/v1/core/kv_cache_utils.py."""
CUDA = """\
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of \
which 512.00 MiB is free. Including non-PyTorch memory, this process has 23.13 GiB memory in use.
"""
WARM_UP = """\
RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering \
`max_num_seqs` or `gpu_memory_utilization` when initializing the engine.
"""
"""`_dummy_sampler_run` in vllm/v1/worker/gpu_model_runner.py."""
CPU = "RuntimeError: [enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to \
allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)\n"
GGML = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 5120.00 MiB on device 0: cudaMalloc failed: out of \
memory\nllama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
OLLAMA = "Error: model requires more system memory (5.6 GiB) than is available (512.0 MiB)\n"
GATED = (
    "OSError: You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/a/b.\n"
)
GATED_HUB = "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: x)\n\nCannot access gated repo\n"
MISSING_HUB = (
    "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: x)\n\nRepository Not Found\n"
)
NOT_A_MODEL = (
    "OSError: a/b is not a local folder and is not a valid model identifier listed on 'https://huggingface.co'\n"
)
NO_WEIGHTS = "RuntimeError: Cannot find any model weights with `/models/empty`\n"


def of(name: str, *, returncode: int = 1, oom_kills: int | None = 0, model: str = "") -> EngineError:
    """What the log of that name tells."""
    text = (LOGS / f"{name}.txt").read_text()
    return failure("vLLM 0.32.0", text, returncode=returncode, oom_kills=oom_kills, model=model)


def of_text(text: str, *, returncode: int | None = 1, oom_kills: int | None = 0, model: str = "") -> EngineError:
    return failure("vLLM 0.32.0", text, returncode=returncode, oom_kills=oom_kills, model=model)


# ---------------------------------------------------------------- memory


def test_memory_held_by_another_program_is_told_with_both_figures_and_what_would_fit() -> None:
    error = of("vllm_memory_held_by_others")
    assert isinstance(error, EngineOutOfMemory)
    assert error.message == "vLLM 0.32.0 wants 10.21 GiB at the start, and 8.66 of 10.21 GiB are free"
    assert "another process holds 1.55 of 10.21 GiB" in error.hint
    assert "lower gpu-memory-utilization from 1 to 0.84" in error.hint
    assert error.short_bytes == round(1.55 * GIB)


def test_memory_held_by_another_program_on_a_gpu_is_read_alike() -> None:
    error = of_text(FREE_MEMORY)
    assert isinstance(error, EngineOutOfMemory)
    assert "wants 21.75 GiB at the start, and 10.21 of 23.64 GiB are free" in error.message
    assert "from 0.92 to 0.43" in error.hint
    assert error.short_bytes == round(11.54 * GIB)


def test_a_share_of_memory_that_does_not_even_hold_the_model_is_not_the_fault_of_others() -> None:
    error = of("vllm_no_memory_for_cache")
    assert isinstance(error, EngineOutOfMemory)
    assert "0.98 GiB more than its whole share" in error.message
    assert "another process" not in error.hint
    assert error.short_bytes == round(0.98 * GIB)


def test_no_memory_for_the_cache_without_a_figure_has_no_figure() -> None:
    error = of_text(NO_CACHE)
    assert isinstance(error, EngineOutOfMemory)
    assert error.short_bytes is None


@pytest.mark.parametrize(
    ("text", "figures", "short_bytes"),
    [
        (CUDA, "asked for 2.00 GiB and 0.50 GiB were free", round(1.5 * GIB)),
        (WARM_UP, "ran out of memory", None),
        (CPU, "asked for 8.00 GiB", 8 * GIB),
        (GGML, "asked for 5.00 GiB", 5 * GIB),
        (OLLAMA, "needs 5.60 GiB for the model, and 0.50 GiB are free", round(5.6 * GIB) - GIB // 2),
        ("MemoryError\n", "ran out of memory", None),
        ("terminate called after throwing an instance of 'std::bad_alloc'\n", "ran out of memory", None),
    ],
    ids=["cuda", "cuda-warm-up", "cpu", "ggml", "ollama", "python", "c++"],
)
def test_an_allocation_that_failed_is_out_of_memory(text: str, figures: str, short_bytes: int | None) -> None:
    error = of_text(text)
    assert isinstance(error, EngineOutOfMemory)
    assert figures in error.message
    assert error.short_bytes == short_bytes


def test_a_kill_by_the_kernel_is_out_of_memory() -> None:
    error = of_text("loading weights\n", returncode=-signal.SIGKILL, oom_kills=1)
    assert isinstance(error, EngineOutOfMemory)
    assert "the kernel killed processes because the machine's memory had run out" in error.message


@pytest.mark.parametrize("returncode", [-signal.SIGKILL, 137])
def test_a_kill_is_out_of_memory_where_the_kernel_does_not_tell(returncode: int) -> None:
    """137 is what a shell makes of SIGKILL."""
    error = of_text("loading weights\n", returncode=returncode, oom_kills=None)
    assert isinstance(error, EngineOutOfMemory)
    assert "as the kernel does when memory runs out" in error.message


def test_a_kill_by_a_person_is_no_lack_of_memory() -> None:
    error = of_text("loading weights\n", returncode=-signal.SIGKILL, oom_kills=0)
    assert isinstance(error, EngineCrashed)
    assert "was ended by SIGKILL" in error.message


@pytest.mark.parametrize("name", ["vllm_worker_killed", "vllm_core_killed"])
def test_a_part_that_the_kernel_killed_is_out_of_memory_for_the_whole(name: str) -> None:
    """vLLM itself then ends in order, even with exit code 0, and its log has no word of memory."""
    assert isinstance(of(name, returncode=0, oom_kills=1), EngineOutOfMemory)
    assert isinstance(of(name, returncode=0, oom_kills=0), EngineCrashed)


# ---------------------------------------------------------------- context


def test_a_context_that_the_cache_cannot_hold_tells_which_one_it_can() -> None:
    error = of("vllm_context_above_cache")
    assert isinstance(error, EngineContextTooLong)
    assert error.fits == 4096
    assert "0.18 GiB of KV cache for one request of 8192 tokens, and has 0.09 GiB" in error.message
    assert "set max-model-len to 4096 or less" in error.hint


def test_a_cache_that_holds_no_context_at_all_tells_none() -> None:
    text = (LOGS / "vllm_context_above_cache.txt").read_text()
    shortened = text.replace("Based on the available memory, the estimated maximum model length is 4096. ", "")
    error = of_text(shortened)
    assert isinstance(error, EngineContextTooLong)
    assert error.fits is None


def test_a_context_beyond_the_model_tells_what_the_model_knows() -> None:
    error = of("vllm_context_above_model")
    assert isinstance(error, EngineContextTooLong)
    assert error.fits == 8192
    assert "a context of 100000 tokens, and the model knows 8192" in error.message


def test_the_length_that_a_model_allows_beyond_its_positions_counts() -> None:
    text = (
        (LOGS / "vllm_context_above_model.txt").read_text().replace("model_max_length=None", "model_max_length=16384")
    )
    error = of_text(text)
    assert isinstance(error, EngineContextTooLong)
    assert error.fits == 16384


# ---------------------------------------------------------------- flags, port, model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vllm_unknown_flag", "does not know the flag --max-num-sequences"),
        ("vllm_invalid_choice", "refuses its flags: --kv-cache-dtype: invalid choice: 'fp99'"),
        ("vllm_invalid_value", "refuses its flags: --max-num-seqs: invalid int value: 'many'"),
        ("vllm_batched_below_seqs", "max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (128)."),
        ("vllm_batched_below_context", "max_num_batched_tokens (512) is smaller than max_model_len (8192)."),
        (
            "vllm_zero_seqs",
            "max_num_batched_tokens: Input should be greater than or equal to 1; "
            "max_num_seqs: Input should be greater than or equal to 1",
        ),
        ("llamacpp_unknown_flag", "does not know the flag --nonsense 3"),
    ],
)
def test_a_refused_flag_is_named(name: str, message: str) -> None:
    error = of(name, returncode=2)
    assert isinstance(error, EngineBadFlag)
    assert message in error.message


def test_a_value_that_the_engine_itself_refuses_is_a_bad_flag() -> None:
    text = "ValueError: async scheduling is not supported with speculative method ngram\n"
    assert isinstance(of_text(text), EngineBadFlag)


@pytest.mark.parametrize(
    ("name", "place"),
    [("vllm_port_taken", "the port"), ("llamacpp_port_taken", "port 18302"), ("ollama_port_taken", "port 18302")],
)
def test_a_taken_port_is_told(name: str, place: str) -> None:
    error = of(name)
    assert isinstance(error, EnginePortTaken)
    assert f"another program listens on {place} that" in error.message


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("vllm_missing_folder", "HFValidationError: Repo id must be in the form", "config.json"),
        ("vllm_no_config", "Invalid repository ID or local directory specified: '/models/empty'", "config.json"),
        ("vllm_missing_offline", "outgoing traffic has been disabled", "network"),
        ("vllm_missing_no_network", "An error happened while trying to locate the file on the Hub", "network"),
        ("llamacpp_not_gguf", "failed to load model from /models/junk.gguf", "GGUF"),
        ("llamacpp_cut_short", "model is corrupted or incomplete", "GGUF"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_told_with_the_reason(name: str, message: str, hint: str) -> None:
    error = of(name, model="some/model")
    assert isinstance(error, EngineModelNotFound)
    assert "cannot load some/model: " in error.message
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (GATED, "accept its licence on https://huggingface.co/a/b"),
        (GATED_HUB, "accept its licence on https://huggingface.co/a/b"),
        (MISSING_HUB, "check the name"),
        (NOT_A_MODEL, "check the name"),
        (NO_WEIGHTS, "check the name, or the folder"),
    ],
    ids=["gated", "gated-hub", "missing-hub", "no-model", "no-weights"],
)
def test_a_hub_that_refuses_says_what_to_do(text: str, hint: str) -> None:
    error = of_text(text, model="a/b")
    assert isinstance(error, EngineModelNotFound)
    assert hint in error.hint


# ---------------------------------------------------------------- which of several texts counts


CONTEXT = (LOGS / "vllm_context_above_cache.txt").read_text()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (FREE_MEMORY + CUDA, EngineOutOfMemory),
        (CONTEXT + NO_CACHE, EngineContextTooLong),
        (GGML, EngineOutOfMemory),
        (OLLAMA + "llama_model_load: error loading model: gave up\n", EngineOutOfMemory),
        (
            MISSING_HUB + "pydantic.ValidationError: 1 validation error for ModelConfig\n  Value error\n",
            EngineModelNotFound,
        ),
    ],
    ids=["others-cuda", "context-cache", "memory-model", "ollama-model", "model-flags"],
)
def test_the_text_that_names_the_cause_counts(text: str, kind: type[EngineError]) -> None:
    assert type(of_text(text)) is kind


def test_memory_of_others_is_not_hidden_by_a_failed_allocation() -> None:
    error = of_text(CUDA + FREE_MEMORY)
    assert "another process" in error.hint


def test_a_known_text_counts_more_than_a_kill() -> None:
    assert isinstance(of_text(CONTEXT, returncode=-signal.SIGKILL, oom_kills=1), EngineContextTooLong)


def test_what_only_mentions_a_missing_file_is_no_missing_model() -> None:
    """transformers warns of optional files that a model has none of."""
    warning = "WARNING 11-22 15:00:00 [x.py:1] a/b does not appear to have a file named preprocessor_config.json.\n"
    assert isinstance(of_text(warning + "RuntimeError: something else\n"), EngineCrashed)


def test_an_error_of_a_compiler_is_no_bad_flag() -> None:
    assert isinstance(of_text("/tmp/kernel.cpp:3:10: error: expected ';'\n"), EngineCrashed)


# ---------------------------------------------------------------- the rest


def test_an_unknown_end_is_told_with_the_first_telling_exception_and_the_last_lines() -> None:
    text = (
        "(EngineCore pid=7) ERROR 11-22 15:00:00 [core.py:1] Traceback (most recent call last):\n"
        '(EngineCore pid=7) ERROR 11-22 15:00:00 [core.py:1]   File "x.py", line 1, in f\n'
        "(EngineCore pid=7) ERROR 11-22 15:00:00 [core.py:1] triton.CompilationError: at 3:7: no such thing\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
        "nanobind: leaked 4 instances!\n"
        "  warnings.warn('resource_tracker: There appear to be %d '\n"
    )
    error = of_text(text)
    assert isinstance(error, EngineCrashed)
    assert (
        error.message == "vLLM 0.32.0 ended by itself with exit code 1: triton.CompilationError: at 3:7: no such thing"
    )
    assert error.hint.splitlines()[-1].startswith("  RuntimeError: Engine core initialization failed")


def test_a_killed_worker_is_the_cause_where_no_exception_is() -> None:
    error = of("vllm_worker_killed", returncode=0)
    assert "Worker proc VllmWorker-0 died unexpectedly" in error.message


def test_a_signal_is_named() -> None:
    error = of_text("", returncode=-signal.SIGSEGV)
    assert error.message == "vLLM 0.32.0 was ended by SIGSEGV: its log does not say why"


def test_every_message_has_the_path_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    for file in sorted(LOGS.glob("*.txt")):
        error = failure("vLLM 0.32.0", file.read_text(), returncode=1, log=log)
        assert str(log) in error.message, file.name
        assert error.hint, file.name


def test_prefixes_and_colours_are_no_part_of_a_line() -> None:
    first = "\x1b[1;36m(EngineCore_DP0 pid=7)\x1b[0;0m ERROR 11-22 15:00:00 [core.py:1] oh"
    assert plain(f"{first}\nINFO 11-22 15:00:00 [a/b.py:2] ah") == "oh\nah"


def test_the_last_lines_leave_out_the_noise_of_an_ending_process() -> None:
    text = (LOGS / "llamacpp_cut_short.txt").read_text() + "\n\nnanobind: leaked 4 instances!\n - leaked instance 0x7\n"
    assert last_lines(text, lines=1) == ["RuntimeError: Failed to init server, please check the input params."]


def test_a_log_without_an_exception_has_no_cause() -> None:
    assert cause("all is well\n") == ""
