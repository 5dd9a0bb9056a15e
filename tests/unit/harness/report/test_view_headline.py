"""The headline, and what must be read with it."""

from harness.records import Tier, Verdict
from harness.report import words
from tests.unit.harness.report.pages import engines_with, manifest_with, page_of, replace, row


def headline(recorded, *rows):
    return page_of(recorded, comparisons=rows).headline


def test_the_headline_names_the_tier_and_both_servers_with_their_precision_and_the_interval(compared_run):
    text = headline(
        compared_run,
        row(1, 0.361, 0.372, 0.384, verdict=Verdict.SLOWER),
        row(50, 3.1, 3.42, 3.81, verdict=Verdict.FASTER),
    )
    assert text == (
        "As people run them: at 50 users vLLM 0.32.0, tuned (bf16), gave 3.42× (3.10–3.81) the tokens per second of "
        "llama.cpp, the engine inside Ollama (q4_1); alone it was slower: 0.372× (0.361–0.384)."
    )


def test_the_precisions_stand_in_the_headline_even_where_they_are_equal(equal_run):
    text = headline(equal_run, row(50, 3.1, 3.42, 3.81, verdict=Verdict.FASTER))
    assert text.startswith("Under equal conditions, on synthetic weights: at 50 users vLLM 0.32.0, defaults (bf16)")
    assert "llama.cpp, the engine inside Ollama (f16)" in text


def test_an_unknown_precision_is_said_to_be_unknown(compared_run):
    found = page_of(
        compared_run,
        engines=engines_with(compared_run, "baseline", precision=""),
        manifest=manifest_with(compared_run, "baseline", weights_precision=""),
    )
    assert "llama.cpp, the engine inside Ollama (precision not known)" in found.headline


def test_no_ratio_stands_in_a_headline_without_a_tier(compared_run):
    page = page_of(compared_run, manifest=None)
    assert "×" not in page.headline
    assert "it was not recorded what was equal" in page.headline
    assert page.strip is None
    assert page.tier == ""


def test_the_ratio_to_the_tuned_baseline_is_in_the_same_sentence(compared_run):
    text = headline(
        compared_run,
        row(50, 3.1, 3.42, 3.81, verdict=Verdict.FASTER),
        row(50, 1.1, 1.2, 1.3, verdict=Verdict.FASTER, against="baseline tuned"),
    )
    assert text.endswith(
        "; at 50 users the ratio to llama.cpp, the engine inside Ollama, 100 slots (q4_1) is 1.20× (1.10–1.30)."
    )


def test_an_undecided_ratio_to_the_tuned_baseline_claims_nothing(compared_run):
    text = headline(
        compared_run,
        row(50, 3.1, 3.42, 3.81, verdict=Verdict.FASTER),
        row(50, 0.9, 1.0, 1.1, verdict=Verdict.UNDECIDED, against="baseline tuned"),
    )
    assert text.endswith("1.00× (0.90–1.10), which leaves open which is faster.")


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
    assert text.startswith("As people run them: at 50 users")
    assert "alone it was faster too: 1.20× (1.10–1.30)" in text
    assert text.endswith("no ratio can be given for 100 users.")


def test_a_headline_without_any_ratio_gives_the_reason(compared_run):
    reason = "no fair comparison: the sides were told to sample differently."
    text = headline(compared_run, row(1, None, None, None, verdict=Verdict.UNDECIDED, reason=reason))
    assert text.startswith("As people run them: with 1 user no ratio")
    assert "(no fair comparison: the sides were told to sample differently)" in text


def test_a_comparison_of_latencies_alone_has_a_headline_too(compared_run):
    text = headline(compared_run, row(1, 1.9, 2.0, 2.1, verdict=Verdict.FASTER, metric="e2e_s.p50"))
    assert "2.00× (1.90–2.10) the speed in E2E p50" in text


def test_loads_in_requests_per_second_are_called_so(compared_run):
    text = headline(
        compared_run,
        row(0, 1.1, 1.2, 1.3, verdict=Verdict.FASTER, rate_per_s=0.5),
        row(0, 2.1, 2.2, 2.3, verdict=Verdict.FASTER, rate_per_s=8.0),
    )
    assert "at 8 requests/s vLLM" in text
    assert "at 0.5 requests/s it was faster too" in text


def test_a_search_says_whether_its_winner_beat_the_defaults(tuned_run):
    preset = tuned_run.run.preset
    found = "The settings found are 1.37× (1.30–1.44) as fast as vLLM's own defaults, judged by the geometric mean"
    assert page_of(tuned_run).headline.startswith(found)
    default = page_of(tuned_run, preset=replace(preset, is_default=True, flags={}, ratio=None))
    assert "Nothing that was tried (7 trials) was surely faster" in default.headline
    open_ratio = replace(preset.ratio, low=0.98)
    assert "does not show a gain" in page_of(tuned_run, preset=replace(preset, ratio=open_ratio)).headline
    unfinished = page_of(tuned_run, preset=None)
    assert "the best so far, not confirmed, reached 1.37×" in unfinished.headline


def test_a_measurement_of_one_server_speaks_of_its_widest_scenario(benched_run):
    text = page_of(benched_run).headline
    assert text.startswith("At 100 users llama.cpp, the engine inside Ollama, gave 363 output tokens per second (")
    assert "over 3 repeats); alone it gave 370 tok/s (" in text


def test_a_measurement_on_synthetic_weights_begins_by_saying_so(benched_run):
    engines = tuple(replace(one, is_synthetic=True) for one in benched_run.run.engines)
    page = page_of(benched_run, engines=engines)
    assert page.headline.startswith("On synthetic weights: at 100 users llama.cpp")
    assert page.title.endswith(", synthetic weights")


def test_a_capacity_says_between_which_loads_it_lies_and_what_was_asked(capacity_run):
    text = page_of(capacity_run).headline
    assert text.startswith(
        "Up to 40 users vLLM 0.32.0 kept TTFT under 500 ms for 95% of the requests and E2E under 4.00 s for 99% of the "
        "requests; at 48 users it did not, and between the two it is open ("
    )


def test_the_strip_shows_every_load_and_not_a_chosen_one(compared_run):
    strip = page_of(compared_run).strip
    assert [tile.name for tile in strip.tiles] == ["1 user", "5 users", "10 users", "50 users", "100 users"]
    assert strip.tiles[-1].badge == words.NO_RATIO
    assert "vLLM 0.32.0, tuned (bf16) ÷ llama.cpp, the engine inside Ollama (q4_1)" in strip.caption


# ---------------------------------------------------------------- tier, differences, faults


def test_the_tier_line_says_what_is_compared_as_what(compared_run, equal_run):
    assert page_of(compared_run).tier == (
        "as people run them (tier as-run): vLLM 0.32.0, tuned with bf16 weights against llama.cpp, the engine inside "
        "Ollama with q4_1 weights and llama.cpp, the engine inside Ollama, 100 slots with q4_1 weights"
    )
    assert page_of(equal_run).tier == (
        "under equal conditions (tier equal): vLLM 0.32.0, defaults with synthetic bf16 weights against llama.cpp, the "
        "engine inside Ollama with synthetic f16 weights"
    )


def test_every_tier_has_its_words():
    from harness.report import view_fairness

    assert set(view_fairness.TIERS) == set(Tier)


def test_differences_and_faults_stand_at_the_top_and_over_the_comparison(compared_run):
    manifest = replace(compared_run.run.manifest, faults=("The sides were told to sample differently.",))
    page = page_of(compared_run, manifest=manifest)
    assert page.faults == page.comparisons.faults == ("The sides were told to sample differently.",)
    assert page.comparisons.differences == manifest.differences
    assert page.cautions[: len(manifest.differences)] == manifest.differences


def test_one_launch_per_side_is_warned_of(compared_run):
    cells = [cell for cell in compared_run.cells if cell.block == 1]
    assert page_of(compared_run, cells).cautions[-1].startswith("One launch per side")
    assert not any("launch per side" in text for text in page_of(compared_run).cautions)
    alone = [cell for cell in cells if cell.repeat == 1]
    assert page_of(compared_run, alone).cautions[-1].startswith("One repeat only")
