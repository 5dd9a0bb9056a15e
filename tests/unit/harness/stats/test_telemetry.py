"""Samples of the machine into the summary of a window, and the flags that follow."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import EngineMetric, PowerCap, TelemetrySample, TelemetrySummary
from harness.stats.telemetry import flags, standing_s, telemetry_summary
from harness.stats.window import Window

quick = settings(max_examples=40, derandomize=True, deadline=None)

WINDOW = Window(start_s=10.0, end_s=20.0)


def sample(t_s: float, **fields: Any) -> TelemetrySample:
    return TelemetrySample(t_s=t_s, engine_rss_bytes=fields.pop("engine_rss_bytes", 1000), **fields)


def summary(samples: Sequence[TelemetrySample], *, tokens: float | None = 500.0) -> TelemetrySummary:
    return telemetry_summary(samples, WINDOW, tokens)


def every(step_s: float = 0.5, *, start_s: float = 5.0, end_s: float = 25.0) -> list[float]:
    return [float(t) for t in np.arange(start_s, end_s, step_s)]


def joules(found: TelemetrySummary) -> float:
    assert found.energy_j is not None
    return found.energy_j


def test_no_sample_gives_nothing_and_no_zeros() -> None:
    found = summary([])
    told = msgspec.structs.asdict(found)
    assert {name: value for name, value in told.items() if value} == {}
    assert (found.samples, found.has_gpu, found.energy_j, found.preemptions) == (0, False, None, None)
    assert flags(found) == ()


def test_a_machine_without_a_gpu_says_so_and_knows_the_rest() -> None:
    found = summary([sample(t, engine_cpu_ratio=1.5, machine_cpu_ratio=0.75) for t in every()])
    assert not found.has_gpu
    assert (found.engine_cpu_mean_ratio, found.machine_cpu_mean_ratio) == (1.5, 0.75)
    assert found.engine_rss_peak_bytes == 1000
    gpu = [getattr(found, name) for name in found.__struct_fields__ if name.startswith(("gpu", "energy"))]
    assert gpu == [None] * len(gpu)
    assert found.throttle == {}


def test_only_samples_of_the_window_count_for_means_and_extremes() -> None:
    fields = [
        {"gpu_clock_hz": 1e9 if 10 <= t <= 20 else 3e9, "gpu_temperature_c": 50 + t, "gpu_memory_bytes": int(t)}
        for t in every()
    ]
    found = summary([sample(t, engine_rss_bytes=int(10 * t), **one) for t, one in zip(every(), fields, strict=True)])
    assert found.samples == 21
    assert (found.gpu_clock_mean_hz, found.gpu_clock_min_hz) == (1e9, 1e9)
    assert (found.gpu_temperature_max_c, found.gpu_memory_peak_bytes, found.engine_rss_peak_bytes) == (70.0, 20, 200)


# ---------------------------------------------------------------- energy and counters


def test_energy_is_the_cards_own_counter_where_it_has_one() -> None:
    found = summary([sample(t, gpu_energy_j=1000 + 300 * t, gpu_power_w=99.0) for t in every()])
    assert joules(found) == pytest.approx(3000.0)
    assert found.energy_per_token_j == pytest.approx(6.0)
    assert found.gpu_power_mean_w == pytest.approx(99.0)


def test_without_a_counter_energy_is_power_by_the_trapezoid_rule() -> None:
    found = summary([sample(t, gpu_power_w=100 + 10 * t) for t in every(0.7)])  # no sample at the window's ends
    assert joules(found) == pytest.approx((200 + 300) / 2 * 10)


@quick
@given(
    st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(50.0, 700.0)), min_size=2, max_size=40, unique_by=lambda p: p[0])
)
def test_energy_lies_between_that_of_the_lowest_and_that_of_the_highest_power(
    points: list[tuple[float, float]],
) -> None:
    found = summary([sample(t, gpu_power_w=watts) for t, watts in sorted(points)])
    if found.energy_j is not None:
        assert 10 * min(w for _, w in points) <= found.energy_j * (1 + 1e-9)
        assert found.energy_j <= 10 * max(w for _, w in points) * (1 + 1e-9)


def test_a_counter_is_read_at_both_ends_of_the_window() -> None:
    counts = {EngineMetric.PREEMPTIONS: 0.4, EngineMetric.PREFIX_QUERIES: 50.0, EngineMetric.PREFIX_HITS: 10.0}
    samples = [sample(t, engine={name: 7 + rate * t for name, rate in counts.items()}) for t in every(0.7)]
    found = summary(samples)
    assert found.preemptions == pytest.approx(4.0)
    assert found.prefix_hit_ratio == pytest.approx(0.2)


def test_a_counter_that_was_begun_anew_is_not_known() -> None:
    samples = [sample(t, gpu_energy_j=t if t < 15 else t - 15, gpu_power_w=10.0) for t in every()]
    assert joules(summary(samples)) == pytest.approx(100.0)  # from the power
    counted = [sample(t, engine={EngineMetric.PREEMPTIONS: 3.0 if t < 15 else 0.0}) for t in every()]
    assert summary(counted).preemptions is None


@pytest.mark.parametrize(
    ("start_s", "end_s", "is_known"), [(10.5, 19.8, True), (11.5, 25.0, False), (5.0, 18.0, False)]
)
def test_what_was_not_watched_for_a_tenth_of_the_window_is_not_known(
    start_s: float, end_s: float, is_known: bool
) -> None:
    found = summary([sample(t, gpu_power_w=50.0) for t in every(0.25, start_s=start_s, end_s=end_s)])
    assert found.energy_j == (pytest.approx(500.0) if is_known else None)


def test_nothing_looked_up_in_the_prefix_cache_is_no_ratio() -> None:
    engine = {EngineMetric.PREFIX_QUERIES: 5.0, EngineMetric.PREFIX_HITS: 5.0}
    assert summary([sample(t, engine=engine) for t in every()]).prefix_hit_ratio is None


@pytest.mark.parametrize("tokens", [None, 0.0])
def test_without_tokens_there_is_no_energy_of_one(tokens: float | None) -> None:
    assert summary([sample(t, gpu_power_w=50.0) for t in every()], tokens=tokens).energy_per_token_j is None


def test_the_engines_queue_is_that_of_the_samples_that_know_it() -> None:
    known = [sample(t, engine={EngineMetric.RUNNING: 8.0, EngineMetric.WAITING: t, EngineMetric.KV_USED_RATIO: t / 100})
             for t in (10.0, 12.0, 14.0)]  # fmt: skip
    found = summary([*known, sample(13.0)])
    assert (found.running_mean, found.waiting_mean, found.waiting_max) == (8.0, 12.0, 14.0)
    assert found.kv_used_max_ratio == pytest.approx(0.14)
    assert found.preemptions is None


# ---------------------------------------------------------------- throttling, strangers, flags


def test_throttling_is_a_share_of_the_samples_that_saw_the_card() -> None:
    held_down = [
        sample(t, gpu_power_w=1.0, gpu_foreign_pids=(), gpu_throttle=("thermal",) if t < 12 else ()) for t in every()
    ]
    blind = [sample(t) for t in every()]
    found = summary([*held_down, *blind])
    assert found.throttle == {"thermal": pytest.approx(4 / 21)}
    assert flags(found) == ("the card's clocks were held down in 19% of the samples: thermal",)


def test_strangers_and_preemptions_are_flags() -> None:
    samples = [
        sample(t, gpu_foreign_pids=(77, 12) if t == 15 else (), engine={EngineMetric.PREEMPTIONS: 3.0 * (t > 15)})
        for t in every()
    ]
    found = summary(samples)
    assert found.foreign_pids == (12, 77)
    assert flags(found) == (
        "other programs were on the card: process ids 12, 77",
        "the engine preempted 3 requests for want of KV cache: some work was done twice",
    )


def test_nobody_else_on_the_card_and_not_known_are_two_things() -> None:
    nobody = summary([sample(t, gpu_power_w=1.0, gpu_foreign_pids=()) for t in every()])
    unknown = summary([sample(t, gpu_power_w=1.0) for t in every()])
    assert (nobody.foreign_pids, flags(nobody)) == ((), ())
    assert unknown.foreign_pids is None
    (flag,) = flags(unknown)
    assert "cannot be told" in flag
    assert flags(summary([sample(t) for t in every()])) == (), "without a card there is nothing to tell"


def test_samples_of_before_it_could_be_not_known_are_still_read() -> None:
    old = b'{"t_s": 1.0, "gpu_power_w": 3.0, "gpu_foreign_pids": [], "gpu_throttle": ["software power cap"]}'
    assert msgspec.json.decode(old, type=TelemetrySample).gpu_foreign_pids == ()


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            PowerCap.USUAL,
            "the card drew all the power that its maker allows in 100% of the samples, as under full load",
        ),
        (
            PowerCap.LOWERED,
            "clocks were held down in 100% of the samples: a power limit set below the card's usual one",
        ),
        (PowerCap.UNKNOWN, "clocks were held down in 100% of the samples: software power cap"),
    ],
)
def test_a_power_limit_is_told_as_what_it_is(reason: PowerCap, said: str) -> None:
    samples = [sample(t, gpu_power_w=450.0, gpu_foreign_pids=(), gpu_throttle=(reason.value,)) for t in every()]
    (flag,) = flags(summary(samples))
    assert flag.endswith(said)


def test_the_highest_clock_is_known_beside_the_lowest() -> None:
    found = summary([sample(t, gpu_clock_hz=1e9 + t * 1e7) for t in every()])
    assert found.gpu_clock_min_hz is not None
    assert found.gpu_clock_max_hz is not None
    assert found.gpu_clock_max_hz > found.gpu_clock_min_hz


def test_a_quiet_card_has_no_flag() -> None:
    fields = {
        "gpu_power_w": 300.0,
        "gpu_foreign_pids": (),
        "gpu_pcie": "gen4 x16",
        "engine": {EngineMetric.PREEMPTIONS: 9.0},
    }
    found = summary([sample(t, **fields) for t in every()])
    assert (found.has_gpu, found.preemptions, found.gpu_pcie) == (True, 0.0, "gen4 x16")
    assert flags(found) == ()


# ---------------------------------------------------------------- an engine that stands still


def at_work(t_s: float, tokens: float, *, running: float = 4.0, waiting: float = 0.0) -> TelemetrySample:
    told = {EngineMetric.RUNNING: running, EngineMetric.WAITING: waiting, EngineMetric.OUTPUT_TOKENS: tokens}
    return sample(t_s, engine=dict(told))


def test_an_engine_whose_counters_rest_while_it_has_requests_stands_still() -> None:
    assert standing_s([at_work(t, 5.0 * min(t, 10.0)) for t in every(start_s=0.0, end_s=70.5)]) == 60.0
    assert standing_s([at_work(t, 7.0, running=0.0, waiting=3.0) for t in (0.0, 30.0, 90.0)]) == 90.0, "all wait"


def test_an_engine_that_goes_on_or_has_nothing_to_do_does_not_stand_still() -> None:
    assert standing_s([at_work(t, t) for t in every()]) == 0.0
    assert standing_s([at_work(t, 7.0, running=0.0) for t in every()]) == 0.0
    idle_until_20 = [at_work(t, 7.0, running=float(t > 20.0)) for t in every(end_s=25.5)]
    assert standing_s(idle_until_20) == 4.5


def test_an_engine_that_does_not_even_tell_its_counters_any_more_stands_still() -> None:
    silent = [sample(t) for t in (12.0, 20.0, 40.0)]
    assert standing_s([at_work(9.0, 1.0), at_work(10.0, 2.0), *silent]) == 30.0
    assert standing_s(silent) == 0.0, "it never told them"
    assert standing_s([]) == 0.0
