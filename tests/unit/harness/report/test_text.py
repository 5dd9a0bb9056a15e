"""A run on the console."""

import msgspec
import pytest

from harness.records import CellState, ModelEntry, ModelShape
from harness.report import text

replace = msgspec.structs.replace


def test_a_cell_is_one_line_with_the_figure_so_far(compared_run):
    cell = next(one for one in compared_run.cells if (one.role, one.users) == ("candidate", 50))
    assert text.cell_line(cell) == (
        "candidate  concurrent  50 users  repeat 1  12,200 tok/s (12,000–12,400)  TTFT p50 38.0 ms  E2E p50 535 ms  "
        "1,905 requests"
    )


def test_a_cell_of_whole_answers_has_no_time_to_first_token(compared_run):
    assert "TTFT" not in text.cell_line(compared_run.cells[0])


def test_an_invalid_cell_gives_its_figures_and_why_they_do_not_count(compared_run):
    cell = next(one for one in compared_run.cells if one.state is CellState.INVALID)
    line = text.cell_line(cell)
    assert "17,900 tok/s" in line
    assert line.endswith("INVALID: the client was the limit: it used 97% of a core")


def test_a_failed_cell_gives_its_reason_and_no_figure(compared_run):
    cell = next(one for one in compared_run.cells if one.state is CellState.FAILED)
    assert text.cell_line(cell) == (
        "baseline  concurrent  100 users  repeat 2  300 failed  FAILED: all 300 requests failed"
    )
    assert text.cell_line(replace(cell, reasons=())).endswith("FAILED: no reason was recorded")


def test_a_cell_is_one_line_whatever_an_engine_logged(compared_run):
    cell = replace(compared_run.cells[0], state=CellState.INVALID, reasons=("two\nlines \x1b[31mred",))
    line = text.cell_line(cell)
    assert "\n" not in line
    assert "\x1b" not in line


def test_too_few_values_are_a_dash_and_never_zero(compared_run):
    cell = replace(compared_run.cells[0], e2e_s={"p50": None}, output_tok_s=None)
    assert "  –  E2E p50 –  " in text.cell_line(cell)
    assert text.cells_table([cell]).endswith("– too few values for an interval")


def test_the_comparison_says_both_values_ratio_verdict_and_target(compared_run):
    lines = text.comparison_table(compared_run.run).splitlines()
    assert lines[0] == "vLLM 0.32.0, tuned against llama.cpp, the engine inside Ollama"
    fifty = next(line.split() for line in lines if line.split()[:2] == ["50", "tok/s"])
    assert fifty == ["50", "tok/s", "364", "tok/s", "12,200", "tok/s", "33.6×", "(32.3–35.0)", "faster", "2×", "met"]
    last = next(line for line in lines if line.split()[:2] == ["100", "tok/s"])
    assert last.endswith("1 of 3 repeats of the baseline count, 2 are needed")
    one = next(line for line in lines if line.split()[:3] == ["1", "E2E", "p50"])
    assert "2× missed, 200 ms met" in one


def test_columns_line_up(compared_run):
    table = text.columns([["users", "what"], ["5", "a"], ["100", "bb"]], right={0})
    assert table == "users  what\n    5  a\n  100  bb"


def test_a_run_without_comparisons_says_so(compared_run):
    assert text.comparison_table(replace(compared_run.run, comparisons=())).endswith("nothing has been compared")


def test_the_trials_are_listed_with_outcome_flags_and_reason(compared_run):
    lines = text.trials_table(compared_run.trials).splitlines()
    assert len(lines) == 9
    assert lines[1].split(maxsplit=2)[:2] == ["0", "measured"]
    assert "1× (by definition)" in lines[1]
    assert "vLLM's defaults" in lines[1]
    assert "out of memory  –" in lines[4]
    assert lines[4].endswith("(log: engine-trial-3-vllm.log)")
    assert text.trials_table([]) == "no trials"


def test_the_serve_line_is_one_line(tuned_run):
    assert text.serve_line(tuned_run.run) == (
        "VLLM_ATTENTION_BACKEND=FLASH_ATTN vllm serve Qwen/Qwen2.5-1.5B-Instruct --max-num-batched-tokens 16384 "
        "--max-num-seqs 128 --max-model-len 4096"
    )
    assert text.serve_line(replace(tuned_run.run, preset=None)) == "no settings have been chosen"


def test_cells_are_listed_with_the_reasons_of_the_bad_ones_below(compared_run):
    lines = text.cells_table(compared_run.cells).splitlines()
    assert lines[0].split()[:4] == ["scenario", "users", "repeat", "state"]
    assert sum("FAILED" in line.split() for line in lines) == 2
    assert "concurrent, 100 users, repeat 3 is INVALID: the client was the limit: it used 97% of a core" in lines
    assert "n/a" in lines[1]
    failed = next(line for line in lines if "FAILED" in line.split())
    assert "n/a" not in failed
    assert failed.endswith("0 (300 failed)")


@pytest.mark.parametrize(("is_gated", "licence"), [(False, "apache-2.0"), (True, "apache-2.0, must be accepted")])
def test_models_are_listed_under_their_names_on_both_sides(is_gated, licence):
    shape = ModelShape(
        layers=1, hidden=1, intermediate=1, heads=1, kv_heads=1, head_dim=1, vocab=1, parameters=1_543_714_304,
        max_context_tokens=1, is_tied=True,
    )  # fmt: skip
    entry = ModelEntry(
        name="qwen2.5-1.5b",
        title="Qwen",
        hf_id="Qwen/Qwen2.5-1.5B-Instruct",
        ollama_tags={"q4_k_m": "qwen2.5:1.5b-instruct-q4_K_M"},
        ollama_default="q4_k_m",
        license="apache-2.0",
        is_gated=is_gated,
        shape=shape,
    )
    line = text.models_table([entry]).splitlines()[1]
    assert line.split("  ")[-1] == licence
    assert "1.54G" in line
    assert "qwen2.5:1.5b-instruct-q4_K_M" in line
