"""Charts, ceilings, drift, telemetry and capacity."""

import pytest

from harness.records import CellState, PowerCap
from harness.report import words
from harness.stats.summary import CEILING_FACTOR
from tests.unit.harness.report.pages import page_of, replace


def chart_of(page, metric):
    return next(one for group in page.charts for one in group.charts if one.name.endswith(metric))


def series_of(chart, title):
    return next(one for one in chart.series if one.label == title)


VLLM = "vLLM 0.32.0, tuned"

# ---------------------------------------------------------------- charts


def test_figures_stand_where_nothing_is_compared(benched_run, compared_run):
    assert page_of(compared_run).figures == ()
    tables = page_of(benched_run).figures
    assert [table.metrics[0] for table in tables] == ["tok/s"] * 3
    assert tables[0].metrics == ("tok/s", "req/s", "E2E p50")
    assert "No TTFT, ITL or TPOT" in tables[0].notes[-1]


def test_a_point_is_the_geometric_mean_of_the_repeats_and_its_bar_their_range(compared_run):
    chart = chart_of(page_of(compared_run), "output_tok_s")
    here = [
        cell.output_tok_s.value
        for cell in compared_run.cells
        if (cell.role, cell.scenario, cell.users) == ("candidate", "concurrent", 50)
    ]
    point = series_of(chart, VLLM).points[3]
    assert point.value == pytest.approx((here[0] * here[1] * here[2] * here[3]) ** (1 / 4))
    assert (point.low, point.high) == (min(here), max(here))
    assert chart.ticks == (1, 5, 10, 50, 100)
    assert chart.x_label == "users"


def test_invalid_and_failed_cells_enter_no_chart(compared_run):
    valid = [
        cell.output_tok_s.value
        for cell in compared_run.cells
        if (cell.role, cell.scenario, cell.users, cell.state) == ("candidate", "concurrent", 100, CellState.MEASURED)
    ]
    assert len(valid) == 3
    last = series_of(chart_of(page_of(compared_run), "output_tok_s"), VLLM).points[-1]
    assert (last.low, last.high) == (min(valid), max(valid))


def test_a_load_without_a_valid_repeat_is_named_under_the_charts(compared_run):
    cells = [
        replace(cell, state=CellState.INVALID)
        if (cell.role, cell.scenario, cell.users) == ("candidate", "concurrent", 10)
        else cell
        for cell in compared_run.cells
    ]
    page = page_of(compared_run, cells)
    assert "vLLM 0.32.0, tuned at 10 users (Many users at once, streamed)" in page.chart_notes[-1]
    assert [point.x for point in series_of(chart_of(page, "output_tok_s"), VLLM).points] == [1, 5, 50, 100]


def test_a_chart_is_logarithmic_only_where_small_values_would_vanish(compared_run, open_run):
    page = page_of(compared_run)
    assert chart_of(page, "output_tok_s").is_log
    assert chart_of(page, "ttft_s.p50").unit == "s, logarithmic"
    assert not chart_of(page_of(open_run), "rush-ttft_s.p50").is_log
    assert chart_of(page_of(open_run), "rush-ttft_s.p50").unit == "ms"


def test_a_chart_can_be_read_without_eyes(compared_run):
    text = chart_of(page_of(compared_run), "output_tok_s").description
    assert "llama.cpp, the engine inside Ollama: 370 tok/s at 1" in text
    assert "ceiling of vLLM 0.32.0, tuned: 428 tok/s at 1" in text
    assert text.endswith("users.")


def test_scenarios_of_one_load_are_not_drawn(compared_run):
    assert [group.title for group in page_of(compared_run).charts] == ["Many users at once, streamed"]
    alone = [cell for cell in compared_run.cells if cell.scenario == "sequential"]
    page = page_of(compared_run, alone)
    assert page.charts == ()
    assert page.chart_notes == ("Every scenario has one load only: there is nothing to draw.",)


def test_an_open_loop_is_drawn_over_its_rate(open_run):
    chart = chart_of(page_of(open_run), "rush-output_tok_s")
    assert (chart.x_label, chart.ticks) == ("requests per second", (0.5, 2.0, 8.0, 32.0))
    assert [point.x for point in chart.series[0].points] == [0.5, 2.0, 8.0]
    titles = [group.title for group in page_of(open_run).charts]
    assert titles == ["Requests that come by chance", "Conversations"]


# ---------------------------------------------------------------- ceilings


def test_ceilings_are_a_line_of_their_own_in_the_chart_of_throughput_only(compared_run):
    page = page_of(compared_run)
    ceilings = chart_of(page, "output_tok_s").ceilings
    assert [one.look for one in ceilings] == [2, 3, 1]
    assert ceilings[-1].points[0].value == pytest.approx(428.3, rel=1e-3)
    assert chart_of(page, "ttft_s.p50").ceilings == ()


def test_each_server_stands_beside_its_ceiling(compared_run):
    found = page_of(compared_run).ceilings
    assert found.metrics == ("tok/s", "TTFT p50", "ITL p50")
    _, rows = found.tables[1]
    first = next(one for one in rows if (one.load, one.side.title) == ("1 user", VLLM))
    (measured, limit, share), (_, floor, nothing), _ = first.metrics
    assert measured.text.endswith("tok/s")
    assert limit == "at most 428 tok/s"
    assert share == words.percent(361 / 428.3)
    assert (floor, nothing) == ("at least 5.10 ms", "")
    assert not any(one.is_above for _, lines in found.tables for one in lines)


def test_what_was_measured_above_its_ceiling_is_said_to_be_invalid(compared_run):
    def above(cell):
        limit = cell.output_tok_s.value / CEILING_FACTOR / 1.001
        return replace(cell, state=CellState.INVALID, ceilings={"output_tok_s": limit})

    place = ("candidate", "concurrent", 5)
    cells = [above(c) if (c.role, c.scenario, c.users) == place else c for c in compared_run.cells]
    found = page_of(compared_run, cells).ceilings
    flagged = [(one.load, one.side.role) for _, lines in found.tables for one in lines if one.is_above]
    assert flagged == [("5 users", "candidate")]


def test_a_machine_without_a_data_sheet_says_so_once(equal_run, compared_run):
    found = page_of(equal_run).ceilings
    assert found.missing.startswith("No data-sheet figures for a CPU")
    assert found.tables == ()
    bare = [replace(cell, ceilings={}) for cell in compared_run.cells]
    expected = "No ceilings were recorded for NVIDIA GeForce RTX 4090 with qwen2.5-1.5b."
    assert page_of(compared_run, bare).ceilings.missing == expected


# ---------------------------------------------------------------- drift


def test_each_load_has_its_cells_in_the_order_of_the_launches(compared_run):
    title, charts = page_of(compared_run).drift.groups[1]
    assert title == "Many users at once, streamed"
    assert [chart.title for chart in charts] == ["1 user", "5 users", "10 users", "50 users", "100 users"]
    chart = charts[0]
    assert chart.launches == ("1", "2", "3", "4", "5", "6")
    launches = {one.label: sorted({round(point.x) for point in one.points}) for one in chart.series}
    assert launches == {
        "llama.cpp, the engine inside Ollama": [1, 6],
        "llama.cpp, the engine inside Ollama, 100 slots": [2, 5],
        VLLM: [3, 4],
    }


def test_a_server_s_cells_are_in_percent_of_its_own_mean(compared_run):
    _, charts = page_of(compared_run).drift.groups[1]
    for one in charts[0].series:
        assert sum(point.value for point in one.points) / len(one.points) == pytest.approx(100)
        assert all(point.low < point.value < point.high for point in one.points)


def test_a_server_that_slows_down_shows_as_a_slope(compared_run):
    def slower(cell):
        factor = 0.8 if cell.block == 2 else 1.0
        found = cell.output_tok_s
        return replace(cell, output_tok_s=replace(found, value=found.value * factor)) if found else cell

    cells = [slower(cell) if cell.role == "candidate" else cell for cell in compared_run.cells]
    _, charts = page_of(compared_run, cells).drift.groups[1]
    points = series_of(charts[0], VLLM).points
    first, second = ([p.value for p in points if round(p.x) == launch] for launch in (3, 4))
    assert min(first) > 105 > 95 > max(second)


def test_repeats_of_one_launch_stand_side_by_side(compared_run):
    _, charts = page_of(compared_run).drift.groups[1]
    xs = [point.x for point in series_of(charts[0], VLLM).points]
    assert len(set(xs)) == len(xs) == 4
    assert all(abs(x - round(x)) < 0.5 for x in xs)


def test_drift_within_cells_is_told_with_the_loads_where_it_is_sure(compared_run):
    sure = replace(compared_run.cells[0].drift_ratio, value=0.9, low=0.85, high=0.95)
    place = ("candidate", "concurrent", 50)
    cells = [replace(c, drift_ratio=sure) if (c.role, c.scenario, c.users) == place else c for c in compared_run.cells]
    told = page_of(compared_run, cells).drift.within
    assert told[-1] == (
        "vLLM 0.32.0, tuned, gave in the second half of a cell between 0.90× and 1.01× of the tokens per second of the "
        "first (27 cells); in 4 of them the interval leaves out 1: Many users at once, streamed, 50 users."
    )
    assert "leaves out" not in told[0]


def test_a_single_cell_has_no_drift_to_draw(compared_run):
    alone = [replace(compared_run.cells[0], drift_ratio=None)]
    assert page_of(compared_run, alone).drift is None


# ---------------------------------------------------------------- telemetry


def test_only_columns_that_are_known_are_there(compared_run, equal_run):
    card, servers = page_of(compared_run).telemetry.tables
    assert card.heads[:3] == ("Memory, peak", "Power, mean", "Energy per token")
    assert "Preemptions" in servers.heads
    (only,) = page_of(equal_run).telemetry.tables
    assert only.title == "The servers"
    assert only.heads == ("CPU, mean", "Memory (RSS), peak", "Machine's CPU", "Running, mean")


def test_no_gpu_is_said_once_and_never_as_zeros(equal_run, compared_run):
    notes = page_of(equal_run).telemetry.notes
    assert sum("No GPU" in note for note in notes) == 1
    assert not any(
        "0 W" in text
        for table in page_of(equal_run).telemetry.tables
        for _, rows in table.groups
        for _, _, texts in rows
        for text in texts
    )
    assert not any("No GPU" in note for note in page_of(compared_run).telemetry.notes)


def test_readings_of_repeats_are_taken_together_by_their_kind(compared_run):
    card, _ = page_of(compared_run).telemetry.tables
    _, rows = card.groups[1]
    fifty = next(texts for load, side, texts in rows if (load, side.role) == ("50 users", "candidate"))
    by_head = dict(zip(card.heads, fifty, strict=True))
    assert by_head["Clock, lowest"] == "1,980 MHz"
    assert by_head["Energy per token"].endswith(" mJ")
    assert by_head["Power, mean"] == "292 W"


def test_link_throttling_and_strangers_are_told_in_sentences(compared_run):
    notes = page_of(compared_run).telemetry.notes
    assert "PCIe link: gen4 x16." in notes
    assert any("software thermal slowdown, in up to 12% of the samples (vLLM 0.32.0, tuned" in note for note in notes)
    assert "No other program was on the card." in notes
    first = compared_run.cells[0]
    busy = replace(first, telemetry=replace(first.telemetry, foreign_pids=(4711,)))
    notes = page_of(compared_run, [busy]).telemetry.notes
    assert any(note.startswith("Other programs were on the card in 1 cell: llama.cpp") for note in notes)
    assert "The card's clocks were held down by nothing." in notes


def test_whether_there_are_strangers_may_be_not_known_and_is_said(compared_run):
    first = compared_run.cells[0]
    blind = replace(first, telemetry=replace(first.telemetry, foreign_pids=None))
    notes = page_of(compared_run, [blind]).telemetry.notes
    assert any(note.startswith("Whether other programs were on the card cannot be told for 1 cell") for note in notes)
    assert not any("No other program" in note for note in notes)


def test_a_card_at_its_usual_power_limit_is_not_called_held_down(compared_run):
    first = compared_run.cells[0]
    usual = replace(first, telemetry=replace(first.telemetry, throttle={PowerCap.USUAL.value: 0.9}))
    notes = page_of(compared_run, [usual]).telemetry.notes
    assert any("usual power limit" in note and "in up to 90%" in note and "no fault" in note for note in notes)
    assert "The card's clocks were held down by nothing else." in notes
    host = replace(compared_run.run.host, gpu_power_limit_w=300.0, gpu_default_power_limit_w=450.0)
    lowered = replace(first, telemetry=replace(first.telemetry, throttle={PowerCap.LOWERED.value: 0.9}))
    page = page_of(compared_run, [lowered], host=host)
    assert any("set below the card's usual one (300 W of 450 W), in up to 90%" in note for note in page.telemetry.notes)


def test_without_readings_there_is_no_telemetry(compared_run):
    silent = [replace(cell, telemetry=None) for cell in compared_run.cells]
    assert page_of(compared_run, silent).telemetry is None


# ---------------------------------------------------------------- capacity


def test_a_capacity_has_its_bracket_and_every_load_that_was_tried(capacity_run):
    found = page_of(capacity_run).capacity
    assert found.sentence == "The capacity lies from 40 users to below 48 users."
    assert found.heads == ("ttft:p95<500ms", "e2e:p99<4s", "all of them")
    assert [step[0] for step in found.steps][:3] == ["8 users", "32 users", "128 users"]
    load, requests, shares, badge, reason = found.steps[5]
    assert (load, requests, badge.text) == ("44 users", "2,400", "undecided")
    assert str(shares[1]) == "98.9% (98.4–99.3%)"
    assert "straddles 0.99" in reason
    facts = {fact.name: fact.text for fact in found.facts}
    assert facts["Resolved"] == "no"


def test_each_limit_has_its_chart_with_what_was_asked(capacity_run):
    first, second = page_of(capacity_run).capacity.charts
    assert (first.asked, second.asked) == (95.0, 99.0)
    assert [point.x for point in second.points] == [8, 32, 40, 44, 48, 64, 128]
    assert second.kinds == ("inside", "inside", "inside", "undecided", "outside", "outside", "outside")
    assert first.kinds[-2:] == ("outside", "outside")


def test_of_a_load_that_was_tried_again_the_last_try_is_drawn(capacity_run):
    capacity = capacity_run.run.capacity
    again = replace(
        capacity.steps[5], shares=(capacity.steps[0].shares[0], capacity.steps[0].shares[0]), is_inside=True
    )
    found = page_of(capacity_run, capacity=replace(capacity, steps=(*capacity.steps, again))).capacity
    assert len(found.steps) == 8
    assert found.charts[1].kinds[3] == "inside"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"above": None, "is_resolved": False}, "Up to 40 users vLLM 0.32.0 kept"),
        ({"level": None}, "At no load that was tried vLLM 0.32.0 was shown to keep"),
        ({"is_resolved": True, "reason": ""}, "at 48 users it did not."),
    ],
)
def test_an_open_or_a_resolved_capacity_says_which(capacity_run, changes, sentence):
    page = page_of(capacity_run, capacity=replace(capacity_run.run.capacity, **changes))
    assert sentence in page.headline
    assert page.capacity.facts


def test_a_capacity_in_requests_per_second_is_called_so(capacity_run):
    capacity = replace(capacity_run.run.capacity, unit="requests/s", level=2.5, above=3.0)
    page = page_of(capacity_run, capacity=capacity)
    assert "Up to 2.5 requests/s" in page.headline
    assert page.capacity.charts[0].x_label == "requests per second"


def test_a_load_that_decided_nothing_has_a_dash_and_no_mark(capacity_run):
    capacity = capacity_run.run.capacity
    spoiled = replace(capacity.steps[0], kept=None, shares=(), is_inside=None, reason="the client was the limit")
    found = page_of(capacity_run, capacity=replace(capacity, steps=(spoiled, *capacity.steps[1:]))).capacity
    assert [one.text for one in found.steps[0][2]] == ["–", "–", "–"]
    assert 8 not in [point.x for point in found.charts[0].points]
