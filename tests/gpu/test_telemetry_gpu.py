"""NVML on a real card: every field is asked for, and what is told has a unit that can be right."""

import os
import time
from collections.abc import Iterator

import pytest

from harness.telemetry import Gpu, Sampler, host, open_gpu

MAX_SAMPLE_S = 0.05
"""A tenth of the interval between two samples."""


@pytest.fixture
def card() -> Iterator[Gpu]:
    gpu = open_gpu()
    if gpu is None:
        pytest.skip("NVML sees no card")
    with gpu:
        yield gpu


def test_what_the_card_tells_is_plausible(card: Gpu) -> None:
    bounds = {
        "gpu_memory_bytes": (0, 2**39),
        "gpu_power_w": (5, 1000),
        "gpu_energy_j": (1, 1e13),
        "gpu_temperature_c": (10, 110),
        "gpu_clock_hz": (1e8, 4e9),
        "gpu_memory_clock_hz": (1e8, 2e10),
        "gpu_utilization_ratio": (0, 1),
    }
    seen = card.reading()
    print(seen)
    for name, (low, high) in bounds.items():
        assert seen[name] is None or low <= seen[name] <= high, (name, seen[name])
    assert set(seen) == {*bounds, "gpu_throttle", "gpu_pcie"}
    assert not [word for word in seen["gpu_throttle"] if word.startswith("reason 0x")]
    assert seen["gpu_pcie"] is None or seen["gpu_pcie"].startswith("gen")


def test_a_data_centre_card_tells_all_of_it(card: Gpu) -> None:
    if "MIG" in card.name or not any(name in card.name for name in ("H100", "H200", "A100", "L4")):
        pytest.skip(f"{card.name} may keep something to itself")
    seen = card.reading()
    assert [name for name, value in seen.items() if value is None] == []


def test_the_energy_counter_grows_as_the_power_says(card: Gpu) -> None:
    first = card.reading()
    if first["gpu_energy_j"] is None or first["gpu_power_w"] is None:
        pytest.skip("this card counts no energy")
    begin_s = time.perf_counter()
    watts = []
    while time.perf_counter() - begin_s < 3:
        watts.append(card.reading()["gpu_power_w"])
        time.sleep(0.1)
    last = card.reading()
    passed_s = time.perf_counter() - begin_s
    mean_w = (last["gpu_energy_j"] - first["gpu_energy_j"]) / passed_s
    assert 0.5 * min(watts) <= mean_w <= 2 * max(watts)


def test_one_sample_costs_little(card: Gpu) -> None:
    costs_s = []
    for _ in range(50):
        begin_s = time.perf_counter()
        card.reading()
        card.foreign_pids([os.getpid()])
        costs_s.append(time.perf_counter() - begin_s)
    costs_s.sort()
    print(f"a reading of the card takes {costs_s[25] * 1e3:.2f} ms (median), {costs_s[-1] * 1e3:.2f} ms at most")
    assert costs_s[25] < MAX_SAMPLE_S


def test_the_host_has_the_cards_facts(card: Gpu) -> None:
    seen = host()
    assert seen.gpu == card.name
    assert seen.gpu_driver
    assert seen.gpu_memory_bytes is None or 2**30 < seen.gpu_memory_bytes < 2**40
    assert seen.gpu_power_limit_w is None or 10 < seen.gpu_power_limit_w < 2000


def test_the_sampler_reads_the_card(card: Gpu) -> None:
    with Sampler([os.getpid()], every_s=0.1) as sampler:
        time.sleep(1)
    print(sampler.samples[-1])
    assert len(sampler.samples) > 3
    assert any(getattr(sampler.samples[0], name) is not None for name in ("gpu_memory_bytes", "gpu_power_w"))
