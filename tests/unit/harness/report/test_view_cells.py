"""All cells, how many of them count, and the client's account of itself."""

from harness.records import CellState
from harness.report import view
from harness.stats import summary
from tests.unit.harness.report.pages import page_of, replace


def group_of(page, title):
    return next(one for one in page.cells.groups if one.title == title)


# ---------------------------------------------------------------- how many count


def test_cells_are_counted_at_the_top_and_the_bad_ones_told_with_their_reasons(compared_run):
    found = page_of(compared_run).validity
    assert found.counts == "84 cells: 79 measured, 1 flagged, 1 INVALID, 3 FAILED"
    assert not found.is_clean
    assert [problem.badge.text for problem in found.problems] == ["FAILED", "INVALID", "flagged"]
    invalid = found.problems[1]
    assert invalid.where == "vLLM 0.32.0, tuned, Many users at once, streamed, 100 users, block 2 repeat 2"
    assert invalid.reasons == ("the client was the limit: it used 97% of a core, over 90%",)
    assert found.problems[2].reasons[0].startswith("the card's clocks were held down in 12% of the samples")
    assert found.more == ""


def test_repeats_with_the_same_reason_are_told_once(compared_run):
    failed = page_of(compared_run).validity.problems[0]
    assert failed.where.endswith("100 users, block 1 repeat 2, block 2 repeat 1 and block 2 repeat 2")


def test_a_run_in_which_all_is_well_says_only_how_many(equal_run):
    found = page_of(equal_run).validity
    assert (found.counts, found.is_clean, found.problems) == ("56 cells: 56 measured", True, ())


def test_the_first_problems_stand_at_the_top_and_all_of_them_with_the_cells(equal_run):
    cells = [
        replace(cell, state=CellState.INVALID, reasons=(f"reason {n}",)) if n < 9 else cell
        for n, cell in enumerate(equal_run.cells)
    ]
    page = page_of(equal_run, cells)
    assert len(page.validity.problems) == 5
    assert page.validity.more == "and 4 more, all of them under “All cells”"
    assert len(page.problems) == 9


def test_cells_of_other_trials_are_counted_apart(tuned_run):
    assert page_of(tuned_run).validity.counts == "30 cells: 30 measured; 15 more of other servers that this run tried"


def test_a_failed_cell_without_a_reason_says_that_none_was_recorded(compared_run):
    cells = [replace(cell, reasons=()) for cell in compared_run.cells if cell.state is CellState.FAILED]
    assert page_of(compared_run, cells).problems[0].reasons == ("no reason was recorded",)


# ---------------------------------------------------------------- the table


def test_a_p95_of_too_few_values_is_a_dash_with_its_footnote(compared_run):
    page = page_of(compared_run)
    group = group_of(page, "Many users at once, streamed: llama.cpp, the engine inside Ollama")
    assert group.stats == ("p50", "p90", "p95", "n")
    name, (p50, p90, p95, n) = group.rows[0].lines[0]
    assert (name, p50, p90, p95, n) == ("TTFT", "11.0 ms (10.7–11.3)", "15.6 ms (14.7–16.6)", "–†", "58")
    assert "–† too few values for an interval" in page.cells.notes


def test_a_percentile_that_no_cell_can_carry_has_no_column_and_is_said(compared_run):
    page = page_of(compared_run)
    assert "p99" in group_of(page, "Many users at once, streamed: vLLM 0.32.0, tuned").stats
    assert "No p99 in a table whose cells have too few requests for it." in page.cells.notes


def test_answers_in_one_piece_have_no_column_for_what_they_cannot_have(compared_run):
    group = page_of(compared_run).cells.groups[0]
    assert group.title.startswith("One request after another")
    assert [name for name, _ in group.rows[0].lines] == ["E2E"]


def test_a_cell_tells_its_rate_the_load_reached_and_its_drift(compared_run):
    first = group_of(page_of(compared_run), "Many users at once, streamed: vLLM 0.32.0, tuned").rows[0]
    assert (first.load, first.place) == ("1 user", "block 1 repeat 1")
    assert first.requests[1:] == ("2.84 req/s", "0.997 at a time")
    assert first.window[0] == "20 s"
    assert first.window[1].startswith("drift 1.0")


def test_a_flagged_cell_shows_its_flag_and_its_figures(compared_run):
    rows = [one for group in page_of(compared_run).cells.groups for one in group.rows if one.badge.text == "flagged"]
    assert len(rows) == 1
    assert rows[0].flags[0].startswith("the card's clocks were held down")
    assert rows[0].throughput.text.endswith("00")
    assert rows[0].reasons == ()


def test_a_failed_cell_shows_dashes_and_never_zero_speed(compared_run):
    rows = [one for group in page_of(compared_run).cells.groups for one in group.rows if one.badge.text == "FAILED"]
    assert len(rows) == 3
    for one in rows:
        assert one.throughput.text == "–"
        assert one.lines == ()
        assert one.requests == ("0", "300 failed")
        assert one.window == ("–",)


def test_cells_of_other_trials_are_folded_away_but_there(tuned_run):
    cells = page_of(tuned_run).cells
    assert [group.is_folded for group in cells.groups] == [False, True, False]
    assert cells.folded == "15 more cells of the other servers of this run"


def test_levels_of_a_rate_and_a_replay_have_their_names_in_the_table(open_run):
    loads = {one.load for group in page_of(open_run).cells.groups for one in group.rows}
    assert loads == {
        "0.5 requests/s", "2 requests/s", "8 requests/s", "32 requests/s", "as recorded", "4 users", "16 users",
    }  # fmt: skip


# ---------------------------------------------------------------- the client


def test_the_client_accounts_for_itself_in_every_cell(compared_run):
    rows = [one for group in page_of(compared_run).cells.groups for one in group.rows]
    assert rows[0].client == ("3.5% of a core", "lag p50 0.08 ms", "lag p99 1.10 ms")
    silent = page_of(compared_run, [replace(compared_run.cells[0], client=None)])
    assert silent.cells.groups[0].rows[0].client == ()
    assert silent.client is None
    assert silent.validity.client == ""


def test_the_client_s_worst_is_held_against_the_limits_that_judged_the_cells(compared_run):
    rows = {name: (middle, worst, limit) for name, middle, worst, limit in page_of(compared_run).client.rows}
    assert rows["CPU of the busiest process"][1:] == ("97% of a core", f"{summary.MAX_CLIENT_CPU_RATIO:.0%} of a core")
    assert rows["Lag of the event loop, p50"][2].startswith(f"{summary.MAX_LAG_SHARE:.0%} of the median TTFT")
    assert rows["Sent later than due, p99"][0] == "2.40 ms"
    assert rows["Sent later than due, p99"][2].startswith(f"{summary.MAX_SEND_LAG_SHARE:.0%}")
    assert rows["Time to connect to the server"][0] == "0.110 ms"
    assert "CPU of its processes, mean" not in rows
    assert "Stood still at a stretch" not in rows, "runs of before it was read have a zero"
    still = [
        replace(cell, client=replace(cell.client, lag_max_s=place / 10))
        for place, cell in enumerate(compared_run.cells, 1)
    ]
    rows = {name: (middle, worst, limit) for name, middle, worst, limit in page_of(compared_run, still[:3]).client.rows}
    assert rows["Stood still at a stretch"] == ("200 ms", "300 ms", f"{1000 * summary.MAX_STANDSTILL_S:.0f} ms")


def test_several_client_processes_are_told_apart(compared_run):
    cell = compared_run.cells[0]
    busy = replace(cell, client=replace(cell.client, cpu_ratio=0.5, cpu_ratios=(0.5, 0.1), processes=2))
    rows = {name: worst for name, _, worst, _ in page_of(compared_run, [busy]).client.rows}
    assert rows["CPU of its processes, mean"] == "30% of a core"


def test_a_reading_that_no_cell_knows_has_no_row(compared_run):
    cell = compared_run.cells[0]
    health = replace(cell.client, rtt_p50_s=None, send_lag_p50_s=None, send_lag_p99_s=None)
    names = {name for name, *_ in page_of(compared_run, [replace(cell, client=health)]).client.rows}
    assert not any("due" in name or "connect" in name for name in names)


def test_the_client_s_own_error_is_told_or_that_it_is_not_known(compared_run, equal_run):
    known = page_of(compared_run)
    assert "off by +0.42 ms in TTFT, +0.031 ms in ITL and +0.58 ms in E2E" in known.validity.client
    assert known.client.facts[1].text.startswith("AMD EPYC 9354 32-Core Processor, 16 cores, 22 November 2026")
    unknown = page_of(equal_run)
    assert "not calibrated: run harness doctor" in unknown.validity.client
    assert "not calibrated: run harness doctor" in unknown.client.facts[0].text


def test_a_client_that_sees_things_too_early_has_a_negative_bias(compared_run):
    calibration = replace(compared_run.run.calibration, ttft_bias_s=-0.00012)
    text = view.page(replace(compared_run.run, calibration=calibration), compared_run.cells, ()).validity.client
    assert "−0.12 ms in TTFT" in text


def test_how_many_requests_were_begun_is_said(compared_run):
    begun = sum(cell.client.requests for cell in compared_run.cells)
    assert f"The client began {begun:,} requests" in page_of(compared_run).client.notes[1]
