"""results/README.md says every field and every limit that is true, and no other."""

import importlib
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

import harness.stats
from harness import fairness, records, store
from harness.records import EngineMetric, Record
from scenarios import steady

README = Path(__file__).parents[4] / "results" / "README.md"
WRITTEN = (
    records.Run,
    records.Cell,
    records.Trial,
    records.DefenceLaunch,
    records.RequestRecord,
    records.ClientHealth,
    records.TelemetrySample,
    records.TraceLine,
)
"""What lies in files; all other records are parts of these."""


def parts(kind: inspect.Type) -> Iterator[type[Record]]:
    """The records that a field's type is made of."""
    if isinstance(kind, inspect.StructType):
        yield kind.cls
    for name in ("item_type", "key_type", "value_type"):
        inner = getattr(kind, name, None)
        if inner is not None:
            yield from parts(inner)
    for name in ("types", "item_types"):
        for inner in getattr(kind, name, None) or ():
            yield from parts(inner)


def reachable(roots: tuple[type[Record], ...]) -> dict[str, list[str]]:
    """Fields of each record by its name."""
    found: dict[str, list[str]] = {}
    left = list(roots)
    while left:
        record = left.pop()
        if record.__name__ not in found:
            fields = msgspec.structs.fields(record)
            found[record.__name__] = [field.name for field in fields]
            left += [inner for field in fields for inner in parts(inspect.type_info(field.type))]
    return found


def sections(text: str) -> dict[str, str]:
    """What stands under each heading of the third level."""
    found = re.split(r"^### (.+)$", text.split("\n## Fields\n")[1].split("\n## Versions\n")[0], flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def rows(table: str) -> list[str]:
    """The name in the first column of each row."""
    return re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE)


def documented(text: str) -> dict[str, list[str]]:
    return {name: rows(body.split("Names in `engine`")[0]) for name, body in sections(text).items()}


def test_every_field_of_every_record_on_disk_is_explained_and_no_other():
    assert documented(README.read_text(encoding="utf-8")) == reachable(WRITTEN)


def test_a_field_that_is_missing_or_too_many_would_be_noticed():
    text = README.read_text(encoding="utf-8")
    assert documented(re.sub(r"^\| `window_s` .*\n", "", text, flags=re.MULTILINE)) != reachable(WRITTEN)
    assert documented(text.replace("| `window_s` |", "| `window_ms` |")) != reachable(WRITTEN)
    assert documented(text.replace("### Slo\n", "### Objective\n")) != reachable(WRITTEN)


def test_every_metric_of_an_engine_is_explained():
    table = sections(README.read_text(encoding="utf-8"))["TelemetrySample"].split("Names in `engine`")[1]
    assert rows(table) == [metric.value for metric in EngineMetric]


def test_every_field_has_a_unit():
    for body in sections(README.read_text(encoding="utf-8")).values():
        for unit in re.findall(r"^\| `[^`]+` \| ([^|]*) \|", body, flags=re.MULTILINE):
            assert unit.strip()


def limits(text: str) -> dict[str, float]:
    table = text.split("\n## Limits\n")[1].split("\n## Fields\n")[0]
    return {name: float(value) for name, value in re.findall(r"^\| `([\w.]+)` \| ([\d.]+) \|", table, re.MULTILINE)}


def constants(module: types.ModuleType) -> dict[str, float]:
    """Numbers that a module defines itself, by their full name."""
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    own = re.findall(r"^([A-Z][A-Z0-9_]+)\b(?:: Final)? =", source, flags=re.MULTILINE)
    values = {name: getattr(module, name) for name in own}
    return {
        f"{module.__name__}.{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def deciding_modules() -> list[types.ModuleType]:
    stats = [
        importlib.import_module(f"harness.stats.{one.name}") for one in pkgutil.iter_modules(harness.stats.__path__)
    ]
    return [*stats, fairness, steady]


def test_every_limit_has_the_value_that_the_code_has():
    told = limits(README.read_text(encoding="utf-8"))
    true = {name: value for module in deciding_modules() for name, value in constants(module).items()}
    assert told == true


def test_a_limit_that_drifts_would_be_noticed():
    text = README.read_text(encoding="utf-8")
    changed = text.replace(
        "`harness.stats.summary.MAX_FAILURE_RATIO` | 0.01", "`harness.stats.summary.MAX_FAILURE_RATIO` | 0.02"
    )
    assert limits(changed) != limits(text)


def test_the_versions_end_with_the_one_that_is_written():
    table = README.read_text(encoding="utf-8").split("\n## Versions\n")[1]
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)] == list(
        range(1, store.RESULTS_VERSION + 1)
    )


@pytest.mark.parametrize(("values", "statistic"), [(6, "p50"), (36, "p90"), (72, "p95"), (368, "p99")])
def test_the_smallest_samples_told_are_the_smallest_that_give_a_figure(values, statistic):
    import numpy as np

    from harness.stats.estimate import quantile
    from harness.stats.summary import STATISTICS

    q = STATISTICS[statistic]
    assert quantile(np.arange(float(values)), q, unit="s") is not None
    assert quantile(np.arange(float(values - 1)), q, unit="s") is None
    assert f"{values} " in README.read_text(encoding="utf-8").split("**Order statistics**")[1].split("**Clusters**")[0]
    assert statistic in README.read_text(encoding="utf-8")


def test_every_link_leads_to_a_heading():
    text = README.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
