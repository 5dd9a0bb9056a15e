"""Synthetic runs: figures of the right size, the same ones every time, with everything that can go wrong in them."""

from collections.abc import Callable

import pytest

from harness.records import Estimate
from tests.unit.harness.report import recorded_runs, recorded_studies
from tests.unit.harness.report.recorded_cells import Recorded, estimate


@pytest.fixture
def compared_run() -> Recorded:
    return recorded_runs.compare_recorded()


@pytest.fixture
def equal_run() -> Recorded:
    return recorded_runs.equal_recorded()


@pytest.fixture
def tuned_run() -> Recorded:
    return recorded_runs.tune_recorded()


@pytest.fixture
def benched_run() -> Recorded:
    return recorded_runs.bench_recorded()


@pytest.fixture
def open_run() -> Recorded:
    return recorded_runs.open_recorded()


@pytest.fixture
def capacity_run() -> Recorded:
    return recorded_runs.capacity_recorded()


@pytest.fixture
def studied_run() -> Recorded:
    return recorded_studies.study_recorded()


@pytest.fixture
def simulated_run() -> Recorded:
    return recorded_studies.simulated_recorded()


@pytest.fixture
def some_estimate() -> Callable[..., Estimate]:
    return estimate
