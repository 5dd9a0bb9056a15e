"""What no engine gave is marked wherever it is shown."""

import re

import msgspec

from harness.report import charts, html, text, text_study, view
from tests.unit.harness.report.recorded_studies import ACCURACY, LAUNCHES, TRIALS

replace = msgspec.structs.replace


def document_of(recorded, **changes):
    run = replace(recorded.run, **changes)
    return html.document(view.page(run, recorded.cells, recorded.trials, launches=LAUNCHES))


def without_style(page):
    return re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_title_bar_banner_and_headline_say_so(simulated_run):
    page = document_of(simulated_run)
    assert re.search("<title>(.*?)</title>", page)[1].startswith("SIMULATED: qwen2.5-1.5b on a simulated rtx4090")
    assert "SIMULATED: nothing here was measured" in re.search('class="sim-bar".*?>(.*?)</div>', page)[1]
    assert re.search('<p class="headline">(.*?)</p>', page)[1].startswith("Simulated, not measured: ")
    assert "SIMULATED: nothing on this page was measured." in page


def test_the_banner_says_how_far_the_simulation_is_off(simulated_run):
    assert "How far the simulation is off: on 15 recorded points" in document_of(simulated_run)
    notes = tuple(note for note in simulated_run.run.notes if note != ACCURACY)
    assert "By how much these figures are wrong was not recorded." in document_of(simulated_run, notes=notes)


def test_every_heading_of_figures_and_every_chart_bears_the_mark(simulated_run):
    page = without_style(document_of(simulated_run))
    headings = re.findall(r"<h[134][^>]*>(.*?)</h[134]>", page, flags=re.DOTALL)
    free = {"What was asked", "What failed, and what was learned from it", "Scenario", "Terms"}
    bare = [one for one in headings if "simulated</span>" not in one and one not in free]
    assert bare == ["How each server was started"]
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) > 4
    assert all("(simulated)</title>" in one and "SIMULATED" in one for one in drawings)


def test_no_trial_of_a_simulation_is_called_measured(simulated_run):
    page = view.page(simulated_run.run, simulated_run.cells, simulated_run.trials)
    assert {row.badge.text for row in page.settings.trials[:3]} == {"simulated"}
    assert "No client was at work" in page.validity.client
    assert page.client is None


def test_a_page_that_mixes_both_says_which_is_which(simulated_run):
    first, *others = simulated_run.run.engines
    engines = (replace(first, title="vLLM 0.32.0, measured", is_simulated=False), *others)
    page = document_of(simulated_run, engines=engines)
    assert re.search("<title>(.*?)</title>", page)[1].startswith("PARTLY SIMULATED: ")
    assert "not all of this was measured" in page
    assert re.search(r"Simulated: simulated vLLM 0\.32\.0, trial 1 and simulated [^.]*\.32\.0, trial 4", page)
    assert "Measured: vLLM 0.32.0, measured." in page
    assert re.search('<p class="headline">(.*?)</p>', page)[1].startswith("Partly simulated (simulated vLLM")


def test_a_measured_page_bears_no_mark(studied_run):
    page = without_style(document_of(studied_run))
    assert "simulated" not in page.lower()


def test_a_chart_that_is_copied_keeps_its_mark(simulated_run):
    chart = view.page(simulated_run.run, simulated_run.cells, simulated_run.trials).settings.chart
    assert "SIMULATED" in charts.svg(chart, "simulated")
    assert "SIMULATED" not in charts.svg(chart)


def test_the_console_marks_every_table_of_a_simulated_study(simulated_run):
    told = text_study.study_text(simulated_run.run, TRIALS, LAUNCHES)
    assert told.startswith("SIMULATED: no engine ran; nothing here is a measurement.")
    assert "objective (simulated)" in told
    assert "measured again (simulated)" in told
    assert "each flag is worth (simulated)" in told
    assert "stage (simulated)" in told
    assert not re.search(r"\d +measured", told)


def test_the_console_says_what_is_simulated_of_a_mixed_run(simulated_run):
    first, *others = simulated_run.run.engines
    run = replace(simulated_run.run, engines=(replace(first, title="vLLM", is_simulated=False), *others))
    (line,) = text.simulated_lines(run)
    assert line.startswith("PARTLY SIMULATED: Simulated: ")
    assert "Measured: vLLM." in line
