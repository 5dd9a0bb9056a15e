"""What a page says of the run as a whole; no file is read or written here."""

import inspect

import pytest

from harness.records import Run, RunState
from harness.report import view
from harness.stats import estimate, summary, window
from harness.store import RESULTS_VERSION
from tests.unit.harness.report.pages import engines_with, page_of, replace


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


@pytest.mark.parametrize("kind", ["compare", "tune", "bench", "capacity"])
def test_a_run_with_nothing_in_it_has_a_page(compared_run, kind):
    bare = Run(
        version=RESULTS_VERSION,
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
    assert page.validity.counts == "No cell was measured"
    assert page.commands[0].name == "harness ''\"'\"'unfinished'"
    assert (page.ceilings, page.drift, page.telemetry, page.client, page.fairness) == (None,) * 5


# ---------------------------------------------------------------- method


def test_every_value_of_a_scenario_is_on_the_page(compared_run):
    table = page_of(compared_run).scenarios
    facts = {name: values[1] for name, values in table.rows}
    assert facts["Levels"] == "1, 5, 10, 50 and 100 users"
    assert facts["Prompt"].startswith("192 English words")
    assert "counted by the servers: 271 to 272 tokens" in facts["Prompt"]
    assert facts["Answer"] == "128 tokens, streamed; counted by the servers: 128 tokens"
    assert facts["Sampling"].startswith("temperature 0 (greedy), top-p 1, top-k off")
    assert facts["Repeats"] == "4, over 2 launches of each server"
    assert facts["Warm-up"] == "the same load until it is steady, at most 1 min"


def test_an_open_loop_a_replay_and_conversations_are_told_in_their_own_words(open_run):
    columns = list(zip(*(values for _, values in page_of(open_run).scenarios.rows), strict=True))
    names = [name for name, _ in page_of(open_run).scenarios.rows]
    rush, monday, chat = (dict(zip(names, column, strict=True)) for column in columns)
    assert rush["Load"].startswith("open loop: requests come by chance (Poisson)")
    assert rush["Levels"] == "0.5, 2, 8 and 32 requests/s"
    assert rush["Time"] == "requests are due for 1 min"
    assert monday["Load"].startswith("replay of monday.jsonl, 2 times as fast")
    assert monday["Levels"] == "as recorded"
    assert monday["Requests"] == "does not apply"
    assert chat["Conversation"].startswith("4 turns, each of which sends all that was said before")
    assert chat["Prompt"].startswith("192 English words, others in every request, after 400 words that all share")
    assert chat["Load"].endswith("the users come one after another over 5.00 s")


def test_where_requests_come_by_themselves_latencies_count_from_when_they_were_due(open_run, compared_run):
    terms = {fact.name: fact.text for fact in page_of(open_run).glossary}
    assert "from the moment the request was due" in terms["TTFT"]
    assert "from sending the request" in {f.name: f.text for f in page_of(compared_run).glossary}["TTFT"]


def test_the_rules_told_on_the_page_are_those_that_judged_the_cells(compared_run):
    page = page_of(compared_run)
    told = " ".join(fact.text for fact in (*page.method, *page.glossary))
    share = inspect.signature(window.steady_window).parameters["share"].default
    assert f"at least {share:.0%} of the users" in told
    assert f"Over {summary.MAX_FAILURE_RATIO:.0%} of them makes a cell invalid" in told
    assert f"{estimate.BOOTSTRAP_DRAWS:,} samples" in told


def test_the_order_of_the_launches_is_told(compared_run):
    order = {fact.name: fact.text for fact in page_of(compared_run).method}["Order"]
    assert "baseline, baseline tuned, candidate, candidate, baseline tuned then baseline" in order


def test_levels_that_were_left_out_are_said(compared_run):
    cells = [cell for cell in compared_run.cells if cell.users < 50]
    assert (
        dict(page_of(compared_run, cells).scenarios.rows)["Levels"][1]
        == "1, 5 and 10 users (left out: 50 and 100 users)"
    )


def test_every_term_that_the_tables_use_is_explained(compared_run):
    terms = {fact.name for fact in page_of(compared_run).glossary}
    assert {"TTFT", "ITL", "TPOT", "E2E", "tok/s", "req/s", "Interval", "Ratio", "Verdict", "Cell", "Block"} <= terms
    assert "Ceiling" in terms


# ---------------------------------------------------------------- machine, limits, names


def test_the_notes_of_a_run_are_its_first_limits(compared_run):
    page = page_of(compared_run)
    assert page.limits[: len(compared_run.run.notes)] == compared_run.run.notes


def test_an_open_loop_alone_is_not_called_a_closed_one(open_run):
    rush = (open_run.run.scenarios[0],)
    assert not any("closed loop" in text for text in page_of(open_run, scenarios=rush).limits)
    assert any("closed loop" in text for text in page_of(open_run).limits)


def test_the_command_that_repeats_a_run_is_given(compared_run):
    first, second = page_of(compared_run).commands
    assert first.name == compared_run.run.command
    assert compared_run.run.tuned_in in first.text
    assert second.name == f"harness report {compared_run.run.id}"


def test_a_machine_without_a_gpu_is_named_by_its_cpu(compared_run):
    host = replace(compared_run.run.host, gpu=None, cpu="Xeon", cores=2)
    assert page_of(compared_run, host=host).title == "qwen2.5-1.5b on a CPU (Xeon, 2 cores)"


def test_two_servers_of_one_title_are_told_apart_by_their_part(equal_run):
    engines = tuple(replace(one, title="vLLM 1") for one in equal_run.run.engines)
    assert [side.title for side in page_of(equal_run, engines=engines).sides] == [
        "vLLM 1 (baseline)",
        "vLLM 1 (candidate)",
    ]


def test_a_side_keeps_its_look_whether_the_baseline_was_tuned_too_or_not(compared_run, equal_run):
    looks = {side.role: side.look for side in page_of(compared_run).sides}
    assert looks == {"candidate": 1, "baseline": 2, "baseline tuned": 3}
    assert {side.role: side.look for side in page_of(equal_run).sides} == {"candidate": 1, "baseline": 2}


def test_the_precision_of_a_side_is_the_manifest_s_or_else_the_server_s(compared_run):
    engines = engines_with(compared_run, "candidate", precision="")
    by_role = {side.role: side.precision for side in page_of(compared_run, engines=engines).sides}
    assert by_role["candidate"] == "bf16"
    without = page_of(compared_run, engines=engines, manifest=None)
    assert {side.role: side.precision for side in without.sides}["candidate"] == ""
