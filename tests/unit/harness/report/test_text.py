"""A run on the console."""

import msgspec
import pytest

from harness.records import CellState, ModelEntry, ModelShape
from harness.report import text
from harness.report.columns import columns
from harness.report.text_models import models_table

replace = msgspec.structs.replace


def test_a_cell_is_one_line_with_the_figure_so_far(compared_run):
    cell = next(one for one in compared_run.cells if (one.role, one.users) == ("candidate", 50))
    assert text.cell_line(cell) == (
        "candidate  concurrent  50 users  block 1 repeat 1  12,500 tok/s (12,300–12,800)  TTFT p50 38.0 ms  "
        "E2E p50 522 ms  1,954 requests"
    )


def test_a_cell_of_whole_answers_has_no_time_to_first_token(compared_run):
    assert "TTFT" not in text.cell_line(compared_run.cells[0])


def test_an_invalid_cell_gives_its_figures_and_why_they_do_not_count(compared_run):
    cell = next(one for one in compared_run.cells if one.state is CellState.INVALID)
    line = text.cell_line(cell)
    assert "17,900 tok/s" in line
    assert line.endswith("INVALID: the client was the limit: it used 97% of a core, over 90%")


def test_a_failed_cell_gives_its_reason_and_no_figure(compared_run):
    cell = next(one for one in compared_run.cells if one.state is CellState.FAILED)
    assert text.cell_line(cell) == (
        "baseline  concurrent  100 users  block 1 repeat 2  300 failed  FAILED: all 300 requests failed"
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


def test_the_comparison_says_both_values_ratio_verdict_target_and_ceiling(compared_run):
    lines = text.comparison_table(compared_run.run).splitlines()
    assert lines[0] == "vLLM 0.32.0, tuned against llama.cpp, the engine inside Ollama"
    fifty = next(line.split() for line in lines if line.split()[:3] == ["50", "users", "tok/s"])
    assert fifty[:12] == [
        *("50", "users", "tok/s", "370", "tok/s", "12,400", "tok/s", "33.6×", "(32.2–34.9)", "faster", "2×", "met")
    ]
    assert fifty[12:] == ["at", "most", "48.5×,", "reachable"]
    last = next(line for line in lines if line.split()[:3] == ["100", "users", "tok/s"])
    assert last.endswith("1 of 4 repeats of the baseline count, 2 are needed")
    one = next(line for line in lines if line.split()[:4] == ["1", "user", "E2E", "p50"])
    assert "2× missed, 200 ms met" in one


def test_tier_and_differences_are_said_before_any_ratio(compared_run, equal_run):
    lines = text.comparison_table(compared_run.run).splitlines()
    first_ratio = next(n for n, line in enumerate(lines) if "×" in line)
    assert lines[1].startswith("as people run them (tier as-run): vLLM 0.32.0, tuned with bf16 weights against")
    assert (
        lines.index("differs: Precision of the weights: q4_1 (baseline), q4_1 (baseline tuned), bf16 (candidate).")
        < first_ratio
    )
    assert "synthetic weights: random, of the model's shape" in text.comparison_table(equal_run.run)


def test_faults_are_said_and_so_is_a_missing_manifest(compared_run):
    manifest = replace(compared_run.run.manifest, faults=("One side has random weights, the other has not.",))
    told = text.comparison_table(replace(compared_run.run, manifest=manifest))
    assert "no fair comparison: One side has random weights, the other has not." in told
    assert "is not recorded" in text.comparison_table(replace(compared_run.run, manifest=None))


def test_each_baseline_has_its_own_table(compared_run, equal_run):
    table = text.comparison_table(compared_run.run)
    assert "Many users at once, streamed, against the baseline: llama.cpp, the engine inside Ollama\n" in table
    assert "against the baseline tuned: llama.cpp, the engine inside Ollama, 100 slots\n" in table
    assert "against the baseline" not in text.comparison_table(equal_run.run)


def test_a_column_of_ceilings_is_there_only_where_one_is_known(compared_run, equal_run):
    assert "ceiling" in text.comparison_table(compared_run.run)
    assert "ceiling" not in text.comparison_table(equal_run.run)


def test_a_flagged_cell_says_what_for(compared_run):
    cell = next(one for one in compared_run.cells if one.flags)
    assert text.cell_line(cell).endswith(
        "flagged: the card's clocks were held down in 12% of the samples: software thermal slowdown"
    )
    lines = text.cells_table([cell]).splitlines()
    assert "flagged" in lines[1].split("  ")
    assert lines[-1].startswith("concurrent, 50 users, block 2 repeat 1 is flagged: the card's clocks")


def test_rates_and_replays_have_their_names(open_run):
    lines = text.cells_table(open_run.cells)
    assert "0.5 requests/s" in lines
    assert "as recorded" in lines
    assert text.cell_line(open_run.cells[0]).startswith("bench  rush  0.5 requests/s  repeat 1  ")


def test_a_capacity_is_a_sentence_and_the_loads_that_were_tried(capacity_run, benched_run):
    lines = text.capacity_table(capacity_run.run).splitlines()
    assert lines[0].startswith("Up to 40 users the server kept TTFT under 500 ms for 95% of the requests")
    assert lines[1].split() == [
        "load",
        "requests",
        "ttft:p95<500ms",
        "e2e:p99<4s",
        "all",
        "of",
        "them",
        "verdict",
        "why",
    ]
    assert len(lines) == 2 + len(capacity_run.run.capacity.steps)
    assert "undecided" in lines[7]
    assert text.capacity_table(benched_run.run) == "no capacity was looked for"


def test_columns_line_up(compared_run):
    table = columns([["users", "what"], ["5", "a"], ["100", "bb"]], right={0})
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
    assert lines[0].split()[:4] == ["scenario", "load", "cell", "state"]
    assert sum("FAILED" in line.split() for line in lines if line.startswith("concurrent ")) == 3
    reason = "the client was the limit: it used 97% of a core, over 90%"
    assert f"concurrent, 100 users, block 2 repeat 2 is INVALID: {reason}" in lines
    assert "84 cells: 79 measured, 1 flagged, 1 INVALID, 3 FAILED" in lines
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
    line = models_table([entry]).splitlines()[1]
    assert line.split("  ")[-1] == licence
    assert "1.54G" in line
    assert "qwen2.5:1.5b-instruct-q4_K_M" in line


def test_a_side_that_was_not_measured_at_a_load_is_called_so(compared_run):
    rows = tuple(
        replace(one, ratio=None, baseline=None, reason="0 of 0 repeats of the baseline tuned count, 2 are needed")
        if (one.against, one.users) == ("baseline tuned", 50)
        else one
        for one in compared_run.run.comparisons
    )
    told = text.comparison_table(replace(compared_run.run, comparisons=rows))
    assert "not measured" in told
    assert "0 of 0" not in told
