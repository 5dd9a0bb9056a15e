"""The largest load inside the limits that were asked, and how it was found, in words."""

from collections.abc import Sequence
from typing import Final

from harness.records import Capacity, CapacityStep, Estimate, Run, Slo
from harness.report import words
from harness.report.page_charts import Point, ShareChart
from harness.report.page_parts import CapacityPart, Fact, Side
from harness.report.words import DASH, Badge, Shown

BADGES: Final = {
    True: Badge(text="inside", tone="good", sign="✓"),
    False: Badge(text="outside", tone="bad", sign="✗"),
    None: Badge(text="undecided", tone="unsure", sign="?"),
}


def headline(capacity: Capacity, sides: Sequence[Side]) -> str:
    """ "vLLM 0.32.0 kept p95 of TTFT under 500 ms up to 42 users; at 48 users it did not."."""
    who = sides[-1].named if sides else "the server"
    asked = words.listed([slo_words(one) for one in capacity.slos])
    if capacity.level is None:
        return f"At no load that was tried {who} was shown to keep {asked}{bracket(capacity)}."
    found = f"Up to {load(capacity.level, capacity.unit)} {who} kept {asked}"
    if capacity.above is None:
        return f"{found}; no load was found that it did not keep it at: the capacity may be larger."
    more = f"{found}; at {load(capacity.above, capacity.unit)} it did not"
    return f"{more}." if capacity.is_resolved else f"{more}, and between the two it is open{bracket(capacity)}."


def bracket(capacity: Capacity) -> str:
    """The reason in brackets, if there is one."""
    return f" ({capacity.reason.rstrip('.')})" if capacity.reason else ""


def slo_words(slo: Slo) -> str:
    """ "TTFT under 500 ms for 95% of the requests"."""
    limit = f"{words.short_metric(slo.metric)} under {words.seconds(slo.limit_s)}"
    return f"{limit} for {words.percent(slo.share)} of the requests"


def load(level: float, unit: str) -> str:
    """ "42 users", "2.5 requests/s"."""
    one = unit.replace("users", "user").replace("requests", "request") if level == 1 else unit
    return f"{level:g} {one}"


def capacity_part(run: Run) -> CapacityPart | None:
    """None: the run is no search for a capacity."""
    found = run.capacity
    if found is None:
        return None
    facts = {
        "Asked": "; ".join(f"{slo_words(one)} ({one.text})" for one in found.slos),
        "Capacity": "not even the smallest load that was tried"
        if found.level is None
        else f"{load(found.level, found.unit)} were shown to be inside",
        "Smallest load outside": "none was found"
        if found.above is None
        else f"{load(found.above, found.unit)} were shown to be outside",
        "Resolved": "yes: the two lie as near to one another as was asked" if found.is_resolved else "no",
        "Why not": found.reason,
    }
    charts = (share_chart(found, place) for place in range(len(found.slos)))
    return CapacityPart(
        sentence=bracket_words(found),
        facts=tuple(Fact(name=name, text=text) for name, text in facts.items() if text),
        heads=heads(found),
        steps=tuple(step_row(one, found) for one in found.steps),
        charts=tuple(chart for chart in charts if chart is not None),
        notes=(
            "Each share is of all requests, failed ones included, that kept the limit; in brackets its Wilson interval"
            f"{words.confidence(one.kept for one in found.steps)}. A load is inside where every whole interval lies at "
            "or above what is asked, and outside where one lies below.",
            "The loads stand in the order in which they were tried; of a load that was tried again all requests count "
            "together.",
        ),
    )


def heads(found: Capacity) -> tuple[str, ...]:
    """Of the columns of shares: one for each limit, and all together where there are several."""
    texts = tuple(one.text for one in found.slos)
    return (*texts, "all of them") if len(texts) > 1 else texts


def bracket_words(found: Capacity) -> str:
    """Between which loads the capacity lies."""
    if found.level is None:
        return "The capacity lies below every load that was shown to be outside." if found.above is not None else ""
    if found.above is None:
        return f"The capacity is at least {load(found.level, found.unit)}."
    return f"The capacity lies from {load(found.level, found.unit)} to below {load(found.above, found.unit)}."


def step_row(step: CapacityStep, found: Capacity) -> tuple[str, str, tuple[Shown, ...], Badge, str]:
    """One load that was tried."""
    shares = [shares_of(step, found, place) for place in range(len(found.slos))]
    known = [*shares, *([step.kept] if len(found.slos) > 1 else [])]
    shown = tuple(Shown(text=DASH) if one is None else words.percent_of(one) for one in known)
    return load(step.level, found.unit), f"{step.requests:,}", shown, BADGES[step.is_inside], step.reason


def shares_of(step: CapacityStep, found: Capacity, place: int) -> Estimate | None:
    """The share that kept one of the limits. None: the cell decided nothing."""
    if step.shares:
        return step.shares[place]
    return step.kept if len(found.slos) == 1 else None


def share_chart(found: Capacity, place: int) -> ShareChart | None:
    """The share that kept one limit over the load. None: no load has one."""
    last = {step.level: shares_of(step, found, place) for step in found.steps}  # the last one of a level holds
    known = [(level, share) for level, share in sorted(last.items(), key=by_level) if share is not None and level > 0]
    if not known:
        return None
    slo = found.slos[place]
    points = tuple(
        Point(x=level, value=100 * share.value, low=100 * share.low, high=100 * share.high) for level, share in known
    )
    kinds = tuple(kind_of(share, slo) for _, share in known)
    return ShareChart(
        name=f"capacity-{place + 1}",
        title=f"Share of the requests with {slo.text}",
        x_label="users" if found.unit == "users" else "requests per second",
        points=points,
        kinds=kinds,
        asked=100 * slo.share,
        description="; ".join(
            f"{load(point.x, found.unit)}: {words.number(point.value)}%, {kind}"
            for point, kind in zip(points, kinds, strict=True)
        )
        + ".",
    )


def by_level(step: tuple[float, Estimate | None]) -> float:
    """The smallest load first."""
    return step[0]


def kind_of(share: Estimate, slo: Slo) -> str:
    """Where the whole interval lies."""
    if share.low >= slo.share:
        return "inside"
    return "outside" if share.high < slo.share else "undecided"
