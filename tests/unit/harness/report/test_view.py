"""What a page says; no file is read or written here."""

import inspect

import msgspec
import pytest

from harness.records import (
    CellState,
    Comparison,
    Estimate,
    Run,
    RunState,
    Verdict,
)
from harness.report import view, words
from harness.stats import summary, window

replace = msgspec.structs.replace


def page_of(recorded, **changes):
    run = replace(recorded.run, **changes)
    return view.page(run, recorded.cells, recorded.trials, targets=recorded.targets)


def row(users, low, value, high, *, verdict, metric="output_tok_s", **more):
    ratio = None if value is None else Estimate(value=value, low=low, high=high, confidence=0.95, n=6, unit="ratio")
    return Comparison(
        scenario="concurrent",
        users=users,
        metric=metric,
        baseline=100.0,
        candidate=200.0,
        ratio=ratio,
        verdict=verdict,
        **more,
    )


# ---------------------------------------------------------------- the headline


def headline(recorded, *rows):
    return page_of(recorded, comparisons=rows).headline


def test_the_headline_names_both_servers_with_their_precision_and_the_interval(compared_run):
    text = headline(
        compared_run,
        row(1, 0.361, 0.372, 0.384, verdict=Verdict.SLOWER),
        row(50, 3.1, 3.42, 3.81, verdict=Verdict.FASTER),
    )
    assert text == (
        "At 50 users vLLM 0.32.0, tuned (bf16), gave 3.42× (3.10–3.81) the tokens per second of "
        "llama.cpp, the engine inside Ollama (q4_1); alone it was slower: 0.372× (0.361–0.384)."
    )


def test_the_headline_leaves_precision_out_where_it_is_the_same(compared_run):
    engines = tuple(replace(facts, precision="bf16") for facts in compared_run.run.engines)
    page = page_of(compared_run, engines=engines, comparisons=(row(50, 3.1, 3.42, 3.81, verdict=Verdict.FASTER),))
    assert page.headline.startswith("At 50 users vLLM 0.32.0, tuned, gave 3.42×")
    assert "bf16" not in page.headline


def test_an_undecided_headline_claims_nothing(compared_run):
    text = headline(compared_run, row(50, 0.93, 1.04, 1.15, verdict=Verdict.UNDECIDED))
    assert "leaves open which is faster" in text
    assert "1.04× (0.93–1.15)" in text
    assert "gave" not in text


def test_a_headline_of_equal_servers_says_so(compared_run):
    text = headline(
        compared_run,
        row(1, 0.99, 1.0, 1.01, verdict=Verdict.SAME),
        row(50, 0.99, 1.0, 1.01, verdict=Verdict.SAME),
    )
    assert "gave as many tokens per second as" in text
    assert "alone there was no difference too" in text


def test_a_load_without_a_ratio_is_named_in_the_headline(compared_run):
    text = headline(
        compared_run,
        row(1, 1.1, 1.2, 1.3, verdict=Verdict.FASTER),
        row(50, 3.1, 3.42, 3.81, verdict=Verdict.FASTER),
        row(100, None, None, None, verdict=Verdict.UNDECIDED, reason="no cell"),
    )
    assert text.startswith("At 50 users")
    assert "alone it was faster too: 1.20× (1.10–1.30)" in text
    assert text.endswith("no ratio can be given for 100 users.")


def test_a_headline_without_any_ratio_gives_the_reason(compared_run):
    text = headline(
        compared_run, row(1, None, None, None, verdict=Verdict.UNDECIDED, reason="the client was the limit.")
    )
    assert text.startswith("With 1 user no ratio")
    assert "(the client was the limit)" in text


def test_a_comparison_of_latencies_alone_has_a_headline_too(compared_run):
    text = headline(compared_run, row(1, 1.9, 2.0, 2.1, verdict=Verdict.FASTER, metric="e2e_s.p50"))
    assert "2.00× (1.90–2.10) the speed in E2E p50" in text


def test_a_search_says_whether_its_winner_beat_the_defaults(tuned_run):
    preset = tuned_run.run.preset
    found = "The settings found are 1.37× (1.30–1.44) as fast as vLLM's own defaults, judged by the geometric mean"
    assert page_of(tuned_run).headline.startswith(found)
    default = page_of(tuned_run, preset=replace(preset, is_default=True, flags={}, ratio=None))
    assert "Nothing that was tried (7 trials) was surely faster" in default.headline
    open_ratio = replace(preset.ratio, low=0.98)
    assert "does not show a gain" in page_of(tuned_run, preset=replace(preset, ratio=open_ratio)).headline
    unfinished = page_of(tuned_run, preset=None, state=RunState.INTERRUPTED)
    assert "the best so far, not confirmed, reached 1.37×" in unfinished.headline


def test_a_measurement_of_one_server_speaks_of_its_widest_scenario(benched_run):
    text = page_of(benched_run).headline
    assert text.startswith("At 100 users llama.cpp, the engine inside Ollama, gave 361 output tokens per second (")
    assert "over 3 repeats); alone it gave 368 tok/s (" in text


def test_the_strip_shows_every_load_and_not_a_chosen_one(compared_run):
    strip = page_of(compared_run).strip
    assert [tile.name for tile in strip.tiles] == ["1 user", "5 users", "10 users", "50 users", "100 users"]
    assert strip.tiles[-1].badge == words.NO_RATIO


# ---------------------------------------------------------------- what must be read with it


def test_weights_of_another_precision_are_warned_of_beside_the_headline_and_under_fairness(compared_run):
    page = page_of(compared_run)
    assert "Weights differ in precision" in page.cautions[0]
    assert "vLLM 0.32.0, tuned: bf16; llama.cpp, the engine inside Ollama: q4_1" in page.fairness.warning


@pytest.mark.parametrize(
    ("one", "other", "is_warned"), [("bf16", "f16", False), ("bf16", "", True), ("Q4_1", "q4_1", False)]
)
def test_precisions_are_compared_by_what_they_cost(compared_run, one, other, is_warned):
    first, second = compared_run.run.engines
    page = page_of(compared_run, engines=(replace(first, precision=other), replace(second, precision=one)))
    assert bool(page.fairness.warning) is is_warned


def test_bad_cells_are_counted_at_the_top_and_listed_with_their_reasons(compared_run):
    page = page_of(compared_run)
    assert "3 of 42 cells are invalid or failed and enter no figure; the reasons are listed below." in page.cautions
    assert [problem.badge.text for problem in page.problems] == ["FAILED", "FAILED", "INVALID"]
    assert page.problems[-1].where == "vLLM 0.32.0, tuned, Many users at once, streamed, 100 users, repeat 3"
    assert page.problems[-1].reasons == ("the client was the limit: it used 97% of a core",)


@pytest.mark.parametrize(
    ("state", "title", "tone"),
    [
        (RunState.RUNNING, "This run has not ended", "unsure"),
        (RunState.INTERRUPTED, "This run was interrupted", "unsure"),
        (RunState.FAILED, "This run failed", "bad"),
    ],
)
def test_a_run_that_is_not_whole_has_a_banner_with_its_error(compared_run, state, title, tone):
    banner = page_of(compared_run, state=state, error="no room on the card").banner
    assert (banner.title, banner.tone) == (title, tone)
    assert banner.text.endswith("no room on the card")


def test_a_run_that_ended_well_has_no_banner(compared_run):
    assert page_of(compared_run).banner is None


@pytest.mark.parametrize("kind", ["compare", "tune", "bench"])
def test_a_run_with_nothing_in_it_has_a_page(compared_run, kind):
    bare = Run(
        version=1,
        id="x",
        command="harness 'unfinished",
        kind=kind,
        state=RunState.RUNNING,
        started_utc="some day",
        harness_version="0",
        host=compared_run.run.host,
        gpu="cpu",
        model="m",
        seed=1,
    )
    page = view.page(bare, (), ())
    assert page.date == "some day"
    assert page.headline
    assert page.commands[0].name == "harness ''\"'\"'unfinished'"


# ---------------------------------------------------------------- targets


def targets_of(recorded, **changes):
    return page_of(recorded, **changes).targets


def test_targets_against_the_engine_inside_ollama_say_what_was_measured(compared_run):
    expected = "Targets against Ollama, measured here against llama.cpp, the engine inside Ollama"
    assert targets_of(compared_run).heading == expected


def test_targets_against_ollama_itself_carry_its_title(compared_run):
    first, second = compared_run.run.engines
    engines = (replace(first, engine="ollama", title="Ollama 0.33.1"), second)
    assert targets_of(compared_run, engines=engines).heading == "Targets against Ollama 0.33.1"


def one_target(recorded, low, value, high, *, met, **more):
    verdict = Verdict.UNDECIDED
    rows = (row(50, low, value, high, verdict=verdict, target=2.0, met=met, **{"done": 1.5, **more}),)
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


def test_seconds_are_judged_by_the_metric_they_are_of_even_beside_a_ratio_of_another(compared_run):
    by_load = {(one.name, one.load): one for one in targets_of(compared_run).rows}
    five = by_load["Many users at once, streamed", "5 users"]
    assert five.metric == "Output tokens per second"
    assert (five.measured, five.absolute, five.absolute_badge.text) == ("430 ms", "3.00 s E2E p50", "met")
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


# ---------------------------------------------------------------- tables


def test_a_reason_that_metrics_share_is_said_once(compared_run):
    table = page_of(compared_run).comparisons[1]
    assert table.loads[0].reasons == (
        "tok/s, ITL p50, TPOT p50 and E2E p50: the interval reaches over 1: more repeats",
    )
    assert table.loads[-1].reasons == ("1 of 3 repeats of the baseline count, 2 are needed",)


def test_the_bar_of_a_ratio_lies_on_the_right_side_of_one(compared_run):
    rows = page_of(compared_run).comparisons[1].loads[1].rows
    faster, slower = rows[0], rows[2]
    assert faster.bar.low > faster.bar.one
    assert slower.bar.high < slower.bar.one
    assert all(0 <= one.bar.low <= one.bar.value <= one.bar.high <= 100 for one in rows if one.bar)


def test_a_p95_of_too_few_values_is_a_dash_with_its_footnote(compared_run):
    cells = page_of(compared_run).cells
    group = next(
        one for one in cells.groups if one.title == "Many users at once, streamed: llama.cpp, the engine inside Ollama"
    )
    assert group.stats == ("p50", "p95", "n")
    name, (p50, p95, n) = group.rows[0].lines[0]
    assert (name, p50, p95, n) == ("TTFT", "11.0 ms (10.7–11.3)", "–†", "57")
    assert "–† too few values for an interval" in cells.notes


def test_answers_in_one_piece_have_no_column_for_what_they_cannot_have(compared_run):
    group = page_of(compared_run).cells.groups[0]
    assert group.title.startswith("One request after another")
    assert [name for name, _ in group.rows[0].lines] == ["E2E"]


def test_the_client_accounts_for_itself_in_every_cell(compared_run):
    rows = [one for group in page_of(compared_run).cells.groups for one in group.rows]
    assert rows[0].client == ("3.5% of a core", "lag p50 0.08 ms", "lag p99 1.10 ms")
    silent = view.page(compared_run.run, [replace(compared_run.cells[0], client=None)], ())
    assert silent.cells.groups[0].rows[0].client == ()


def test_a_failed_cell_shows_dashes_and_never_zero_speed(compared_run):
    rows = [one for group in page_of(compared_run).cells.groups for one in group.rows if one.badge.text == "FAILED"]
    assert len(rows) == 2
    for one in rows:
        assert one.throughput.text == "–"
        assert one.lines == ()
        assert (one.requests, one.failures) == ("0", "300 failed")


def test_cells_of_other_trials_are_folded_away_but_there(tuned_run):
    cells = page_of(tuned_run).cells
    assert [group.is_folded for group in cells.groups] == [False, True, False]
    assert cells.folded == "15 more cells of the other servers of this run"


def test_figures_stand_where_nothing_is_compared(benched_run, compared_run):
    assert page_of(compared_run).figures == ()
    tables = page_of(benched_run).figures
    assert [table.metrics[0] for table in tables] == ["tok/s"] * 3
    assert tables[0].metrics == ("tok/s", "E2E p50")
    assert "No TTFT, ITL or TPOT" in tables[0].notes[-1]


# ---------------------------------------------------------------- charts


def chart_of(page, metric):
    return next(one for group in page.charts for one in group.charts if one.name.endswith(metric))


def test_a_point_is_the_geometric_mean_of_the_repeats_and_its_bar_their_range(compared_run):
    chart = chart_of(page_of(compared_run), "output_tok_s")
    here = [
        cell.output_tok_s.value
        for cell in compared_run.cells
        if (cell.role, cell.scenario, cell.users) == ("candidate", "concurrent", 50)
    ]
    point = chart.series[1].points[3]
    assert point.value == pytest.approx((here[0] * here[1] * here[2]) ** (1 / 3))
    assert (point.low, point.high) == (min(here), max(here))
    assert chart.ticks == (1, 5, 10, 50, 100)


def test_invalid_and_failed_cells_enter_no_chart(compared_run):
    valid = [
        cell.output_tok_s.value
        for cell in compared_run.cells
        if (cell.role, cell.scenario, cell.users, cell.state) == ("candidate", "concurrent", 100, CellState.MEASURED)
    ]
    assert len(valid) == 2
    last = chart_of(page_of(compared_run), "output_tok_s").series[1].points[-1]
    assert (last.low, last.high) == (min(valid), max(valid))


def test_a_load_without_a_valid_repeat_is_named_under_the_charts(compared_run):
    cells = [
        replace(cell, state=CellState.INVALID)
        if (cell.role, cell.scenario, cell.users) == ("candidate", "concurrent", 10)
        else cell
        for cell in compared_run.cells
    ]
    page = view.page(compared_run.run, cells, ())
    assert "vLLM 0.32.0, tuned at 10 users (Many users at once, streamed)" in page.chart_notes[-1]
    assert [point.users for point in chart_of(page, "output_tok_s").series[1].points] == [1, 5, 50, 100]


def test_a_chart_is_logarithmic_only_where_small_values_would_vanish(compared_run):
    page = page_of(compared_run)
    assert chart_of(page, "output_tok_s").is_log
    assert not chart_of(page, "itl_s.p50").is_log
    assert chart_of(page, "itl_s.p50").unit == "ms"
    assert chart_of(page, "ttft_s.p50").unit == "s, logarithmic"


def test_a_chart_can_be_read_without_eyes(compared_run):
    text = chart_of(page_of(compared_run), "output_tok_s").description
    assert "llama.cpp, the engine inside Ollama: 370 tok/s at 1" in text
    assert text.endswith("users.")


def test_scenarios_of_one_load_are_not_drawn(compared_run):
    assert [group.title for group in page_of(compared_run).charts] == ["Many users at once, streamed"]
    alone = [cell for cell in compared_run.cells if cell.scenario == "sequential"]
    page = view.page(compared_run.run, alone, ())
    assert page.charts == ()
    assert page.chart_notes == ("Every scenario has one load only: there is nothing to draw.",)


# ---------------------------------------------------------------- method, machine, limits


def test_every_value_of_a_scenario_is_on_the_page(compared_run):
    table = page_of(compared_run).scenarios
    facts = {name: values[1] for name, values in table.rows}
    assert facts["Users"] == "1, 5, 10, 50 and 100"
    assert facts["Prompt"].startswith("192 English words")
    assert "counted by the servers: 271 to 272 tokens" in facts["Prompt"]
    assert facts["Answer"] == "128 tokens, streamed; counted by the servers: 128 tokens"
    assert facts["Sampling"].startswith("temperature 0 (greedy), top-p 1, top-k off")
    assert facts["Repeats"] == "3"


def test_the_rules_told_on_the_page_are_those_that_judged_the_cells(compared_run):
    told = " ".join(fact.text for fact in page_of(compared_run).method)
    share = inspect.signature(window.steady_window).parameters["share"].default
    assert f"at least {share:.0%} of the users" in told
    assert f"Over {summary.MAX_FAILURE_RATIO:.0%} of them makes a cell invalid" in told


def test_levels_that_were_left_out_are_said(compared_run):
    cells = [cell for cell in compared_run.cells if cell.users < 50]
    table = view.page(compared_run.run, cells, ()).scenarios
    assert dict(table.rows)["Users"][1] == "1, 5 and 10 (left out: 50 and 100)"


def test_every_term_that_the_tables_use_is_explained(compared_run):
    terms = {fact.name for fact in page_of(compared_run).glossary}
    assert {"TTFT", "ITL", "TPOT", "E2E", "tok/s", "Interval", "Ratio", "Verdict", "Cell"} <= terms


def test_the_conditions_that_differ_are_marked_and_only_these(compared_run):
    rows = {one.name: one for one in page_of(compared_run).fairness.rows}
    assert rows["Precision of the weights"].differs
    assert rows["Slots"].differs
    assert not rows["Context of a request"].differs
    assert not rows["Version"].differs


def test_tokens_are_compared_scenario_by_scenario(compared_run):
    """A mean over all scenarios would weigh them by how fast each server was."""
    rows = {one.name: one for one in page_of(compared_run).fairness.rows}
    assert rows["Output tokens"].values[0] == ("sequential: 64.0", "concurrent: 128", "streaming: 64.0")
    assert rows["Output tokens"].values[0] == rows["Output tokens"].values[1]


def test_secrets_do_not_reach_the_page(compared_run):
    first, second = compared_run.run.engines
    secret = replace(
        second, env={"HF_TOKEN": "s3cret"}, flags={"api-key": "s3cret"}, argv=("vllm", "--api-key", "s3cret")
    )
    page = page_of(compared_run, engines=(first, secret), command="harness compare --api-key s3cret")
    assert "s3cret" not in repr(page).replace(repr(secret), "")


def test_the_notes_of_a_run_are_its_first_limits(compared_run):
    page = page_of(compared_run)
    assert page.limits[: len(compared_run.run.notes)] == compared_run.run.notes


def test_the_command_that_repeats_a_run_is_given(compared_run):
    first, second = page_of(compared_run).commands
    assert first.name == compared_run.run.command
    assert compared_run.run.tuned_in in first.text
    assert second.name == f"harness report {compared_run.run.id}"


def test_a_machine_without_a_gpu_is_named_by_its_cpu(compared_run):
    host = replace(compared_run.run.host, gpu=None, cpu="Xeon", cores=2)
    assert page_of(compared_run, host=host).title == "qwen2.5-1.5b on a CPU (Xeon, 2 cores)"


def test_two_servers_of_one_title_are_told_apart_by_their_part(compared_run):
    first, second = compared_run.run.engines
    page = page_of(compared_run, engines=(replace(first, title="vLLM 1"), replace(second, title="vLLM 1")))
    assert [side.title for side in page.sides] == ["vLLM 1 (baseline)", "vLLM 1 (candidate)"]
