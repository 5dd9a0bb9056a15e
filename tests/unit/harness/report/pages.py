"""Pages of synthetic runs, and rows to put into them."""

import msgspec

from harness.records import Cell, Comparison, EngineFacts, Estimate, Verdict
from harness.report import view
from harness.report.page import Page
from tests.unit.harness.report.recorded_cells import Recorded

replace = msgspec.structs.replace


def page_of(recorded: Recorded, cells: list[Cell] | None = None, **changes: object) -> Page:
    """The page of a run with some of its fields changed."""
    run = replace(recorded.run, **changes)
    return view.page(run, recorded.cells if cells is None else cells, recorded.trials, targets=recorded.targets)


def engines_with(recorded: Recorded, role: str, **changes: object) -> tuple[EngineFacts, ...]:
    """All launches, those of one role changed."""
    return tuple(replace(one, **changes) if one.role == role else one for one in recorded.run.engines)


def manifest_with(recorded: Recorded, role: str, **changes: object) -> object:
    """The manifest with one side changed."""
    manifest = recorded.run.manifest
    assert manifest is not None
    sides = tuple(replace(one, **changes) if one.role == role else one for one in manifest.sides)
    return replace(manifest, sides=sides)


def row(
    users: int,
    low: float | None,
    value: float | None,
    high: float | None,
    *,
    verdict: Verdict,
    metric: str = "output_tok_s",
    **more: object,
) -> Comparison:
    """One line of a comparison."""
    ratio = None
    if low is not None and value is not None and high is not None:
        ratio = Estimate(value=value, low=low, high=high, confidence=0.95, n=6, unit="ratio")
    return replace(
        Comparison(
            scenario="concurrent",
            users=users,
            metric=metric,
            baseline=100.0,
            candidate=200.0,
            ratio=ratio,
            verdict=verdict,
        ),
        **more,
    )
