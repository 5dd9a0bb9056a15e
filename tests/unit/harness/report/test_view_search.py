"""The settings and the search behind them, in words."""

import msgspec

from harness.records import Outcome, Trial
from harness.report import serve, view

replace = msgspec.structs.replace


def settings_of(recorded, **changes):
    run = replace(recorded.run, **changes)
    return view.page(run, recorded.cells, recorded.trials).settings


def test_the_serve_line_is_ready_to_copy(tuned_run):
    assert settings_of(tuned_run).command == (
        "VLLM_ATTENTION_BACKEND=FLASH_ATTN \\\n"
        "  vllm serve Qwen/Qwen2.5-1.5B-Instruct \\\n"
        "  --max-num-batched-tokens 16384 \\\n"
        "  --max-num-seqs 128 \\\n"
        "  --max-model-len 4096"
    )


def test_a_comparison_shows_the_settings_that_its_candidate_ran_with(compared_run):
    assert "--max-num-seqs 128" in settings_of(compared_run).command
    assert (
        settings_of(compared_run).notes[0]
        == "In the search these settings beat vLLM's own defaults: 1.37× (1.30–1.44)."
    )


def test_what_only_the_measuring_needs_is_not_in_the_serve_line(tuned_run):
    assert "VLLM_NO_USAGE_STATS" not in settings_of(tuned_run).command


def test_a_folder_of_the_measuring_machine_is_not_in_the_serve_line(tuned_run):
    engines = tuple(replace(one, argv=("python", "--model", "/somewhere/model")) for one in tuned_run.run.engines)
    found = settings_of(tuned_run, engines=engines)
    assert "vllm serve qwen2.5-1.5b" in found.command
    assert "somewhere" not in found.command
    assert "in place of qwen2.5-1.5b" in found.notes[-1]


def test_a_hostile_flag_cannot_leave_its_place_in_the_serve_line(tuned_run):
    flags = {"served-model-name": "x; rm -rf ~", "enforce-eager": True}
    run = replace(tuned_run.run, engines=(), preset=replace(tuned_run.run.preset, flags=flags))
    assert serve.line(run) == "vllm serve qwen2.5-1.5b --served-model-name 'x; rm -rf ~' --enforce-eager"


def test_where_the_defaults_won_the_serve_line_is_the_defaults(tuned_run):
    preset = replace(tuned_run.run.preset, is_default=True, flags={}, ratio=None)
    found = settings_of(tuned_run, preset=preset)
    assert found.command.endswith("vllm serve Qwen/Qwen2.5-1.5B-Instruct")
    assert "so these are the defaults" in found.notes[0]
    assert not any(one.is_winner for one in found.trials)


def test_an_unfinished_search_shows_its_trials_and_no_settings(tuned_run):
    found = settings_of(tuned_run, preset=None)
    assert found.command == ""
    assert len(found.trials) == 8


def test_settings_found_elsewhere_are_said_to_be(compared_run):
    preset = replace(compared_run.run.preset, vllm_version="0.26.0", gpu_title="NVIDIA L4")
    notes = " ".join(settings_of(compared_run, preset=preset).notes)
    assert "Found with vLLM 0.26.0, measured here with 0.32.0" in notes
    assert "Found on NVIDIA L4, measured here on NVIDIA GeForce RTX 4090" in notes


def test_a_comparison_without_a_preset_says_that_nothing_was_searched(compared_run):
    run = replace(compared_run.run, preset=None, tuned_in="")
    found = view.page(run, compared_run.cells, ()).settings
    assert found.notes[0] == "These settings were not found by a search."
    assert found.trials == ()
    assert found.chart is None


def test_a_measurement_without_vllm_has_no_settings(benched_run):
    assert settings_of(benched_run) is None


def test_trial_0_is_the_defaults_and_one_by_definition(tuned_run):
    first = settings_of(tuned_run).trials[0]
    assert first.flags == ("vLLM's defaults",)
    assert str(first.objective) == "1× (by definition)"


def test_trials_are_in_their_order_and_the_winner_is_marked(tuned_run):
    trials = tuple(reversed(tuned_run.trials))
    found = view.page(tuned_run.run, tuned_run.cells, trials).settings
    assert [one.number for one in found.trials] == list(range(8))
    assert [one.number for one in found.trials if one.is_winner] == [4]


def test_a_failed_trial_keeps_its_place_with_outcome_and_reason(tuned_run):
    third = settings_of(tuned_run).trials[3]
    assert (third.badge.text, third.objective.text) == ("out of memory", "–")
    assert third.reason.startswith("vLLM needs 1.40 GiB more")
    assert third.bar is None


def test_the_chart_has_the_flags_that_differ_and_says_what_failed(tuned_run):
    chart = settings_of(tuned_run).chart
    assert chart.flags == ("max-num-batched-tokens", "max-num-seqs", "max-model-len")
    assert chart.marks[0].values == ("·", "·", "·")
    assert [one.says for one in chart.marks] == ["the defaults", "", "", "out of memory", "", "", "invalid", "hung"]
    assert "trial 3: out of memory; trial 4: 1.37× (1.30–1.44)" in chart.description


def test_a_flag_that_never_changes_is_no_column_of_the_chart(tuned_run):
    trials = [
        Trial(number=n, flags={"dtype": "auto", "max-num-seqs": 2**n}, outcome=Outcome.MEASURED) for n in range(3)
    ]
    assert view.page(tuned_run.run, (), trials).settings.chart.flags == ("max-num-seqs",)


def test_the_search_is_counted_at_the_top(tuned_run):
    strip = view.page(tuned_run.run, tuned_run.cells, tuned_run.trials).strip
    assert [(tile.name, tile.figure.text) for tile in strip.tiles] == [
        ("winner ÷ defaults", "1.37×"),
        ("settings tried", "7"),
        ("of them without a figure", "3"),
        ("time spent", "57 min 30 s"),
    ]


def test_charts_of_a_search_show_the_defaults_and_the_winner(tuned_run):
    page = view.page(tuned_run.run, tuned_run.cells, tuned_run.trials)
    labels = [one.label for one in page.charts[0].charts[0].series]
    assert labels == ["vLLM 0.32.0, defaults", "vLLM 0.32.0, trial 4"]
