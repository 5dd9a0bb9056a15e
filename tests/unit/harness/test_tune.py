from pathlib import Path

import pytest

from harness import tune
from harness.errors import EngineContextTooLong, EngineCrashed, EngineOutOfMemory, UsageError
from harness.records import Estimate, Outcome, Trial

FLAGS = {"max-num-batched-tokens": 2048, "max-num-seqs": 64, "max-model-len": 8192}


@pytest.mark.parametrize(
    ("name", "metric", "levels"),
    [
        ("balanced", "output_tok_s", (1, 10, 50)),
        ("throughput", "output_tok_s", (50,)),
        ("latency", "e2e_s.p50", (1,)),
    ],
)
def test_an_objective_is_one_metric_at_some_levels(name, metric, levels):
    found = tune.objective_named(name, [50, 1, 10])
    assert (found.metric, found.levels) == (metric, levels)


def test_an_unknown_objective_is_refused_with_the_list():
    with pytest.raises(UsageError) as refused:
        tune.objective_named("fastest", [1])
    assert "balanced" in refused.value.hint


def test_a_context_that_does_not_fit_keeps_the_length_that_would():
    error = EngineContextTooLong("too long", fits=4096, log=Path("engine-trial-3.log"))
    trial = tune.failed_trial(3, FLAGS, error, wall_s=9.0)
    assert trial.outcome == Outcome.CONTEXT_TOO_LONG
    assert trial.constraints["context"] == pytest.approx(1.0)  # twice what fits
    assert trial.fits_tokens == 4096
    assert trial.log == "engine-trial-3.log"


def test_memory_that_is_short_is_told_by_how_much():
    trial = tune.failed_trial(1, FLAGS, EngineOutOfMemory("short", short_bytes=3 * 2**30), wall_s=1.0)
    assert trial.constraints == {"memory_short_gib": 3.0}


def test_every_failed_trial_is_infeasible_and_none_has_an_objective():
    for error in (EngineCrashed("gone"), EngineOutOfMemory("short"), EngineContextTooLong("long")):
        trial = tune.failed_trial(1, FLAGS, error, wall_s=1.0)
        assert trial.objective is None
        assert max(trial.constraints.values()) > 0


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, confidence=0.95, n=4, unit="ratio")


@pytest.mark.parametrize(
    ("objectives", "winner"),
    [
        ([estimate(1.25, 1.20, 1.30), estimate(1.30, 0.99, 1.70)], 1),  # the sure one, not the one that looks best
        ([estimate(1.25, 1.20, 1.30), estimate(1.30, 1.10, 1.50)], 2),
        ([estimate(1.01, 0.99, 1.03), None], None),
        ([None, None], None),
    ],
)
def test_the_winner_is_the_best_of_those_that_are_surely_faster(objectives, winner):
    trials = [
        Trial(number=number, flags={**FLAGS, "max-num-seqs": number}, outcome=Outcome.MEASURED, objective=objective)
        for number, objective in enumerate(objectives, start=1)
    ]
    best = tune.winner(trials)
    assert (best.number if best else None) == winner
