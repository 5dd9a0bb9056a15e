"""Comparisons, targets, and what was equal between the sides."""

import pytest

from harness.records import Manifest, Sampling, Verdict
from harness.report import view
from tests.unit.harness.report.pages import engines_with, manifest_with, page_of, replace, row

# ---------------------------------------------------------------- targets


def targets_of(recorded, **changes):
    return page_of(recorded, **changes).targets


def test_targets_against_the_engine_inside_ollama_say_what_was_measured(compared_run):
    expected = "Targets against Ollama, measured here against llama.cpp, the engine inside Ollama"
    assert targets_of(compared_run).heading == expected


def test_targets_against_ollama_itself_carry_its_title(compared_run):
    engines = engines_with(compared_run, "baseline", engine="ollama", title="Ollama 0.33.1")
    assert targets_of(compared_run, engines=engines).heading == "Targets against Ollama 0.33.1"


def test_the_tier_stands_under_the_targets(compared_run):
    assert targets_of(compared_run).notes[0].startswith("All of it as people run them (tier as-run): vLLM")


def one_target(recorded, low, value, high, *, met, **more):
    rows = (row(50, low, value, high, verdict=Verdict.UNDECIDED, target=2.0, met=met, **{"done": 1.5, **more}),)
    return targets_of(recorded, comparisons=rows).rows[0]


def test_a_target_is_met_missed_undecided_or_not_measured(compared_run):
    assert one_target(compared_run, 2.1, 2.3, 2.5, met=True).badge.text == "met"
    assert one_target(compared_run, 1.1, 1.2, 1.3, met=False).badge.text == "missed"
    assert one_target(compared_run, 1.9, 2.1, 2.3, met=None).badge.text == "undecided"
    absent = one_target(compared_run, None, None, None, met=None, reason="no valid cell")
    assert (absent.badge.text, absent.detail, absent.ratio.text) == ("not measured", "no valid cell", "–")


def test_a_missed_target_says_that_what_counts_as_done_was_reached(compared_run):
    assert one_target(compared_run, 1.6, 1.7, 1.8, met=False).detail == "but 1.5×, which counts as done, is reached"
    assert one_target(compared_run, 1.4, 1.7, 1.9, met=False).detail == ""
    assert one_target(compared_run, 5.1, 6.0, 7.0, met=True, stretch=5.0).detail == "and so is the stretch of 5×"


def test_a_target_that_the_card_cannot_reach_says_so_with_the_figure(compared_run):
    found = one_target(
        compared_run,
        1.1,
        1.2,
        1.25,
        met=False,
        ceiling_ratio=1.3,
        reach="unreachable: at most 1.30x",
    )
    assert (found.ceiling_badge.text, found.ceiling) == ("unreachable", "at most 1.30× on this card")


def test_a_target_that_needs_users_to_be_served_unlike_says_what_that_assumes(compared_run):
    told = "at most 1.80x where all users are served alike"
    found = one_target(compared_run, 1.1, 1.2, 1.25, met=False, ceiling_ratio=9.0, reach=f"unreachable: {told}")
    assert (found.ceiling_badge.text, found.ceiling) == ("unreachable", told)


def test_a_reachable_target_shows_its_ceiling_and_an_unknown_one_has_none(compared_run):
    found = one_target(compared_run, 2.1, 2.3, 2.5, met=True, ceiling_ratio=45.2, reach="reachable")
    assert (found.ceiling_badge.text, found.ceiling) == ("reachable", "at most 45.2× on this card")
    unknown = one_target(compared_run, 2.1, 2.3, 2.5, met=True)
    assert (unknown.ceiling_badge, unknown.ceiling) == (None, "")


def test_a_ratio_surely_above_its_ceiling_is_called_invalid(compared_run):
    found = one_target(compared_run, 2.1, 2.3, 2.5, met=True, ceiling_ratio=1.9, reach="reachable")
    assert found.ceiling_badge.text == "above its ceiling: INVALID"
    near = one_target(compared_run, 1.8, 2.0, 2.2, met=None, ceiling_ratio=1.9, reach="reachable")
    assert near.ceiling_badge.text == "reachable"


def test_without_data_sheet_figures_no_target_is_called_reachable(equal_run):
    targets = targets_of(equal_run)
    assert not any(one.ceiling_badge for one in targets.rows)
    assert any("No data-sheet figures for a CPU" in note for note in targets.notes)


def test_seconds_are_judged_by_the_metric_they_are_of_even_beside_a_ratio_of_another(compared_run):
    by_load = {(one.name, one.load): one for one in targets_of(compared_run).rows}
    five = by_load["Many users at once, streamed", "5 users"]
    assert five.metric == "Output tokens per second"
    assert (five.measured, five.absolute, five.absolute_badge.text) == ("426 ms", "3.00 s E2E p50", "met")
    assert five.then == "7.57 s E2E p50"
    fifty = by_load["Many users at once, streamed", "50 users"]
    assert (fifty.absolute, fifty.absolute_badge, fifty.then) == ("", None, "")


def test_without_targets_toml_the_page_keeps_its_targets_and_loses_only_what_was_then(compared_run):
    page = view.page(compared_run.run, compared_run.cells, ())
    assert len(page.targets.rows) == 4
    assert all(not one.then for one in page.targets.rows)


def test_where_the_then_comes_from_is_said(compared_run):
    notes = " ".join(targets_of(compared_run).notes)
    assert "on rtx4090 with qwen2.5-1.5b; it is no part of this run" in notes


def test_a_run_without_targets_has_no_targets_table(compared_run):
    assert targets_of(compared_run, comparisons=(row(50, 2, 3, 4, verdict=Verdict.FASTER),)) is None


def test_a_target_against_the_tuned_baseline_is_named_as_such(compared_run):
    rows = (row(50, 2.1, 2.3, 2.5, verdict=Verdict.FASTER, target=2.0, met=True, against="baseline tuned"),)
    found = targets_of(compared_run, comparisons=rows).rows[0]
    assert found.load == "50 users, against llama.cpp, the engine inside Ollama, 100 slots"


# ---------------------------------------------------------------- tables


def test_both_baselines_stand_side_by_side(compared_run):
    found = page_of(compared_run).comparisons
    assert [side.role for side in found.sides] == ["baseline", "baseline tuned", "candidate"]
    assert found.ratios == (
        "Ratio to llama.cpp, the engine inside Ollama",
        "Ratio to llama.cpp, the engine inside Ollama, 100 slots",
    )
    fifty = next(load for load in found.tables[1].loads if load.load == "50 users")
    first = fifty.rows[0]
    assert first.values == ("370 tok/s", "832 tok/s", "12,400 tok/s")
    assert [str(one.ratio) for one in first.ratios] == ["33.6× (32.2–34.9)", "14.9× (14.3–15.5)"]


def test_one_baseline_has_one_ratio(equal_run):
    found = page_of(equal_run).comparisons
    assert found.ratios == ("Ratio",)
    assert all(len(line.values) == 2 for table in found.tables for load in table.loads for line in load.rows)


def test_a_metric_that_only_one_baseline_has_keeps_its_line(compared_run):
    page = page_of(compared_run, comparisons=(
        row(50, 2, 3, 4, verdict=Verdict.FASTER),
        row(50, 2, 3, 4, verdict=Verdict.FASTER, against="baseline tuned", metric="e2e_s.p95"),
    ))  # fmt: skip
    lines = page.comparisons.tables[0].loads[0].rows
    assert [one.badge.text for one in lines[0].ratios] == ["faster", "no ratio"]
    assert lines[1].values == ("–", "100 s", "200 s")


def test_a_ratio_shows_what_the_card_allows_at_most(compared_run):
    loads = page_of(compared_run).comparisons.tables[1].loads
    assert loads[0].rows[0].ratios[0].ceiling.startswith("at most 1.1")
    assert loads[0].rows[1].ratios[0].ceiling == ""


def test_a_reason_that_metrics_share_is_said_once(compared_run):
    table = page_of(compared_run).comparisons.tables[1]
    assert table.loads[0].reasons == (
        "tok/s, ITL p50, TPOT p50 and E2E p50, against the baseline: the interval reaches over 1: more repeats",
        "tok/s, ITL p50, TPOT p50 and E2E p50, against the baseline tuned: the interval reaches over 1: more repeats",
    )
    assert table.loads[-1].reasons == ("against the baseline: 1 of 4 repeats of the baseline count, 2 are needed",)


def test_the_bar_of_a_ratio_lies_on_the_right_side_of_one(equal_run):
    rows = page_of(equal_run).comparisons.tables[1].loads[3].rows
    faster, slower = rows[0].ratios[0].bar, rows[1].ratios[0].bar
    assert faster.low > faster.one
    assert slower.high < slower.one
    assert all(0 <= one.bar.low <= one.bar.value <= one.bar.high <= 100 for line in rows for one in line.ratios)


def test_loads_of_a_rate_are_sorted_by_it(compared_run):
    rows = [row(0, 2, 3, 4, verdict=Verdict.FASTER, rate_per_s=rate) for rate in (10.0, 0.5, 2.0)]
    loads = page_of(compared_run, comparisons=tuple(rows)).comparisons.tables[0].loads
    assert [load.load for load in loads] == ["0.5 requests/s", "2 requests/s", "10 requests/s"]


# ---------------------------------------------------------------- fairness


def manifest_rows(recorded, **changes):
    return {one.name: one for one in page_of(recorded, **changes).fairness.rows}


def test_the_conditions_that_differ_are_marked_and_only_these(compared_run):
    rows = manifest_rows(compared_run)
    assert {name for name, one in rows.items() if one.differs} == {"Weights", "Sequences at a time"}
    assert [side.role for side in page_of(compared_run).fairness.sides] == ["baseline", "baseline tuned", "candidate"]
    assert rows["Weights"].values == (("q4_1",), ("q4_1",), ("bf16",))
    assert rows["Size of the weights"].values[2] == ("2.88 GiB",)
    assert rows["Prompt tokens found in it"].values == (("not said",), ("not said",), ("11.3%",))


def test_synthetic_weights_are_said_in_the_table_too(equal_run):
    assert manifest_rows(equal_run)["Weights"].values[0] == ("f16, synthetic: random, of the model's shape",)
    assert not manifest_rows(equal_run)["Weights"].differs


@pytest.mark.parametrize(
    ("one", "other", "differs"), [("bf16", "f16", False), ("Q4_1", "q4_1", False), ("q8_0", "f16", True)]
)
def test_precisions_are_compared_by_what_they_cost(equal_run, one, other, differs):
    manifest = manifest_with(equal_run, "baseline", weights_precision=one, is_synthetic=False)
    sides = tuple(
        replace(side, weights_precision=other, is_synthetic=False) if side.role == "candidate" else side
        for side in manifest.sides
    )
    assert manifest_rows(equal_run, manifest=replace(manifest, sides=sides))["Weights"].differs is differs


def test_prompts_of_a_percent_apart_are_no_difference_and_of_more_are_one(compared_run):
    assert not manifest_rows(compared_run)["Prompt tokens, mean"].differs
    far = manifest_with(compared_run, "candidate", prompt_tokens_mean=278.0)
    assert manifest_rows(compared_run, manifest=far)["Prompt tokens, mean"].differs


def test_what_no_side_says_has_no_row_and_what_one_side_does_not_say_is_no_difference(equal_run):
    sides = tuple(replace(side, kv_precision="", context_tokens=None) for side in equal_run.run.manifest.sides)
    sides = (sides[0], replace(sides[1], context_tokens=4096))
    rows = manifest_rows(equal_run, manifest=replace(equal_run.run.manifest, sides=sides))
    assert "Precision of the KV cache" not in rows
    assert rows["Context of one sequence"].values == (("not said",), ("4,096 tokens",))
    assert not rows["Context of one sequence"].differs


def test_other_sampling_is_a_difference(compared_run):
    manifest = manifest_with(compared_run, "candidate", sampling=Sampling(temperature=0.7))
    assert manifest_rows(compared_run, manifest=manifest)["Sampling"].differs


def test_how_each_server_was_started_is_told_with_all_its_launches(compared_run):
    found = page_of(compared_run).fairness
    settings = {one.name: one for one in found.settings}
    assert settings["Launched"].values[0] == ("2 times: 3.04 s and 3.24 s until ready",)
    assert settings["Log"].values[0] == ("engine-baseline-llamacpp.log",)
    assert settings["Flags passed"].values[2][0] == "max-num-batched-tokens = 16384"
    assert "Version" not in settings


def test_without_a_manifest_the_servers_still_tell_their_version_and_precision(benched_run):
    found = page_of(benched_run).fairness
    assert found.rows == ()
    settings = {one.name: one.values for one in found.settings}
    assert settings["Version"] == (("0.2.14",),)
    assert settings["Precision of the weights"] == (("q4_1",),)


def test_secrets_do_not_reach_the_page(compared_run):
    engines = engines_with(
        compared_run,
        "candidate",
        env={"HF_TOKEN": "s3cret"},
        flags={"api-key": "s3cret"},
        argv=("vllm", "--api-key", "s3cret"),
    )
    page = page_of(compared_run, engines=engines, command="harness compare --api-key s3cret")
    told = repr(page)
    for facts in engines:
        told = told.replace(repr(facts), "")
    assert "s3cret" not in told


def test_a_side_that_the_page_does_not_know_is_left_out_of_the_manifest(equal_run):
    manifest = equal_run.run.manifest
    strange = replace(manifest.sides[0], role="somebody else")
    more = Manifest(tier=manifest.tier, sides=(*manifest.sides, strange))
    assert len(page_of(equal_run, manifest=more).fairness.sides) == 2


# ---------------------------------------------------------------- sides that were not measured everywhere


def test_a_side_without_a_cell_at_a_load_is_said_not_to_be_measured_once_with_the_reason(compared_run):
    cells = [cell for cell in compared_run.cells if (cell.role, cell.users) != ("baseline tuned", 50)]
    rows = tuple(
        replace(one, ratio=None, baseline=None, reason="0 of 0 repeats of the baseline tuned count, 2 are needed")
        if (one.against, one.users) == ("baseline tuned", 50)
        else one
        for one in compared_run.run.comparisons
    )
    found = page_of(compared_run, cells, comparisons=rows).comparisons
    fifty = next(load for table in found.tables for load in table.loads if load.load == "50 users")
    assert {(str(line.ratios[1].ratio), line.ratios[1].badge) for line in fifty.rows} == {("not measured", None)}
    assert not [reason for reason in fifty.reasons if "0 of 0" in reason]
    assert [note for note in found.notes if note.startswith("“Not measured”")] == [
        "“Not measured”: llama.cpp, the engine inside Ollama, 100 slots, has no cell at 50 users in some scenario: its "
        "settings are measured only where they may matter."
    ]
    other = next(load for table in found.tables for load in table.loads if load.load == "10 users")
    assert other.rows[0].ratios[1].badge is not None


def test_a_title_that_would_fill_the_head_of_a_table_gives_way_to_its_role(compared_run):
    title = "llama.cpp, the engine inside Ollama, 100 slots, flash attention on, K and V in 8 bits"
    found = page_of(compared_run, engines=engines_with(compared_run, "baseline tuned", title=title)).comparisons
    assert found.heads == ("llama.cpp, the engine inside Ollama", "the baseline tuned", "vLLM 0.32.0, tuned")
    assert found.ratios[1] == "Ratio to the baseline tuned"
