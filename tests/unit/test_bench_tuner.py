"""The tuner benchmark's arithmetic, its racers and its bars, on a surface that is worked out by hand."""

import importlib
import itertools
import math
import sys
from pathlib import Path

import pytest

from harness.search import Axis, Space, key_of

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(autouse=True)
def bench_folder(monkeypatch):
    """The benchmark is a script: its folder is in the path only while it runs."""
    monkeypatch.syspath_prepend(str(BENCH))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("benchtuner", "tuner_bench")]:
        del sys.modules[name]


def module(name):
    return importlib.import_module(f"benchtuner.{name}")


def surface(values):
    """Candidates on two ladders, `values` by rows of max-num-batched-tokens; None fails."""
    surfaces = module("surfaces")
    space = Space(
        axes=(
            Axis(flag="max-num-batched-tokens", steps=tuple(2**n for n in range(len(values)))),
            Axis(flag="max-num-seqs", steps=tuple(2**n for n in range(len(values[0])))),
        )
    )
    points = {}
    for places in space.everywhere():
        flags = space.flags_at(places)
        value = values[places[0]][places[1]]
        outcome = "measured" if value is not None else "crashed"
        points[key_of(flags)] = surfaces.Point(flags=flags, value=value, cold_s=120.0, warm_s=60.0, outcome=outcome)
    return surfaces.Surface(
        name="by hand", is_simulated=True, group=surfaces.CHOSEN, space=space, seeds=(), points=points,
        is_allowed=lambda _: [], grid=surfaces.auto_tune_grid(space),
    )  # fmt: skip


HILL = [[-0.2, -0.1, 0.0], [None, 0.1, 0.05], [-0.1, 0.0, 0.3]]


def raced(racer, values=HILL, *, noise=0.0, most=50, folder=None):
    racers = module("racers")
    return racers.race(
        surface(values), racer, seed=1, folder=folder, noise=noise, within=racers.within_log(0.02), least=0, most=most
    )


def test_the_grid_goes_through_batches_for_each_number_of_sequences(tmp_path):
    flags = surface(HILL).grid
    assert [(one["max-num-seqs"], one["max-num-batched-tokens"]) for one in flags[:4]] == [
        (1, 1),
        (1, 2),
        (1, 4),
        (2, 1),
    ]
    assert raced("auto_tune's grid", folder=tmp_path).launches == 9


@pytest.mark.parametrize("racer", ["ours", "random", "auto_tune's grid"])  # plain TPE repeats itself for ever
def test_every_racer_ends_at_the_top_where_there_is_no_noise(racer, tmp_path):
    found = raced(racer, folder=tmp_path)
    assert found.launches is not None
    assert found.ends_at == 0.3
    assert found.regrets[0] == 0.3
    assert found.regrets[-1] == 0.0
    assert list(found.regrets) == sorted(found.regrets, reverse=True)


def test_minutes_count_a_compiled_setting_less(tmp_path):
    found = raced("auto_tune's grid", [[-0.1, 0.2]], folder=tmp_path)
    assert (found.launches, found.minutes) == (2, 3.0)  # both axes only relaunch: the first one warms the second


def test_where_the_baseline_is_as_good_no_launch_is_needed(tmp_path):
    assert raced("ours", [[-0.1, 0.01]], folder=tmp_path).launches == 0


def test_a_search_that_does_not_get_there_counts_with_all_its_launches(tmp_path):
    report = module("report")
    found = raced("random", [[-0.1, -0.2, 0.2]] * 1, most=0, folder=tmp_path)
    assert found.launches is None
    assert report.needed(found, "launches") == 0
    assert report.needed(found, "minutes") == math.inf


def test_the_interval_of_a_median_is_made_of_order_statistics():
    report = module("report")
    # Of 20 the 6th and the 15th: each tail has 0.0207.
    assert report.order_interval(range(1, 21)) == (10.5, 6, 15)
    assert report.order_interval([3.0]) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(("launches", "is_met"), [(2, True), (5, False)])
def test_a_bar_is_met_or_missed_by_the_ratio_of_medians(launches, is_met):
    report, racers = module("report"), module("racers")
    by = {
        ("by hand", racer): [
            racers.Race(
                surface="by hand", racer=racer, seed=seed, launches=launches if racer == "ours" else 9, minutes=1.0,
                most=20, regrets=(0.3, 0.0), ends_at=0.3,
            )
            for seed in range(5)
        ]
        for racer in racers.RACERS
    }  # fmt: skip
    random_bar, tpe_bar, worst = report.bars(by, surfaces=[surface(HILL)], within=0.02, noise=0.02)
    assert (random_bar["value"], random_bar["met"]) == (pytest.approx(launches / 9), is_met)
    assert random_bar["least"] == pytest.approx(1 / 9)
    assert tpe_bar["met"] is is_met
    assert worst["met"]


def test_a_page_holds_every_racer_and_says_that_it_is_simulated(tmp_path):
    report, racers = module("report"), module("racers")
    one = surface(HILL)
    races = [raced(racer, folder=tmp_path) for racer in racers.RACERS]
    found = report.summary(races, surfaces=[one], within=0.02, noise=0.02)
    page = report.page(found, races, surfaces=[one])
    assert "<svg" in page
    assert "simulated" in report.text(found)
    assert all(racer in page.replace("&#x27;", "'") for racer in racers.RACERS)


def test_recorded_grids_are_surfaces_of_what_was_recorded():
    found = list(module("surfaces").recorded())
    assert found
    assert all(not one.is_simulated and one.best > 0 for one in found)


def test_one_simulated_candidate_is_better_than_a_hopeless_one():
    surfaces = module("surfaces")
    setup = surfaces.Setup(gpu="h100", model="qwen2.5-1.5b", users=(20,), objective="throughput")
    baseline = surfaces.measured_baseline(setup)
    good, bad, refused = (
        surfaces.point_of(
            setup, baseline, {"max-num-batched-tokens": batched, "max-num-seqs": seqs, "max-model-len": 4096}
        )
        for batched, seqs in ((8192, 64), (4096, 2), (64, 128))
    )
    assert good.value > bad.value + 0.3
    assert good.warm_s < good.cold_s
    assert refused.value is None


# ---------------------------------------------------------------- draws


def first_setups(draw, wanted=20):
    return list(itertools.islice(module("draws").setups(draw), wanted))


def test_a_draw_is_the_same_each_time_and_no_two_have_a_surface_in_common():
    draws, surfaces = module("draws"), module("surfaces")
    development, held_out = (first_setups(draw) for draw in draws.DRAWS)
    assert development == first_setups(draws.DRAWS[0])
    assert {one.group for one in held_out} == {surfaces.HELD_OUT}
    bare = [{(one.gpu, one.model, one.users, one.objective, one.prompt_words, one.output_tokens) for one in group}
            for group in (development, held_out)]  # fmt: skip
    assert not bare[0] & bare[1]


def test_drawn_surfaces_fit_their_card_and_stay_small():
    draws = module("draws")
    for setup in first_setups(draws.DRAWS[0]):
        assert setup.space.size <= draws.MOST_CANDIDATES
        assert set(setup.extra) <= {axis.flag for axis in setup.space.axes}
        assert max(setup.users) >= max((users for _, users in setup.crashes), default=0)


def test_a_model_that_does_not_fit_is_passed_over():
    draws = module("draws")
    for seed in range(5):
        assert draws.setup(draws.random.Random(seed), cards=["rtx4060"], models=["llama-3.1-8b"]) is None


def test_defaults_run_on_every_drawn_surface():
    for setup in first_setups(module("draws").DRAWS[0], 100):
        usual = setup.space.defaults
        for flags, _ in setup.crashes:
            assert any(usual[flag] < least for flag, least in flags)


def test_candidates_of_which_vllm_makes_the_same_are_launched_once():
    surfaces = module("surfaces")
    setup = surfaces.Setup(gpu="h100", model="qwen2.5-1.5b", users=(20,), objective="throughput")
    flags = {"max-num-batched-tokens": 8192, "max-num-seqs": 64, "max-model-len": 4096}
    made = surfaces.made_of(setup, flags)
    assert made == surfaces.made_of(setup, {**flags, "performance-mode": "throughput"})  # it only moves defaults
    assert made != surfaces.made_of(setup, {**flags, "performance-mode": "interactivity"})
    assert made != surfaces.made_of(setup, {**flags, "max-num-seqs": 128})


def test_the_time_to_the_first_token_has_a_surface_of_its_own():
    surfaces = module("surfaces")
    prompts = {"gpu": "l4", "model": "qwen2.5-1.5b", "users": (20,), "prompt_words": 900, "output_tokens": 64}
    whole, first = (surfaces.Setup(**prompts, objective=objective) for objective in ("latency", "ttft"))
    flags = {"max-num-batched-tokens": 16384, "max-num-seqs": 32, "max-model-len": 2048}
    values = [surfaces.point_of(setup, surfaces.measured_baseline(setup), flags).value for setup in (whole, first)]
    assert abs(values[0] - values[1]) > 0.02
