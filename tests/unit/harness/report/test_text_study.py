"""A study on the console."""

import msgspec

from harness.report import text_study
from tests.unit.harness.report import recorded_studies
from tests.unit.harness.report.recorded_studies import LAUNCHES, TRIALS, share

replace = msgspec.structs.replace


def test_a_study_is_told_from_its_trials_to_its_command(studied_run):
    told = text_study.study_text(studied_run.run, TRIALS, LAUNCHES)
    parts = (
        "trial  outcome",
        "Trial 3: out of memory at the start, 1.20 GiB short",
        "Finals: the best of the search",
        "16 of 32 greedy answers",
        "Ablation: what each flag is worth",
        "18.0% is lost without it",
        "In all",
        "Trial 1 won against the defaults",
        "vllm serve Qwen/Qwen2.5-1.5B-Instruct --max-num-seqs 128",
    )
    places = [told.index(part) for part in parts]
    assert places == sorted(places)
    assert "simulated" not in told.lower()


def test_the_console_tells_the_front():
    found = recorded_studies.two_objectives()
    told = text_study.study_text(found.run, found.trials, ())
    assert "No settings that were tried beat trial 1 and trial 2 in all objectives at once" in told
    assert "on the front  throughput" in told


def test_the_console_tells_that_nobody_kept_the_limits():
    kept = {1: (share(0.70, 0.66, 0.74), share(0.8, 0.76, 0.84))}
    found = recorded_studies.with_limits(kept)
    assert "Nobody met it" in text_study.study_text(found.run, found.trials, ())


def test_a_study_without_a_defence_has_no_such_part(tuned_run):
    told = text_study.study_text(tuned_run.run, tuned_run.trials, ())
    assert "Finals" not in told
    assert "Baseline: vLLM's defaults" in told
