"""The story of a search: what was asked, tried, learned, stopped and spent, and how its winner was defended."""

import dataclasses

import msgspec
import pytest

from harness.records import Outcome
from harness.report import html, view
from tests.unit.harness.report import recorded_studies
from tests.unit.harness.report.recorded_cells import Recorded
from tests.unit.harness.report.recorded_studies import DEFENCE, FINALS, LAUNCHES, REMOVALS, TRIALS, share

replace = msgspec.structs.replace


def page_of(recorded: Recorded, **changes: object):
    return view.page(replace(recorded.run, **changes), recorded.cells, recorded.trials, launches=LAUNCHES)


@pytest.fixture
def story(studied_run):
    return page_of(studied_run).settings


# ---------------------------------------------------------------- asked, tried, learned


def test_what_was_asked_is_said_before_what_was_found(story):
    facts = {one.name: one.text for one in story.facts}
    assert facts["Loads"] == "1 and 100 users, 2 repeats of each in one launch"
    assert facts["Asked for"] == "at most 8 trials, a budget of 2 h"
    assert facts["Objective"].startswith("balanced: geometric mean")
    assert story.ladders == (
        ("--max-num-seqs", "vLLM's own, 64, 128, 256"),
        ("--enable-prefix-caching", "vLLM's own, off"),
    )


def test_each_candidate_says_where_it_comes_from(story):
    assert [row.origin for row in story.trials[:4]] == ["", "memory plan", "conservative start", "search"]


def test_what_failed_says_what_was_learned_from_it(story):
    assert story.lessons == (
        "Trial 3: out of memory at the start, 1.20 GiB short → nothing that is known to need as much memory was "
        "tried after it.",
        "Trial 4: context too long: 131,072 tokens, and 93,632 would fit → longer ones were cut to that.",
        "Trial 5: bad flag → what vLLM refused was not sent again.",
        "Trial 6: crashed under 100 users → these settings were not tried again, and their neighbours last.",
        "Trial 2: 1 launch before the one that counts failed for what other programs did (they held memory or the "
        "port) → tried again, and nothing was learned of these settings.",
    )


def test_memory_that_ran_out_under_load_is_no_failure_at_the_start(studied_run):
    died = replace(TRIALS[3], died_under_users=50, launch_s=90.0, constraints={})
    found = view.page(studied_run.run, (), (TRIALS[0], died)).settings
    assert found.lessons[0].startswith("Trial 3: out of memory under 50 users → nothing")


def test_what_was_stopped_early_says_why_and_how_far_it_was(story):
    assert story.stops == (
        "Trial 7: surely behind trial 1 at 100 users, whatever its other loads give (until then 0.200× (0.190–0.210) "
        "of the defaults); ended after 2 min 10 s.",
    )
    row = story.trials[7]
    assert (row.badge.text, str(row.objective)) == ("stopped early", "0.200× (0.190–0.210)§")
    assert "§ over the loads that were measured before it was stopped" in story.trial_notes


def test_what_the_ratios_of_several_workers_are_to_is_said(studied_run, story):
    control = replace(TRIALS[1], flags={}, worker=1, is_control=True)
    found = view.page(studied_run.run, (), (TRIALS[0], control, *TRIALS[2:])).settings
    assert any(note.startswith("Trial 1 is the defaults once more") for note in found.trial_notes)
    assert not any("once more" in note for note in story.trial_notes)


def test_a_stopped_trial_has_a_figure_and_does_not_count_as_failed(studied_run):
    strip = {tile.name: tile.figure.text for tile in page_of(studied_run).strip.tiles}
    assert strip["of them without a figure"] == "4"
    assert strip["launches to defend the winner"] == "17"


# ---------------------------------------------------------------- course and cost


def test_the_best_so_far_rises_only_with_whole_trials(story):
    by_launch, by_time = story.progress
    assert by_launch.best == ((1.0, 1.0), (2.0, 1.3))
    assert [mark.kind for mark in by_launch.marks] == [
        *("whole", "whole", "whole", "failed", "failed", "failed", "failed", "stopped", "whole"),
        "final",
    ]
    assert by_time.best[1] == (8.0, 1.3)
    assert (by_launch.end, by_launch.last) == (9.0, 26.0)


def test_the_winner_of_the_finals_stands_at_their_end_with_the_figure_of_the_finals(story):
    final = story.progress[0].marks[-1]
    assert (final.x, final.ratio) == (9.0 + 9.0, (1.22, 1.27, 1.32))


def test_without_a_winner_no_diamond_is_drawn_and_nothing_is_said_to_be_confirmed(studied_run):
    found = page_of(studied_run, defence=replace(DEFENCE, winner=None, reason="No clear winner.")).settings
    assert all(mark.kind != "final" for mark in found.progress[0].marks)
    assert "no finals confirmed it" in found.progress_notes[0]


def test_minutes_of_several_workers_are_not_called_those_of_the_study(studied_run, story):
    trials = tuple(replace(one, worker=one.number % 2) for one in TRIALS)
    shared = view.page(studied_run.run, (), trials, launches=LAUNCHES).settings
    assert story.progress[1].x_label == "minutes since the study began"
    assert shared.progress[1].x_label == "minutes of launches, all workers together"


def test_launches_and_minutes_are_told_by_stage(story):
    assert [(row.name.partition(":")[0], row.launches, row.time, row.lost) for row in story.stages] == [
        ("Baseline", "1", "4 min", ""),
        ("Search", "9", "20 min 19 s", "4 without a figure, 1 stopped early, 1 made again for what others did"),
        ("Finals", "9", "30 min", ""),
        ("Ablation", "4", "13 min 20 s", ""),
        ("Confirmation", "4", "13 min 20 s", ""),
        ("In all", "27", "1 h 20 min", "4 without a figure, 1 stopped early, 1 made again for what others did"),
    ]
    assert story.stage_notes[0] == "Of a budget of 2 h, launches took 1 h 20 min."


# ---------------------------------------------------------------- defence


def test_the_finals_say_who_won_who_was_refused_and_why(story):
    finals = story.judged[0]
    assert [(row.name, row.badge.text, str(row.ratio)) for row in finals.rows] == [
        ("trial 1", "winner", "1.27× (1.22–1.32)"),
        ("trial 8", "undecided", "1.03× (0.99–1.07)"),
        ("trial 2", "refused", "–"),
    ]
    assert [str(row.agreement) for row in finals.rows] == ["96.9% (84.0–99.0%)", "not asked", "50% (34–66%)"]
    assert "16 of 32 greedy answers" in finals.rows[2].reason
    assert "Bonferroni" in finals.notes[0]


def test_the_ablation_says_what_each_flag_is_worth_and_which_were_dropped(story):
    ablation = story.judged[1]
    assert [(row.name, row.worth, row.badge.text) for row in ablation.rows] == [
        ("without --max-num-batched-tokens 16384", "between 2.0% lost and 2.0% gained without it", "dropped"),
        ("without --max-num-seqs 128", "18.0% is lost without it", "kept"),
        ("without --max-model-len 4096", "between 2.0% lost and 4.0% gained without it", "dropped"),
        (
            "confirmation: without all of these that seemed to do nothing",
            "between 2.0% lost and 1.0% gained without it",
            "confirmed",
        ),
    ]


def test_a_flag_of_which_nothing_can_be_told_stays_and_says_so(studied_run):
    wide = replace(REMOVALS[0], ratio=recorded_studies.ratio(1.0, 0.9, 1.1))
    needed = replace(REMOVALS[1], ratio=None, is_refused=True, reason="vLLM would refuse it")
    defence = replace(DEFENCE, removals=(wide, needed), confirmation=None, dropped=())
    rows = page_of(studied_run, defence=defence).settings.judged[1].rows
    assert [row.badge.text for row in rows] == ["undecided: kept", "kept"]


def test_a_confirmation_that_failed_is_said_to_have(studied_run):
    found = page_of(studied_run, defence=replace(DEFENCE, dropped=("max-model-len",))).settings
    assert found.judged[1].rows[-1].badge.text == "not confirmed"


def test_the_winner_keeps_its_mark_although_flags_were_dropped(story):
    assert [row.number for row in story.trials if row.is_winner] == [1]
    assert story.command.endswith("--max-num-seqs 128")
    assert "--max-num-batched-tokens" not in story.command
    assert story.verdict == (
        "Trial 1 won against the defaults, on prompts that the search had not seen. Without --max-num-batched-tokens "
        "and --max-model-len it is the same within the noise, so they were left out."
    )


def test_no_clear_winner_keeps_the_defaults_in_headline_and_story(studied_run):
    preset = replace(studied_run.run.preset, is_default=True, flags={}, ratio=None, is_defended=False, figures=())
    defence = replace(DEFENCE, winner=None, removals=(), confirmation=None, dropped=(), reason="No clear winner. Keep.")
    page = page_of(studied_run, preset=preset, defence=defence)
    assert page.headline == (
        "Nothing that was tried (8 trials) was surely faster than vLLM's own defaults, not even when the best were "
        "measured again: keep them."
    )
    assert page.settings.verdict == "No clear winner. Keep."
    assert len(page.settings.judged) == 1
    assert not any(row.is_winner for row in page.settings.judged[0].rows)


def test_several_objectives_have_a_column_each_in_the_finals(studied_run):
    ratios = {"throughput": FINALS[0].ratio, "latency": FINALS[1].ratio}
    finals = (replace(FINALS[0], ratios=ratios),)
    table = page_of(studied_run, defence=replace(DEFENCE, finals=finals)).settings.judged[0]
    assert table.objectives == ("throughput", "latency")
    assert [str(one) for one in table.rows[0].each] == ["1.27× (1.22–1.32)", "1.03× (0.99–1.07)"]


def test_a_study_that_was_not_defended_has_no_tables_and_its_preset_says_so(studied_run):
    preset = replace(studied_run.run.preset, is_defended=False)
    found = page_of(studied_run, defence=None, preset=preset).settings
    assert (found.judged, found.verdict) == ((), "")
    facts = {one.name: one.text for one in found.preset.facts}
    assert facts["Defended"].startswith("no: chosen from one launch each")


def test_the_preset_says_where_it_lies_what_it_holds_for_and_when_it_expires(story):
    facts = {one.name: one.text for one in story.preset.facts}
    assert facts["File"] == "results/presets/rtx4090/qwen2.5-1.5b.toml"
    assert facts["Holds for"] == "qwen2.5-1.5b, weights in bf16; NVIDIA GeForce RTX 4090, driver 580.65.06"
    assert facts["Expires"] == "with any vLLM that is not >=0.32,<0.33 (found with 0.32.0)"
    (load,) = story.preset.loads
    assert load[0] == "100 users"
    assert [str(one) for one in load[1][0]] == ["18,300 tok/s (17,700–18,900)", "1.29× (1.26–1.33)"]
    assert str(load[1][1][0]) == "–†"


def test_a_comparison_tells_the_defence_of_its_settings_and_has_no_preset_of_its_own(compared_run):
    run = replace(compared_run.run, defence=DEFENCE)
    found = view.page(run, compared_run.cells, TRIALS, launches=LAUNCHES).settings
    assert len(found.judged) == 2
    assert found.preset is None


# ---------------------------------------------------------------- several objectives, limits


def test_the_front_is_told_with_all_ratios_and_drawn():
    found = page_of(recorded_studies.two_objectives()).settings.front
    assert found.names == ("throughput", "latency")
    assert [(name, *(one.text for one in ratios)) for name, ratios, _ in found.rows] == [
        ("trial 1", "1.30×", "0.900×"),
        ("trial 2", "1.10×", "1.05×"),
    ]
    assert [(mark.name, mark.is_front) for mark in found.chart.marks] == [
        ("0", False), ("1", True), ("2", True), ("8", False),
    ]  # fmt: skip


def test_one_objective_has_no_front(story):
    assert story.front is None


def test_who_kept_the_limits_is_judged_by_the_intervals():
    kept = {
        0: (share(0.90, 0.88, 0.92), share(0.999, 0.992, 1.0)),
        1: (share(0.97, 0.96, 0.98), share(0.998, 0.991, 1.0)),
        2: (share(0.955, 0.94, 0.97), share(0.998, 0.991, 1.0)),
    }
    found = page_of(recorded_studies.with_limits(kept)).settings.kept
    assert [(name, verdict.text) for name, _, verdict in found.rows] == [
        ("vLLM's defaults", "misses"), ("trial 1", "keeps all"), ("trial 2", "not sure"),
    ]  # fmt: skip
    assert found.sentence.startswith("2 of the settings that were measured kept ttft:p95<30ms and e2e:p99<1500ms")


def test_limits_that_nobody_kept_are_said_with_the_best_found():
    kept = {
        0: (share(0.40, 0.36, 0.44), share(0.9, 0.87, 0.93)),
        1: (share(0.70, 0.66, 0.74), share(0.8, 0.76, 0.84)),
    }
    found = page_of(recorded_studies.with_limits(kept)).settings.kept
    assert found.sentence == (
        "Nobody met it: no settings kept ttft:p95<30ms and e2e:p99<1500ms. The best found is trial 1: of its requests "
        "70% (66–74%) kept ttft:p95<30ms and 80% (76–84%) kept e2e:p99<1500ms."
    )


# ---------------------------------------------------------------- the page


def test_the_page_of_a_study_tells_its_story_before_its_figures(studied_run):
    text = html.document(page_of(studied_run))
    order = [
        text.index(told)
        for told in (
            'id="settings"', "What was asked", "All trials", "What failed", "What was stopped early",
            "How fast it got there", "What it cost", "Finals:", "Ablation:", 'id="figures"',
        )
    ]  # fmt: skip
    assert order == sorted(order)


def test_an_old_study_without_the_new_records_still_has_its_page(tuned_run):
    found = view.page(tuned_run.run, tuned_run.cells, tuned_run.trials).settings
    assert (found.ladders, found.judged, found.kept, found.front) == ((), (), None, None)
    assert found.lessons[0].startswith("Trial 3: out of memory at the start, 1.40 GiB short")


def test_a_study_whose_only_trial_is_the_baseline_has_no_curves(studied_run):
    only = dataclasses.replace(studied_run, trials=TRIALS[:1])
    found = view.page(replace(only.run, preset=None, defence=None), only.cells, only.trials).settings
    assert (found.progress, found.progress_notes, found.chart) == ((), (), None)
    assert [row.name for row in found.stages] == ["Baseline: vLLM's defaults", "In all"]


@pytest.mark.parametrize("outcome", [Outcome.HUNG, Outcome.INVALID])
def test_every_failure_has_a_lesson(studied_run, outcome):
    trials = (TRIALS[0], replace(TRIALS[3], outcome=outcome))
    assert len(view.page(studied_run.run, (), trials).settings.lessons) == 1
