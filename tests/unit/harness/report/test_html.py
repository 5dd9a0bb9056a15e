"""The page as a file: escaped, self-contained, written at once."""

import html as stdlib_html
import json
import re
from html.parser import HTMLParser

import msgspec
import pytest

from harness.errors import ResultsUnreadable, UsageError
from harness.records import Outcome, RunState
from harness.report import html, index, render, view
from tests.unit.harness.report.recorded_studies import LAUNCHES

replace = msgspec.structs.replace
HOSTILE = "</script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"
KINDS = [
    "compared_run",
    "equal_run",
    "tuned_run",
    "studied_run",
    "simulated_run",
    "benched_run",
    "open_run",
    "capacity_run",
]
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Parsed(HTMLParser):
    """Tags and attributes of a page, and whether every tag that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def page_of(recorded, **changes):
    return view.page(replace(recorded.run, **changes), recorded.cells, recorded.trials, targets=recorded.targets)


def data_instead_of_drawing(chart, mark=""):
    """A chart by its data, so that the golden page is free of pixels and paths."""
    body = json.dumps(rounded(msgspec.to_builtins(chart)), indent=1, ensure_ascii=False)
    return f'<svg data-chart="{stdlib_html.escape(chart.name)}"><desc>{stdlib_html.escape(body)}</desc></svg>'


def rounded(data):
    """The last digits of a geometric mean are the C library's."""
    if isinstance(data, float):
        return float(f"{data:.6g}")
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    return [rounded(one) for one in data] if isinstance(data, list | tuple) else data


def without_style(text):
    return re.sub(r"<style>.*?</style>", "<style></style>", text, flags=re.DOTALL)


def reaches_out(text):
    """Every attribute or style that would make a browser fetch something."""
    loading = {"src", "href", "xlink:href", "srcset", "poster", "data", "action", "background", "formaction"}
    found = [
        f"{tag} {name}={value}"
        for tag, name, value in Parsed(text).attributes
        if name in loading and not value.startswith("#") and not (tag == "a" and re.fullmatch(r"[\w.%-]+\.html", value))
    ]
    found += [f"url({target}" for target in re.findall(r"url\(([^)#]+)", text)]
    found += re.findall(r"@import[^;]*", text)
    return found


# ---------------------------------------------------------------- golden


def test_the_page_of_a_comparison_is_the_golden_one(compared_run, check_golden):
    page = page_of(compared_run)
    check_golden("compare.html", without_style(html.document(page, draw=data_instead_of_drawing)))


def test_the_page_of_a_capacity_is_the_golden_one(capacity_run, check_golden):
    page = page_of(capacity_run)
    check_golden("capacity.html", without_style(html.document(page, draw=data_instead_of_drawing)))


def test_the_page_of_a_simulated_study_is_the_golden_one(simulated_run, check_golden):
    page = view.page(simulated_run.run, simulated_run.cells, simulated_run.trials, launches=LAUNCHES)
    check_golden("study.html", without_style(html.document(page, draw=data_instead_of_drawing)))


def flat(text):
    """The words of a page, without markup and line breaks."""
    return " ".join(stdlib_html.unescape(re.sub(r"<[^>]+>", " ", without_style(text))).split())


def test_tier_precisions_and_synthetic_weights_are_in_title_headline_and_table(equal_run):
    text = html.document(page_of(equal_run))
    title = re.search("<title>(.*?)</title>", text)[1]
    assert "under equal conditions (tier equal): vLLM 0.32.0, defaults with synthetic bf16 weights" in title
    headline = re.search('<p class="headline">(.*?)</p>', text)[1]
    assert headline.startswith("Under equal conditions, on synthetic weights: at 100 users")
    assert "f16, synthetic: random, of the model's shape" in flat(text)
    assert "synthetic weights" in re.search("<h1>(.*?)</h1>", text)[1]


def test_the_page_shows_every_part_of_a_comparison(compared_run):
    text = flat(html.document(page_of(compared_run)))
    for told in (
        "84 cells: 79 measured, 1 flagged, 1 INVALID, 3 FAILED.",
        "Not equal between the sides: Precision of the weights: q4_1 (baseline)",
        "reachable at most",
        "Ceilings: what the card allows at best",
        "Drift: did anything change meanwhile?",
        "Telemetry: what card, machine and servers said meanwhile",
        "The measuring client: was it the limit?",
        "Fairness: what was equal and what was not",
    ):
        assert told in text, told


def test_a_machine_without_a_gpu_has_no_data_sheet_and_no_readings_of_a_card(equal_run):
    text = flat(html.document(page_of(equal_run)))
    assert "No data-sheet figures for a CPU" in text
    assert text.count("No GPU: this machine has none that NVML can see") == 1
    assert "not calibrated: run harness doctor" in text


# ---------------------------------------------------------------- what a page may not do


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_asks_the_network_for_nothing(kind, request):
    text = html.document(page_of(request.getfixturevalue(kind)))
    assert reaches_out(text) == []
    parsed = Parsed(text)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(parsed.tags)
    assert [value for tag, name, value in parsed.attributes if tag == "script"] == ["application/json", "harness-run"]
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]


def test_a_page_that_reaches_out_would_be_noticed():
    assert reaches_out('<img src="http://a.example/x">') == ["img src=http://a.example/x"]
    assert reaches_out('<a href="https://a.example/">x</a>')
    assert reaches_out("<style>a { background: url(//a.example/x) }</style>")
    assert reaches_out("<style>@import 'x'</style>")
    assert reaches_out('<a href="#part">x</a><a href="run-1.html">y</a>') == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_tag_is_closed_and_no_id_is_there_twice(kind, request):
    parsed = Parsed(html.document(page_of(request.getfixturevalue(kind))))
    assert parsed.faults == []
    assert parsed.open == []
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for tag, name, value in parsed.attributes if tag == "a" and name == "href"}
    assert targets <= set(ids)


def test_hostile_text_stays_text_wherever_it_comes_from(compared_run):
    manifest = compared_run.run.manifest
    cells = [replace(cell, reasons=(HOSTILE,), flags=(HOSTILE,), title=HOSTILE) for cell in compared_run.cells]
    trials = [
        replace(one, flags={HOSTILE: HOSTILE}, reason=HOSTILE, outcome=Outcome.CRASHED) for one in compared_run.trials
    ]
    run = replace(
        compared_run.run,
        model=HOSTILE,
        command=HOSTILE,
        error=HOSTILE,
        objective=HOSTILE,
        gpu=HOSTILE,
        notes=(HOSTILE,),
        host=replace(compared_run.run.host, gpu=HOSTILE, os=HOSTILE),
        scenarios=tuple(replace(one, title=HOSTILE) for one in compared_run.run.scenarios),
        comparisons=tuple(replace(one, reason=HOSTILE) for one in compared_run.run.comparisons),
        engines=tuple(
            replace(one, title=HOSTILE, flags={HOSTILE: HOSTILE}, env={HOSTILE: HOSTILE}, argv=(HOSTILE,), log=HOSTILE)
            for one in compared_run.run.engines
        ),
        manifest=replace(
            manifest,
            faults=(HOSTILE,),
            differences=(HOSTILE,),
            sides=tuple(replace(one, title=HOSTILE, version=HOSTILE, keep_alive=HOSTILE) for one in manifest.sides),
        ),
        calibration=replace(compared_run.run.calibration, host=HOSTILE, measured_utc=HOSTILE),
    )
    text = html.document(view.page(run, cells, trials))
    plain = html.document(page_of(compared_run))
    assert reaches_out(text) == []
    assert Parsed(text).tags.count("script") == Parsed(plain).tags.count("script") == 1
    assert "img" not in Parsed(text).tags
    assert html.EMBEDDED.search(text)


# ---------------------------------------------------------------- names


def bare_ollamas(text):
    """Every "Ollama" that is used as the name of what was measured."""
    caveat = "Targets against Ollama, measured here against llama.cpp, the engine inside Ollama"
    rest = stdlib_html.unescape(text).replace(caveat, "").replace("the engine inside Ollama", "")
    return [rest[max(found.start() - 40, 0) : found.end() + 10] for found in re.finditer("Ollama", rest)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_ollama_is_never_called_ollama(kind, request):
    assert bare_ollamas(html.document(page_of(request.getfixturevalue(kind)))) == []


def test_a_bare_ollama_would_be_noticed():
    assert bare_ollamas("3.4× the tokens per second of Ollama")
    assert bare_ollamas("<th>Ollama 0.33</th>")
    assert not bare_ollamas("<th>llama.cpp, the engine inside Ollama</th>")


def test_the_title_of_the_engine_is_in_every_legend_and_heading(compared_run):
    text = html.document(page_of(compared_run))
    legends = re.findall(r"<text[^>]*>(llama\.cpp[^<]*)</text>", text)
    baselines = ["llama.cpp, the engine inside Ollama", "llama.cpp, the engine inside Ollama, 100 slots"]
    assert legends == baselines * 4
    headings = [heading for heading in re.findall(r"<(?:th|h3)[^>]*>(.*?)</(?:th|h3)>", text) if "llama" in heading]
    assert headings
    assert all("llama.cpp, the engine inside Ollama" in heading for heading in headings)


# ---------------------------------------------------------------- the file


def test_a_page_is_written_whole_and_leaves_no_draft(compared_run, tmp_path):
    path = html.write(page_of(compared_run), tmp_path / "new" / "x.html")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [one.name for one in path.parent.iterdir()] == ["x.html"]


def test_a_page_that_cannot_be_written_is_a_usage_error_with_a_hint(compared_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write") as caught:
        html.write(page_of(compared_run), tmp_path / "file" / "x.html")
    assert "--out" in caught.value.hint


def test_a_run_that_did_not_end_says_so_on_its_page(compared_run):
    text = html.document(page_of(compared_run, state=RunState.FAILED, error="out of <memory>"))
    assert "This run failed." in text
    assert "out of &lt;memory&gt;" in text


def test_the_summary_in_a_page_can_be_read_back(compared_run, tmp_path):
    page = page_of(compared_run, model="a </script> & b")
    path = html.write(page, tmp_path / "x.html")
    assert html.summary_of(path) == page.summary
    block = html.EMBEDDED.search(path.read_text(encoding="utf-8"))
    assert json.loads(block[1])["model"] == "a </script> & b"


# ---------------------------------------------------------------- a run's page and the index


def rendered(recorded, out, **changes):
    return render(replace(recorded.run, **changes), recorded.cells, recorded.trials, out=out, targets=recorded.targets)


def test_render_writes_the_page_by_the_run_s_id_and_lists_it(compared_run, tmp_path):
    path = rendered(compared_run, tmp_path / "reports")
    assert path == tmp_path / "reports" / f"{compared_run.run.id}.html"
    listed = (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")
    assert f'href="{compared_run.run.id}.html"' in listed


@pytest.mark.parametrize("run_id", ["../x", "a/b", "", ".hidden", "index", "a b"])
def test_an_id_that_is_no_file_name_is_refused(compared_run, tmp_path, run_id):
    with pytest.raises(ResultsUnreadable, match="no id of a run"):
        rendered(compared_run, tmp_path, id=run_id)


def test_the_index_lists_reports_newest_first_and_nothing_else(compared_run, tuned_run, benched_run, tmp_path):
    rendered(tuned_run, tmp_path)
    rendered(compared_run, tmp_path)
    rendered(benched_run, tmp_path, started_utc="2026-11-20T08:00:00+00:00", state=RunState.INTERRUPTED)
    (tmp_path / "notes.html").write_text("<p>somebody's own page")
    (tmp_path / "broken.html").write_text('<script type="application/json" id="harness-run">{"id": 3}</script>')
    (tmp_path / "folder.html").mkdir()
    text = index(tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'<a href="([^"]+)">([^<]+)</a>', text) == [
        (f"{compared_run.run.id}.html", "Comparison"),
        (f"{tuned_run.run.id}.html", "Search for settings"),
        (f"{benched_run.run.id}.html", "Measurement"),
    ]
    assert "3 reports" in text
    assert "interrupted" in text
    assert "NVIDIA GeForce RTX 4090" in text
    assert "The settings found are 1.37× (1.30–1.44) as fast" in text
    assert reaches_out(text) == []
    assert bare_ollamas(text) == []


def test_a_hostile_model_stays_text_in_the_index(compared_run, tmp_path):
    rendered(compared_run, tmp_path, model=HOSTILE)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "script" not in Parsed(text).tags
    assert "img" not in Parsed(text).tags


def test_an_empty_folder_has_an_empty_index(tmp_path):
    assert "0 reports" in index(tmp_path / "none").read_text(encoding="utf-8")
