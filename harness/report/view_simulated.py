"""What is said where no engine ran, or where some did and some did not."""

from typing import Final

from harness.records import Run
from harness.report import words
from harness.report.page import Banner
from harness.simulation import build

WHOLE: Final = "simulated"
PARTLY: Final = "partly simulated"
NOTE: Final = "Simulated:"
"""How the notes of a run begin that speak of its simulation."""


def mark(run: Run) -> str:
    """What stands at every headline, table and chart; empty where all was measured."""
    if not run.is_simulated:
        return ""
    return WHOLE if all(one.is_simulated for one in run.engines) else PARTLY


def is_search(run: Run) -> bool:
    """Whether the search behind the run's settings was simulated."""
    return run.preset.is_simulated if run.preset is not None else run.kind == "tune" and run.is_simulated


def of_what(run: Run) -> str:
    """ "a simulated rtx4090"; beside a card that was measured on both are named."""
    here = run.host.gpu or f"a CPU ({run.host.cpu}, {words.plural(run.host.cores, 'core')})"
    card = next(filter(None, (build.simulated_card(one.version) for one in run.engines)), run.gpu)
    if mark(run) == PARTLY:
        return f"{here} and a simulated {card}"
    return f"a simulated {card}" if run.is_simulated else here


def lead(run: Run) -> str:
    """How the headline begins; empty where all was measured."""
    return {"": "", WHOLE: "Simulated, not measured: ", PARTLY: f"Partly simulated ({sides(run)[0]}): "}[mark(run)]


def sides(run: Run) -> tuple[str, str]:
    """Titles of what was simulated, and of what was measured."""
    named = {True: dict[str, None](), False: dict[str, None]()}
    for one in run.engines:
        named[one.is_simulated][one.title] = None
    return words.listed(list(named[True])), words.listed(list(named[False]))


def banner(run: Run) -> Banner | None:
    """What stands above everything. None: all was measured."""
    found = mark(run)
    if not found:
        return None
    simulated, measured = sides(run)
    if found == PARTLY:
        title = "PARTLY SIMULATED"
        text = f"Simulated: {simulated}. Measured: {measured}. A ratio between the two is a guess, and no result."
    else:
        title = "SIMULATED: nothing on this page was measured"
        text = (
            "No engine ran and no card was used: every figure was computed from a model of vLLM's scheduler and a "
            "card's data sheet."
        )
    return Banner(tone="unsure", title=title, text=text, more=accuracy(run))


def accuracy(run: Run) -> tuple[str, ...]:
    """How far the simulation is off, as the run noted it."""
    notes = tuple(
        f"How far the simulation is off: {one.removeprefix(NOTE).strip()}"
        for one in run.notes
        if one.startswith(NOTE) and "recorded" in one
    )
    return notes or ("By how much these figures are wrong was not recorded.",)
