"""What is to be made better, and by how much a launch is better than another."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from harness import bench, config
from harness.errors import UsageError
from harness.records import Cell, CellState, Estimate, Level, Record, RequestRecord, Scenario, Slo, Trial
from harness.stats import frame, goodput, pairing, slo
from harness.stats.estimate import CONFIDENCE, ratio, share
from harness.stats.summary import STATISTICS
from harness.stats.window import steady_window
from harness.store import RunFolder, lines

NAMES: Final = ("balanced", "throughput", "latency", "goodput")
GOODPUT: Final = "goodput"
NONE_KEPT: Final = 0.5
"""Requests, in place of none: so the ratio to a launch in which no request kept the limits can be had."""
LATENCY_HINT: Final = "write it like latency:ttft:p95"


class Objective(Record, frozen=True, kw_only=True):
    """One metric at some loads, as a ratio to the baseline."""

    name: str
    metric: str
    """As in `stats.pairing`, or "goodput"."""
    levels: tuple[int, ...]
    meaning: str
    slos: tuple[Slo, ...] = ()
    """Of goodput."""

    @property
    def sign(self) -> int:
        """1 where more is better, −1 for times."""
        return 1 if self.metric == GOODPUT or self.metric in pairing.HIGHER_IS_BETTER else -1


# ---------------------------------------------------------------- from words


def objectives_named(text: str, users: Sequence[int], *, slos: Sequence[str] = ()) -> tuple[Objective, ...]:
    """The objectives of "throughput,latency:ttft:p95". Raises: UsageError, with the names there are."""
    names = [name.strip() for name in text.split(",")]
    limits = tuple(slo.slo(one) for one in slos)
    found = tuple(objective_named(name, users, slos=limits) for name in names)
    if len({one.name for one in found}) < len(found):
        raise UsageError(f"--objective {text!r} names an objective twice", hint="name each of them once")
    if limits and GOODPUT not in names:
        raise UsageError("--slo is what goodput is judged by", hint="add --objective goodput, or leave out --slo")
    return found


def objective_named(name: str, users: Sequence[int], *, slos: tuple[Slo, ...] = ()) -> Objective:
    """Raises: UsageError with the list of names."""
    levels = tuple(sorted(users))
    kind, _, detail = name.partition(":")
    if kind not in NAMES:
        raise config.unknown_name("objective", name, NAMES)
    if kind == "latency":
        return latency(detail, name=name, levels=levels[:1])
    if detail:
        raise UsageError(f"objective {name!r}: {kind} takes nothing behind a colon", hint=LATENCY_HINT)
    if kind == GOODPUT:
        return good(slos, levels=levels[-1:])
    at = levels if kind == "balanced" else levels[-1:]
    mean = "geometric mean of the ratios" if kind == "balanced" else "ratio"
    return Objective(
        name=name,
        metric="output_tok_s",
        levels=at,
        meaning=f"{mean} of output tokens per second at {users_text(at)}",
    )


def latency(detail: str, *, name: str, levels: tuple[int, ...]) -> Objective:
    """The median of whole answers, or another statistic of another time. Raises: UsageError."""
    time, _, statistic = (detail or "e2e:p50").partition(":")
    if time not in slo.METRICS or (statistic or "p50") not in STATISTICS:
        raise UsageError(
            f"objective {name!r}: there are {', '.join(slo.METRICS)}, and {', '.join(STATISTICS)} of each",
            hint=LATENCY_HINT,
        )
    words = {"ttft": "time to the first token", "itl": "gap between tokens", "tpot": "time per token"}
    return Objective(
        name=name,
        metric=f"{slo.METRICS[time]}.{statistic or 'p50'}",
        levels=levels,
        meaning=(
            f"ratio of the {statistic or 'p50'} of the {words.get(time, 'time of whole answers')} at "
            f"{users_text(levels)}"
        ),
    )


def good(slos: tuple[Slo, ...], *, levels: tuple[int, ...]) -> Objective:
    """Requests per second that keep every limit. Raises: UsageError where there is no limit."""
    if not slos:
        raise UsageError(
            "--objective goodput counts the requests that keep a limit, and there is none",
            hint="add --slo 'ttft:p95<500ms'",
        )
    kept = " and ".join(one.text for one in slos)
    return Objective(
        name=GOODPUT,
        metric=GOODPUT,
        levels=levels,
        meaning=f"ratio of the requests per second that keep {kept} at {users_text(levels)}",
        slos=slos,
    )


def refuse_unmeasurable(found: Iterable[Objective], scenario: Scenario) -> None:
    """Raises: UsageError for times that only streamed answers have, where these come in one piece."""
    for one in found:
        slo.refuse_unstreamed(one.slos, scenario.workload)
        name = one.metric.partition(".")[0]
        if name in slo.STREAMED and not scenario.workload.is_streamed:
            raise UsageError(
                f"objective {one.name!r} needs streamed answers, and those of {scenario.name} come in one piece",
                hint="use latency:e2e:p50, or a scenario that streams",
            )


def users_text(levels: Sequence[int]) -> str:
    """1, 5 and 10 users."""
    words = [str(level) for level in levels]
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    return f"{listed} user" if tuple(levels) == (1,) else f"{listed} users"


def telling_order(objectives: Sequence[Objective], users: Sequence[int]) -> tuple[Level, ...]:
    """All loads, those that the objectives are about first, the highest first: there settings bind, and memory ends."""
    aimed = dict.fromkeys(level for one in objectives for level in sorted(one.levels, reverse=True))
    rest = sorted(set(users) - set(aimed), reverse=True)
    return tuple(Level(users=count) for count in (*aimed, *rest))


def aimed_levels(objectives: Sequence[Objective]) -> tuple[Level, ...]:
    """The loads that the objectives are about, in the same order."""
    return telling_order(objectives, ())


# ---------------------------------------------------------------- how good a launch is


class Scores:
    """Figures of cells by objective; what needs the requests themselves reads each file once.

    Args:  folder: of the run. scenario: that all cells are of.
    """

    def __init__(self, folder: RunFolder, scenario: Scenario) -> None:
        self._folder, self._scenario = folder, scenario
        self._good: dict[tuple[str, tuple[Slo, ...]], float | None] = {}

    def value(self, cell: Cell, one: Objective) -> float | None:
        """The cell's figure; larger is better only where the objective's sign says so. None: it has none that counts.

        Of goodput half a request at least: a launch in which no request kept the limits can so be compared too.
        """
        if cell.state != CellState.MEASURED:
            return None
        if one.metric != GOODPUT:
            return pairing.value(cell, one.metric)
        key = cell.requests_file, one.slos
        if key not in self._good:
            self._good[key] = self._goodput(cell, one.slos)
        return self._good[key]

    def logarithm(self, cell: Cell, one: Objective) -> float | None:
        """Larger is better, for all objectives. None: no figure that counts, or one that is not positive."""
        found = self.value(cell, one)
        return None if found is None or found <= 0 else one.sign * math.log(found)

    def kept(self, cells: Sequence[Cell], one: Objective) -> dict[str, Estimate]:
        """The share of the requests that kept each limit, over all these cells at the objective's load."""
        at = [cell for cell in cells if cell.users in one.levels and cell.state == CellState.MEASURED]
        counted = [record for cell in at for record in self._measured(cell)]
        shares = {limit.text: share(sum(slo.keeps(r, limit) for r in counted), len(counted)) for limit in one.slos}
        return {text: found for text, found in shares.items() if found is not None}

    def ratio(self, baseline: Sequence[Cell], candidate: Sequence[Cell], one: Objective) -> Estimate | None:
        """Over 1 is better. None: a load has fewer than two repeats that count on a side."""
        return self.ratio_at(baseline, candidate, one, levels=one.levels)

    def ratio_at(
        self, baseline: Sequence[Cell], candidate: Sequence[Cell], one: Objective, *, levels: Collection[int]
    ) -> Estimate | None:
        """The same over some of its loads. None: there are none, or no request of either side kept the limits."""
        if one.metric == GOODPUT and self.is_none_kept([*baseline, *candidate], one):
            return None
        loads = []
        for users in levels:
            old, new = (self._by_block([c for c in side if c.users == users], one) for side in (baseline, candidate))
            loads.append((old, new) if one.sign > 0 else (new, old))
        return ratio(loads) if loads else None

    def is_none_kept(self, cells: Sequence[Cell], one: Objective) -> bool:
        """Whether not one request at the objective's loads kept the limits; two such launches are not the same."""
        at = [cell for cell in cells if cell.users in one.levels]
        counts = [found * (cell.window_s or 0.0) for cell in at if (found := self.value(cell, one)) is not None]
        return one.metric == GOODPUT and bool(counts) and max(counts) < (NONE_KEPT + 1) / 2

    def differences(
        self, best: Sequence[Cell], candidate: Sequence[Cell], one: Objective, *, users: int
    ) -> list[float]:
        """Candidate's logarithm less the best's, for each repeat that counts on both; they had the same prompts."""
        sides = [
            {
                cell.repeat: found
                for cell in side
                if cell.users == users and (found := self.logarithm(cell, one)) is not None
            }
            for side in (best, candidate)
        ]
        return [sides[1][repeat] - sides[0][repeat] for repeat in sorted(sides[0].keys() & sides[1].keys())]

    def of_launch(self, cells: Sequence[Cell], one: Objective) -> float | None:
        """Mean over the objective's loads of the mean over repeats, of logarithms. None: a load has no figure."""
        means = []
        for users in one.levels:
            found = [v for cell in cells if cell.users == users and (v := self.logarithm(cell, one)) is not None]
            if not found:
                return None
            means.append(sum(found) / len(found))
        return sum(means) / len(means)

    def _by_block(self, cells: Sequence[Cell], one: Objective) -> list[list[float]]:
        numbers = sorted({cell.block for cell in cells})
        return [
            [v for cell in cells if cell.block == number and (v := self.value(cell, one)) is not None]
            for number in numbers
        ]

    def _goodput(self, cell: Cell, slos: tuple[Slo, ...]) -> float | None:
        if cell.window_s is None:
            return None
        kept = sum(all(slo.keeps(record, limit) for limit in slos) for record in self._measured(cell))
        return max(kept, NONE_KEPT) / cell.window_s

    def _measured(self, cell: Cell) -> list[RequestRecord]:
        """The cell's requests that objectives are judged by."""
        records = lines(self._folder.path / cell.requests_file, RequestRecord)
        level = Level(users=cell.users)
        held = steady_window(
            frame.requests(records),
            frame.token_times(records),
            load=bench.load_at(self._scenario.load, level),
            level=level,
            health=cell.client,
        )
        return [] if held.window is None else goodput.measured(records, held.window)


# ---------------------------------------------------------------- several at once


def together(found: Sequence[Estimate]) -> Estimate:
    """The geometric mean of some ratios; its interval takes their errors for the same one, the widest they can make."""
    logs = [(math.log(one.value), math.log(one.low), math.log(one.high)) for one in found]
    centre, low, high = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    return Estimate(
        value=math.exp(centre),
        low=math.exp(low),
        high=math.exp(high),
        confidence=CONFIDENCE,
        n=sum(one.n for one in found),
        unit="ratio",
    )


def front(trials: Iterable[Trial], names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the trials that no other one beats in all objectives; the baseline is 1 in each."""
    points = {
        trial.number: tuple(1.0 if trial.number == 0 else trial.objectives[name].value for name in names)
        for trial in trials
        if trial.number == 0 or (trial.is_candidate and all(name in trial.objectives for name in names))
    }
    return tuple(
        number for number, point in points.items() if not any(beats(other, point) for other in points.values())
    )


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Nowhere worse, and better somewhere."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def meets(trial: Trial, slos: Sequence[Slo]) -> bool:
    """Whether enough of its requests kept each limit."""
    return all(limit.text in trial.kept and trial.kept[limit.text].value >= limit.share for limit in slos)


def worst_share(trial: Trial, slos: Sequence[Slo]) -> float:
    """The smallest share of its requests that kept a limit; 0 where none was asked."""
    return min((trial.kept[limit.text].value for limit in slos if limit.text in trial.kept), default=0.0)


def unmet_note(trials: Sequence[Trial], one: Objective) -> str:
    """What to say of limits that no settings kept, with the nearest; empty where some did, or there are none."""
    known = [trial for trial in trials if trial.kept]
    if not one.slos or not known or any(meets(trial, one.slos) for trial in known):
        return ""
    nearest = max(known, key=lambda trial: worst_share(trial, one.slos))
    told = ", ".join(f"{nearest.kept[limit.text].value:.1%} kept {limit.text}" for limit in one.slos)
    who = "vLLM's defaults" if nearest.number == 0 else f"trial {nearest.number}"
    return (
        f"No settings kept the objectives of service at {users_text(one.levels)}. The nearest were those of {who}: "
        f"of its requests {told}."
    )


def told(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The logarithm of each objective's ratio; of a stopped trial of what was measured. None: nothing to tell."""
    found = [trial.objectives.get(one.name, trial.partial) for one in objectives]
    known = [one for one in found if one is not None]
    return tuple(math.log(one.value) for one in known) if len(known) == len(found) else None
