"""Whether a percentile can be told from the requests that a load will have; before anything is launched."""

import math
from collections.abc import Iterable, Iterator

from harness import roofline
from harness.errors import UsageError
from harness.records import Cell, ClosedLoop, GpuProfile, ModelShape, Record, Scenario
from harness.stats.estimate import least_values
from harness.stats.summary import STATISTICS
from harness.tune.objectives import Objective, users_text

PRECISION = "bf16"
"""Of the baseline where the files do not say; any other one is faster by less than what is missing here."""


class Thin(Record, frozen=True, kw_only=True):
    """A load whose repeats may have too few requests for an objective's percentile."""

    objective: Objective
    users: int
    needed: int
    """Requests in a repeat."""
    least: int
    """So many there are for sure."""
    most: int | None
    """More there cannot be, on this card. None: that is not known."""
    longest_e2e_s: float
    """With answers that take less there are enough."""

    @property
    def statistic(self) -> str:
        """ "p95"."""
        return self.objective.metric.partition(".")[2]

    @property
    def way_out(self) -> str:
        """What would help."""
        fits = [name for name, q in STATISTICS.items() if least_values(q) <= self.least]
        each = math.ceil(self.needed / self.users)
        time = self.objective.name.split(":")[1] if ":" in self.objective.name else "e2e"
        lower = f"ask for latency:{time}:{fits[-1]}, " if fits else ""
        return (
            f"{lower}for more --users, or for a --scenario with requests_per_user = {each}; more --repeats do not help"
        )


def refuse_unresolvable(
    objectives: Iterable[Objective], scenario: Scenario, *, profile: GpuProfile, shape: ModelShape
) -> None:
    """Raises: UsageError where not even answers as fast as the card can be are enough for an interval."""
    for one in thin_loads(objectives, scenario, profile=profile, shape=shape):
        if one.most is not None and one.most < one.needed:
            raise UsageError(
                f"objective {one.objective.name!r}: a {one.statistic} needs {one.needed} requests in each repeat for "
                f"its interval, and {scenario.name} gives at most {one.most} at {users_text((one.users,))}, as fast as "
                f"{profile.name} can be",
                hint=one.way_out,
            )


def thin_warnings(
    objectives: Iterable[Objective], scenario: Scenario, *, profile: GpuProfile, shape: ModelShape
) -> tuple[str, ...]:
    """What is to be said of loads that give enough requests only where answers are fast."""
    return tuple(
        f"warning: objective {one.objective.name!r}: a {one.statistic} needs {one.needed} requests in each repeat for "
        f"its interval, and at {users_text((one.users,))} {scenario.name} is sure to give {one.least}: only where "
        f"answers take less than {one.longest_e2e_s:.2g} s there will be a figure; {one.way_out}"
        for one in thin_loads(objectives, scenario, profile=profile, shape=shape)
    )


def thin_loads(
    objectives: Iterable[Objective], scenario: Scenario, *, profile: GpuProfile, shape: ModelShape
) -> Iterator[Thin]:
    """The loads that may be too thin, by objective."""
    load = scenario.load
    for one in objectives:
        quantile = STATISTICS.get(one.metric.partition(".")[2])
        if quantile is None or not isinstance(load, ClosedLoop):
            continue
        needed = least_values(quantile)
        for users in one.levels:
            least = max(users * load.requests_per_user, load.min_requests)
            if least < needed:
                tok_s = most_tok_s(scenario, users=users, profile=profile, shape=shape)
                in_time = None if tok_s is None else users + int(load.min_s * tok_s / scenario.workload.output_tokens)
                yield Thin(
                    objective=one,
                    users=users,
                    needed=needed,
                    least=least,
                    most=None if in_time is None else max(least, in_time),
                    longest_e2e_s=load.min_s * users / needed,
                )


def most_tok_s(scenario: Scenario, *, users: int, profile: GpuProfile, shape: ModelShape) -> float | None:
    """The most that the card can give. None: no figures of it are known."""
    at = roofline.roof(
        profile,
        shape,
        PRECISION,
        cards=roofline.cards(profile.vllm_flags),
        clock_ratio=roofline.clock_ratio_of(profile, None),
    )
    if at is None:
        return None
    work = roofline.least_work(scenario, prompt_tokens=None, output_tokens=None)
    return roofline.most_output_tok_s(at, work, sequences=users)


def too_few(cells: Iterable[Cell], one: Objective) -> str:
    """Why cells that count have no figure for it."""
    quantile = STATISTICS.get(one.metric.partition(".")[2])
    counts = [cell.requests for cell in cells]
    if quantile is None or not counts:
        return "no repeat gave this figure"
    had = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"a repeat had {had} requests, and the interval of this figure needs {least_values(quantile)}"
