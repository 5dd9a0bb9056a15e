"""Charts by their structure and their words; how they look is for eyes."""

import dataclasses
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest

from harness.records import Outcome, Trial
from harness.report import chart_lines, chart_style, charts, view
from harness.report.page_charts import FrontChart, FrontMark, LaunchChart, LineChart, Point, Series, ShareChart
from tests.unit.harness.report import recorded_studies
from tests.unit.harness.report.recorded_studies import LAUNCHES

SVG = "{http://www.w3.org/2000/svg}"


def line_chart(**changes) -> LineChart:
    points = (Point(x=1, value=57, low=55, high=58), Point(x=50, value=557, low=540, high=571))
    chart = LineChart(
        name="concurrent-output_tok_s",
        title="Output tokens per second",
        unit="tok/s",
        is_log=False,
        x_label="users",
        ticks=(1, 50),
        series=(Series(label="vLLM", look=1, points=points), Series(label="llama.cpp", look=2, points=points)),
        description="vLLM: 57 at 1, 557 at 50 users.",
    )
    return dataclasses.replace(chart, **changes)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.fixture
def trial_chart(tuned_run):
    return view.page(tuned_run.run, tuned_run.cells, tuned_run.trials).settings.chart


def test_the_same_data_give_the_same_bytes(trial_chart):
    assert charts.svg(line_chart()) == charts.svg(line_chart())
    assert charts.svg(trial_chart) == charts.svg(trial_chart)


def test_a_chart_has_a_title_and_a_description_that_it_is_labelled_by():
    root = ET.fromstring(charts.svg(line_chart()))
    title, desc = root[0], root[1]
    assert (title.tag, title.text) == (f"{SVG}title", "Output tokens per second")
    assert (desc.tag, desc.text) == (f"{SVG}desc", "vLLM: 57 at 1, 557 at 50 users.")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], desc.attrib["id"]]


def test_text_stays_text_and_users_have_the_ticks_of_the_ladder():
    found = texts(charts.svg(line_chart(ticks=(1, 5, 10, 50))))
    assert {"1", "5", "10", "50", "users", "tok/s", "vLLM", "llama.cpp", "557"} <= set(found)
    assert "2" not in found


def test_ticks_that_would_touch_are_thinned_and_the_ends_stay():
    assert chart_lines.readable((1, 5, 10, 50, 100)) == [1, 5, 10, 50, 100]
    thinned = chart_lines.readable((1, 2, 98, 99, 100))
    assert thinned[0] == 1
    assert thinned[-1] == 100
    assert 99 not in thinned
    assert chart_lines.readable((7,)) == [7]


def test_colours_are_variables_of_the_page_and_the_font_is_the_page_s(trial_chart):
    for svg in (charts.svg(line_chart()), charts.svg(trial_chart)):
        assert "var(--look-1)" in svg
        assert "DejaVu" not in svg
        assert not re.search(r"#0000[01]\d", svg)


def test_every_series_has_its_own_marker_and_dash():
    assert len({look.marker for look in chart_style.LOOKS}) == len(chart_style.LOOKS)
    assert len({look.dash for look in chart_style.LOOKS}) == len(chart_style.LOOKS)


def test_ids_of_two_charts_do_not_clash_and_every_reference_has_its_target():
    svgs = [charts.svg(line_chart(name=name)) for name in ("a", "b")]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    assert not ids[0] & ids[1]
    for svg, known in zip(svgs, ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= known


def test_nothing_in_a_chart_reaches_out_of_it(trial_chart):
    for svg in (charts.svg(line_chart()), charts.svg(trial_chart)):
        assert "<style" not in svg
        assert "<metadata" not in svg
        assert not re.search(r'(?:href|src)="(?!#)', svg)


@pytest.mark.parametrize(
    "label", ["<script>alert(1)</script>", "a & b", "$x^2$ and $", "\x00\x1b[31m", "模型 ✕", "]]>"]
)
def test_a_hostile_label_is_only_text(label):
    svg = charts.svg(line_chart(series=(dataclasses.replace(line_chart().series[0], label=label),), description=label))
    assert charts.printable(label) in texts(svg)
    assert "<script" not in svg


def test_one_load_one_repeat_and_a_zero_can_be_drawn():
    point = Point(x=5, value=0.0, low=0.0, high=0.0)
    svg = charts.svg(line_chart(ticks=(5,), series=(Series(label="x", look=7, points=(point,)),)))
    assert "5" in texts(svg)


def test_a_logarithmic_chart_over_many_decades_keeps_its_labels_few():
    points = (Point(x=1, value=0.001, low=0.001, high=0.001), Point(x=50, value=9000, low=8000, high=9500))
    svg = charts.svg(line_chart(is_log=True, series=(Series(label="x", look=1, points=points),)))
    assert {"0.01", "1", "100"} <= set(texts(svg))
    assert len(texts(svg)) < 20


def test_end_labels_that_would_touch_are_moved_apart():
    root = ET.fromstring(charts.svg(line_chart()))
    heights = [
        float(re.search(r"translate\([\d.]+ ([\d.]+)", element.attrib["transform"])[1])
        if "translate" in element.attrib.get("transform", "")
        else float(element.attrib["y"])
        for element in root.iter(f"{SVG}text")
        if element.text == "557"
    ]
    assert len(heights) == 2
    assert abs(heights[0] - heights[1]) >= 10


def test_a_search_shows_failed_trials_by_their_outcome_and_names_the_winner(trial_chart):
    found = texts(charts.svg(trial_chart))
    assert {"out of memory", "invalid", "hung", "the defaults", "the winner", "16384", "tokens"} <= set(found)


def test_a_trial_whose_interval_reaches_zero_does_not_break_the_axis(trial_chart):
    marks = (dataclasses.replace(trial_chart.marks[1], objective=(0.0, 0.5, 1.0)), *trial_chart.marks[2:])
    assert charts.svg(dataclasses.replace(trial_chart, marks=marks))


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams.items())
    charts.svg(line_chart())
    assert dict(mpl.rcParams.items()) == before


def test_drawing_needs_no_pyplot():
    code = "import sys, harness.report.charts; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- ceilings, launches, shares


def lines_of(svg: str, colour: str) -> int:
    """How many lines and outlines are drawn in a colour."""
    styles = [element.attrib.get("style", "") for element in ET.fromstring(svg).iter()]
    return sum(f"stroke: {colour}" in style for style in styles)


def test_a_ceiling_is_a_line_in_its_server_s_colour_and_stays_in_sight():
    ends = tuple(Point(x=x, value=value, low=value, high=value) for x, value in ((1, 90), (50, 4000)))
    limit = Series(label="ceiling of vLLM", look=1, points=ends)
    bare, full = charts.svg(line_chart()), charts.svg(line_chart(ceilings=(limit,)))
    assert "ceiling of each" in texts(full)
    assert "ceiling of each" not in texts(bare)
    assert "4,000" in texts(full)
    assert lines_of(full, "var(--look-1)") > lines_of(bare, "var(--look-1)")
    assert lines_of(full, "var(--look-2)") == lines_of(bare, "var(--look-2)")


def test_rates_have_their_own_axis_and_keep_their_fractions():
    points = tuple(Point(x=rate, value=rate, low=rate, high=rate) for rate in (0.5, 2.0, 8.0))
    series = (Series(label="vLLM", look=1, points=points),)
    found = texts(charts.svg(line_chart(x_label="requests per second", ticks=(0.5, 2.0, 8.0), series=series)))
    assert {"0.5", "2", "8", "requests per second"} <= set(found)
    assert "users" not in found


def test_launches_stand_in_their_order_around_the_mean():
    series = (
        Series(label="vLLM", look=1, points=(Point(x=2, value=101, low=99, high=103),)),
        Series(label="Ollama", look=2, points=(Point(x=1, value=97, low=80, high=104),)),
    )
    chart = LaunchChart(name="l", title="50 users", launches=("1", "2"), series=series, description="d")
    found = texts(charts.svg(chart))
    assert {"1", "2", "80%", "100%", "tok/s, of the server's mean"} <= set(found)


def test_noise_of_a_thousandth_does_not_look_like_a_fall():
    series = (Series(label="x", look=1, points=(Point(x=1, value=99.9, low=99.9, high=99.9),)),)
    found = texts(charts.svg(LaunchChart(name="l", title="t", launches=("1",), series=series, description="d")))
    assert {"95%", "100%", "105%"} <= set(found)


def test_a_share_is_drawn_with_what_is_asked_and_a_mark_for_each_verdict():
    points = tuple(Point(x=x, value=v, low=v - 1, high=min(v + 1, 100)) for x, v in ((8, 99.5), (16, 95.2), (32, 60)))
    chart = ShareChart(
        name="capacity-1", title="t", x_label="users", points=points, kinds=("inside", "undecided", "outside"),
        asked=95.0, description="d",
    )  # fmt: skip
    found = texts(charts.svg(chart))
    assert {"95% asked", "inside", "outside", "undecided", "8", "32", "100%"} <= set(found)
    assert not [text for text in found if re.fullmatch(r"1[1-9]\d%", text)]  # no share is over 100%


# ---------------------------------------------------------------- long names, searches


LONG = "llama.cpp, the engine inside Ollama, 50 slots, flash attention on, K and V in 8 bits, continuous batching"


def test_a_long_name_is_wrapped_so_that_no_line_of_the_legend_leaves_the_chart():
    series = (dataclasses.replace(line_chart().series[0], label=LONG),)
    found = texts(charts.svg(line_chart(series=series)))
    lines = [line for line in found if line and line in LONG and len(line) > 9]
    assert " ".join(lines) == LONG
    assert max(map(len, lines)) <= chart_lines.LEGEND_LETTERS


def plot_height(svg: str) -> float:
    """Of the first box that is drawn behind the axes."""
    lines = [e.attrib.get("d", "") for e in ET.fromstring(svg).iter(f"{SVG}path") if "clip-path" in e.attrib]
    heights = [float(y) for path in lines for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
    return max(heights) - min(heights)


def test_many_lines_of_legend_make_the_chart_higher_and_not_the_plot_lower():
    one = line_chart().series[0]
    few = line_chart(series=(one,) * 4)
    many = line_chart(series=(dataclasses.replace(one, label=LONG),) * 4)
    assert plot_height(charts.svg(many)) == pytest.approx(plot_height(charts.svg(few)), rel=0.05)


def test_the_course_of_a_search_has_crosses_arrows_and_the_defence(studied_run):
    settings = view.page(studied_run.run, (), studied_run.trials, launches=LAUNCHES).settings
    found = texts(charts.svg(settings.progress[0]))
    assert {"ratio to vLLM's defaults", "launches; first: defaults", "defence", "1×"} <= set(found)
    assert not [one for one in found if one.startswith("0.2")]  # the stopped trial at 0.2× is an arrow at the foot


def test_a_front_names_its_members_and_the_defaults():
    recorded = recorded_studies.two_objectives()
    chart = view.page(recorded.run, (), recorded.trials).settings.front.chart
    found = texts(charts.svg(chart))
    assert {"throughput →", "latency ↑", "defaults", "1", "2"} <= set(found)


def test_members_of_a_front_that_lie_together_share_a_label():
    point = (1.2, 1.21, 1.22)
    marks = (
        FrontMark(name="0", x=(1, 1, 1), y=(1, 1, 1), is_front=False),
        *(FrontMark(name=name, x=point, y=point, is_front=True) for name in ("3", "7")),
        FrontMark(name="9", x=point, y=point, is_front=False),
    )
    chart = FrontChart(name="front", title="t", x_label="a", y_label="b", marks=marks, description="d")
    found = texts(charts.svg(chart))
    assert "3, 7" in found
    assert "9" not in found


def test_a_chart_of_many_flags_keeps_those_with_the_most_values(studied_run):
    flags = {f"flag-{place}": 0 for place in range(7)}
    trials = [
        Trial(number=n, flags=flags | {"flag-6": n, "flag-0": n % 2, "flag-3": n % 3}, outcome=Outcome.MEASURED)
        for n in range(4)
    ]
    trials.append(Trial(number=4, flags={}, outcome=Outcome.MEASURED))
    assert view.page(studied_run.run, (), trials).settings.chart.flags == (
        "flag-0", "flag-1", "flag-2", "flag-3", "flag-6",
    )  # fmt: skip
