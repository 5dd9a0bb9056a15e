"""Medians over seeds with their intervals, the bars, and a page with the regret curves."""

import html
import io
import math
import random
from collections.abc import Sequence
from statistics import geometric_mean, median
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from benchtuner.racers import RACERS, Race
from benchtuner.surfaces import DEVELOPMENT, HELD_OUT, Surface

RESAMPLES = 2000
TAIL = 0.025
OURS = "ours"
BARS = {"random": 1 / 3, "plain TPE": 1 / 2}
"""At most this share of the other's launches."""
COLOURS = {"ours": "#0b6e4f", "random": "#8a8a8a", "auto_tune's grid": "#b5651d", "plain TPE": "#3b5ba5"}
MARK = "simulated"


def surface_line(surface: Surface, *, within: float) -> str:
    """What a surface is like."""
    kind = f"{MARK}, {surface.group}" if surface.is_simulated else surface.group
    return (
        f"{surface.name} ({kind}): {len(surface.points)} candidates, the best {math.exp(surface.best):.3f}x the "
        f"baseline, {surface.good_ratio(within):.1%} within the limit, {surface.failing_ratio():.0%} fail"
    )


# ---------------------------------------------------------------- figures


def order_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the two order statistics that hold the true one with 95 %, as far as so few can."""
    ordered, n = sorted(values), len(values)
    below, rank = 0.5**n, 0
    while rank < n // 2 and below + math.comb(n, rank + 1) * 0.5**n <= TAIL:
        rank += 1
        below += math.comb(n, rank) * 0.5**n
    return median(ordered), ordered[rank], ordered[n - 1 - rank]


def needed(one: Race, what: str) -> float:
    """Launches or minutes; of a search that did not get there all its launches, and minutes beyond any other."""
    if what == "launches":
        return float(one.most if one.launches is None else one.launches)
    return math.inf if one.minutes is None else one.minutes


def summary(races: Sequence[Race], *, surfaces: Sequence[Surface], within: float, noise: float) -> dict[str, Any]:
    """Everything that is shown, as plain data."""
    by = {
        (surface.name, racer): [one for one in races if (one.surface, one.racer) == (surface.name, racer)]
        for surface in surfaces
        for racer in RACERS
    }
    rows = [
        {
            "surface": surface.name,
            "is_simulated": surface.is_simulated,
            "group": surface.group,
            "candidates": len(surface.points),
            "best_ratio": math.exp(surface.best),
            "good_ratio": surface.good_ratio(-math.log(1 - within)),
            "failing_ratio": surface.failing_ratio(),
            "racers": {racer: figures(by[surface.name, racer]) for racer in RACERS},
        }
        for surface in surfaces
    ]
    return {
        "note": f"every figure of a surface that is not recorded is {MARK}",
        "within": within,
        "noise": noise,
        "seeds": len(by[surfaces[0].name, OURS]),
        "surfaces": rows,
        "bars": bars(by, surfaces=surfaces, within=within, noise=noise),
    }


def figures(races: Sequence[Race]) -> dict[str, Any]:
    """Of one search on one surface."""
    return {
        "launches": order_interval([needed(one, "launches") for one in races]),
        "minutes": order_interval([needed(one, "minutes") for one in races]),
        "never": sum(one.launches is None for one in races),
        "worst_end_ratio": math.exp(min(one.ends_at for one in races)),
    }


def bars(
    by: dict[tuple[str, str], list[Race]], *, surfaces: Sequence[Surface], within: float, noise: float
) -> list[dict[str, Any]]:
    """What must hold over the simulated surfaces with something to find: all of them, and each draw by itself."""
    least = -math.log(1 - within)
    open_ones = [surface for surface in surfaces if surface.is_simulated and surface.best > least]
    groups = {"": open_ones} | {
        f", on the {group} alone": [one for one in open_ones if one.group == group] for group in (DEVELOPMENT, HELD_OUT)
    }
    wanted = [
        (other, limit, which, [surface.name for surface in group])
        for which, group in groups.items()
        for other, limit in BARS.items()
        if group
    ]
    found = []
    for other, limit, which, names in wanted:
        value, low, high = pooled_ratio(by, names, other)
        each = {name: surface_ratio(by, name, other) for name in names}
        found.append(
            {
                "text": f"launches of {OURS} against {other}{which}: at most {limit:.2f}",
                "value": value,
                "low": low,
                "high": high,
                "limit": limit,
                "least": 1 / geometric_mean([median_launches(by[name, other]) for name in names]),
                "met": value <= limit,
                "met_surely": high <= limit,
                "surfaces_that_meet_it": sum(ratio <= limit for ratio in each.values()),
                "surfaces": len(each),
                "each": each,
            }
        )
    worst = min(one.ends_at for (_, racer), races in by.items() if racer == OURS for one in races)
    found.append(
        {
            "text": f"the worst end of {OURS}: no more than the noise of {noise:.0%} below the baseline",
            "value": math.exp(worst),
            "limit": 1 - noise,
            "met": math.exp(worst) >= 1 - noise,
        }
    )
    return found


def median_launches(races: Sequence[Race]) -> float:
    """Until they are there."""
    return median(needed(one, "launches") for one in races)


def surface_ratio(by: dict[tuple[str, str], list[Race]], name: str, other: str) -> float:
    """Of medians."""
    return median_launches(by[name, OURS]) / median_launches(by[name, other])


def pooled_ratio(by: dict[tuple[str, str], list[Race]], names: Sequence[str], other: str) -> tuple[float, float, float]:
    """Geometric mean over the surfaces of the ratio of medians; bootstrap over seeds."""
    draws = random.Random(1)

    def drawn(races: Sequence[Race]) -> float:
        return median(draws.choices([needed(one, "launches") for one in races], k=len(races)))

    value = geometric_mean([surface_ratio(by, name, other) for name in names])
    again = sorted(
        geometric_mean([drawn(by[name, OURS]) / drawn(by[name, other]) for name in names]) for _ in range(RESAMPLES)
    )
    return value, again[int(TAIL * RESAMPLES)], again[int((1 - TAIL) * RESAMPLES) - 1]


# ---------------------------------------------------------------- text


def cell(found: dict[str, Any], what: str) -> str:
    """`4 [3, 6]`, with a plus sign where some of the seeds never got there and the figure may be larger."""
    value, low, high = found[what]
    if math.isinf(value):
        return f"never in {found['never']} seeds"
    top = "never" if math.isinf(high) else f"{high:.0f}"
    return f"{value:.3g}{'+' if found['never'] and what == 'launches' else ''} [{low:.0f}, {top}]"


def table(found: dict[str, Any], what: str) -> list[list[str]]:
    """A head, then a line for each surface."""
    return [
        ["surface", "within", *RACERS],
        *(
            [
                row["surface"] + (f" ({MARK})" if row["is_simulated"] else ""),
                f"{row['good_ratio']:.1%}",
                *(cell(row["racers"][racer], what) for racer in RACERS),
            ]
            for row in found["surfaces"]
        ),
    ]


def text(found: dict[str, Any]) -> str:
    """The tables and the bars."""
    out = []
    for what, title in (("launches", "launches"), ("minutes", f"minutes ({MARK})")):
        lines = table(found, what)
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        out.append(f"{title} until the found setting is truly within {found['within']:.0%} of the optimum:")
        out += ["  " + "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in lines]
        out.append("")
    out += [bar_text(bar) for bar in found["bars"]]
    return "\n".join(out)


def bar_text(bar: dict[str, Any]) -> str:
    """One line: met or missed, with the figure."""
    interval = f" [{bar['low']:.3f}, {bar['high']:.3f}]" if "low" in bar else ""
    each = f", on {bar['surfaces_that_meet_it']} of {bar['surfaces']} surfaces by itself" if "surfaces" in bar else ""
    least = f"; a search that needs one launch on each would have {bar['least']:.3f}" if "least" in bar else ""
    return f"{'met' if bar['met'] else 'MISSED'}: {bar['text']}: {bar['value']:.3f}{interval}{each}{least}"


# ---------------------------------------------------------------- page


def page(found: dict[str, Any], races: Sequence[Race], *, surfaces: Sequence[Surface]) -> str:
    """One HTML file with everything in it."""
    parts = [f"<h1>The tuner's search</h1><p>{html.escape(found['note'])}; {found['seeds']} seeds.</p>"]
    parts += [f"<p>{html.escape(bar_text(bar))}</p>" for bar in found["bars"]]
    for what in ("launches", "minutes"):
        head, *lines = table(found, what)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(part)}</td>" for part in line) + "</tr>" for line in lines)
        heads = "".join(f"<th>{html.escape(part)}</th>" for part in head)
        parts.append(f"<h2>{what}</h2><table><tr>{heads}</tr>{rows}</table>")
    parts.append("<h2>Regret</h2><p>By how much the found setting truly misses the optimum: median and quartiles.</p>")
    parts += [curve(surface, [one for one in races if one.surface == surface.name]) for surface in surfaces]
    style = "body{font:15px sans-serif;max-width:70rem;margin:2rem auto}td,th{padding:.2rem .7rem;text-align:left}"
    return f"<!doctype html><meta charset=utf-8><title>Tuner bench</title><style>{style}</style>{''.join(parts)}\n"


def curve(surface: Surface, races: Sequence[Race]) -> str:
    """Regret over launches, as SVG."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    for racer in RACERS:
        regrets = [one.regrets for one in races if one.racer == racer]
        length = max(map(len, regrets))
        padded = [[*line, *[line[-1]] * (length - len(line))] for line in regrets]
        columns = [sorted(100 * (1 - math.exp(-value)) for value in column) for column in zip(*padded, strict=True)]
        length = min(length, 25)
        middle = [median(column) for column in columns[:length]]
        quartiles = [[column[int(share * (len(column) - 1))] for column in columns[:length]] for share in (0.25, 0.75)]
        axes.plot(range(length), middle, label=racer, color=COLOURS[racer])
        axes.fill_between(range(length), *quartiles, color=COLOURS[racer], alpha=0.12, linewidth=0)
    axes.axhline(2, color="#cccccc", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("launches")
    axes.set_ylabel("% below the optimum")
    axes.set_title(f"{surface.name}{f' ({MARK})' if surface.is_simulated else ''}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    plt.close(figure)
    return sink.getvalue()[sink.getvalue().index("<svg") :]
