"""Percentiles that no interval can come of are refused, or warned of, before anything is launched."""

import msgspec
import numpy as np
import pytest

from harness import config, models
from harness.errors import UsageError
from harness.records import ClosedLoop
from harness.stats.estimate import least_values, quantile
from harness.tune import objectives_named, refuse_unresolvable
from harness.tune.resolution import thin_loads, thin_warnings, too_few
from harness.tune.session import run
from tests.unit.harness.tune.worlds import SCENARIO, FakeEngines, plan, study

CARD = {"profile": config.gpu_profile("rtx4090"), "shape": models.entry("qwen2.5-1.5b").shape}


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
def test_with_the_least_values_there_is_an_interval_and_with_one_less_there_is_none(q):
    count = least_values(q)
    assert quantile(np.arange(count), q, unit="s") is not None
    assert quantile(np.arange(count - 1), q, unit="s") is None


def test_a_p99_of_one_user_is_refused_with_what_would_do():
    """325 tok/s is what 1.5B parameters in 16 bits allow at 1008 GB/s: some 51 answers of 128 tokens in 20 s."""
    with pytest.raises(UsageError) as refused:
        refuse_unresolvable(objectives_named("latency:ttft:p99", [1, 10]), SCENARIO, **CARD)
    assert "needs 368 requests" in refused.value.message
    assert "at 1 user" in refused.value.message
    most = int(refused.value.message.partition("at most ")[2].split()[0])
    assert 40 <= most <= 80
    assert "latency:ttft:p50" in refused.value.hint
    assert "requests_per_user = 368" in refused.value.hint


@pytest.mark.parametrize(
    ("objective", "users"),
    [("latency", [1]), ("throughput", [1]), ("balanced", [1]), ("latency:ttft:p95", [100]), ("latency:e2e:p90", [50])],
)
def test_what_surely_has_enough_requests_is_not_worth_a_word(objective, users):
    assert list(thin_loads(objectives_named(objective, users), SCENARIO, **CARD)) == []


def test_what_depends_on_how_fast_answers_are_is_a_warning():
    """10 users end 30 answers for sure; 72 in 20 s where each takes less than 10 * 20 / 72 s."""
    found = objectives_named("latency:ttft:p95", [10])
    refuse_unresolvable(found, SCENARIO, **CARD)
    (warning,) = thin_warnings(found, SCENARIO, **CARD)
    assert "needs 72 requests" in warning
    assert "sure to give 30" in warning
    assert "less than 2.8 s" in warning


def test_a_card_without_figures_is_not_refused_but_warned_of():
    found = objectives_named("latency:ttft:p99", [1])
    here = {"profile": config.gpu_profile("cpu"), "shape": models.entry("smollm2-135m").shape}
    refuse_unresolvable(found, SCENARIO, **here)
    assert len(thin_warnings(found, SCENARIO, **here)) == 1


def test_a_longer_scenario_is_enough():
    assert isinstance(SCENARIO.load, ClosedLoop)
    longer = msgspec.structs.replace(SCENARIO, load=msgspec.structs.replace(SCENARIO.load, requests_per_user=368))
    assert list(thin_loads(objectives_named("latency:ttft:p99", [1]), longer, **CARD)) == []


def test_the_warning_comes_before_the_first_launch(tmp_path):
    lines = list[str]()

    def refusing(*_, **__):
        lines.append("launched")
        raise UsageError("enough seen")

    world = study(plan(), tmp_path / "other", FakeEngines(), [])[0]._world
    world.launch = refusing
    with pytest.raises(UsageError, match="enough seen"):
        run(plan(objective="latency:ttft:p95", users=(10,)), results=tmp_path, say=lines.append, world=world)
    assert any("needs 72 requests" in line for line in lines[: lines.index("launched")])


def test_cells_without_the_figure_say_how_many_requests_they_had(tmp_path):
    made, _, _ = study(plan(objective="latency:ttft:p99"), tmp_path / "run", FakeEngines(), [])
    made._defaults.measure()
    (one,) = made.objectives
    told = too_few(made.recording.folder.cells(), one)
    assert told == "a repeat had 300 requests, and the interval of this figure needs 368"
