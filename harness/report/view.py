"""What the page about a run says: every word, unit, rounding and choice; no file, no markup, no drawing.

`page` is called once with all records of a run. The renderers (`html`, `charts`) print what it returns.

A server is always called by its title. llama.cpp measured in Ollama's place is "llama.cpp, the engine
inside Ollama", never "Ollama": that program did not run.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import quote

from harness.records import Cell, DefenceLaunch, Run, RunState, Target, Trial
from harness.report import (
    view_capacity,
    view_ceilings,
    view_cells,
    view_charts,
    view_client,
    view_comparison,
    view_drift,
    view_fairness,
    view_headline,
    view_method,
    view_search,
    view_simulated,
    view_targets,
    view_telemetry,
    words,
)
from harness.report.page import Banner, Entry, Page, Summary
from harness.report.view_sides import is_synthetic, sides_of

KINDS: Final = {
    "compare": "Comparison",
    "tune": "Search for settings",
    "bench": "Measurement",
    "capacity": "Search for the capacity",
}


def page(
    run: Run,
    cells: Sequence[Cell],
    trials: Sequence[Trial],
    *,
    launches: Sequence[DefenceLaunch] = (),
    targets: Sequence[Target] = (),
) -> Page:
    """All that is said about `run`.

    Args:     launches: of the defence of a search's winner.
              targets: rows of targets.toml, for their names and for what was measured then; the
                  targets themselves come with the comparisons.
    """
    sides, mark = sides_of(run, cells, trials), view_simulated.mark(run)
    mine = [cell for cell in cells if run.kind != "tune" or any(cell.role == side.role for side in sides)]
    headline = view_headline.headline(run, cells, trials, sides)
    compared = view_comparison.comparisons(run, cells, sides)
    groups = view_charts.chart_groups(run, cells, sides)
    return Page(
        summary=Summary(
            id=run.id,
            kind=run.kind,
            state=run.state.value,
            model=run.model,
            gpu=card(run),
            started_utc=run.started_utc,
            headline=headline,
        ),
        kind=KINDS.get(run.kind, run.kind),
        date=words.day(run.started_utc),
        took=took(run),
        title=f"{run.model} on {card(run)}" + (", synthetic weights" if is_synthetic(run) else ""),
        tier=view_fairness.tier(run),
        sides=sides,
        joiner="against" if run.kind in {"compare", "tune"} else "and",
        mark=mark,
        banner=banner(run),
        headline=headline,
        faults=run.manifest.faults if run.manifest else (),
        cautions=view_headline.cautions(run, cells, sides),
        strip=view_headline.strip(run, trials, sides, launches),
        validity=view_cells.validity(run, cells, sides),
        capacity=view_capacity.capacity_part(run),
        targets=view_targets.targets_table(run, sides, targets),
        comparisons=compared,
        signs=", ".join(f"{one.sign} {one.text}" for one in (*words.VERDICTS.values(), words.NO_RATIO)),
        figures=() if compared else view_charts.figure_tables(run, cells, sides),
        charts=groups,
        chart_notes=view_charts.chart_notes(run, cells, sides, has_charts=bool(groups)),
        ceilings=view_ceilings.ceilings(run, cells, sides),
        drift=view_drift.drift(run, cells, sides),
        settings=view_search.settings(run, trials, launches),
        scenarios=view_method.scenario_table(run, mine),
        method=view_method.method(run, mine),
        glossary=view_method.glossary(run, cells),
        fairness=view_fairness.fairness(run, sides),
        telemetry=view_telemetry.telemetry(run, cells, sides),
        client=None if mark == view_simulated.WHOLE else view_client.client_check(run, cells),
        cells=view_cells.cell_table(run, cells, sides),
        problems=view_cells.problems(run, cells),
        machine=view_method.machine(run),
        commands=view_method.commands(run),
        limits=view_method.limits(run),
        raw=view_method.raw_files(run, trials),
        made_by=f"harness {run.harness_version}",
    )


def entry(name: str, summary: Summary) -> Entry:
    """A report's line in the index; `name` is its file's."""
    return Entry(
        href=quote(name),
        id=summary.id,
        kind=KINDS.get(summary.kind, summary.kind),
        state="" if summary.state == RunState.DONE else summary.state.lower(),
        model=summary.model,
        gpu=summary.gpu,
        date=words.day(summary.started_utc),
        headline=summary.headline,
    )


# ---------------------------------------------------------------- where and when


def card(run: Run) -> str:
    """The GPU as it calls itself, that it was simulated, or that there was none."""
    return view_simulated.of_what(run)


def took(run: Run) -> str:
    """How long the run lasted; empty where it has no end."""
    try:
        ended, started = (datetime.fromisoformat(stamp) for stamp in (run.ended_utc or "", run.started_utc))
        return words.duration((ended - started).total_seconds())
    except (ValueError, TypeError):
        return ""


def banner(run: Run) -> Banner | None:
    """What stands above everything when the run is not whole, or no engine ran. None: it is nothing of the kind."""
    whole, simulated = end_banner(run), view_simulated.banner(run)
    if simulated is None or whole is None:
        return simulated or whole
    more = (*simulated.more, f"{whole.title}. {whole.text}")
    return replace(simulated, tone="bad" if whole.tone == "bad" else simulated.tone, more=more)


def end_banner(run: Run) -> Banner | None:
    """What is said of how the run ended. None: it ended as it should."""
    title, text = {
        RunState.DONE: ("", ""),
        RunState.RUNNING: (
            "This run has not ended",
            "It is still going on, or was killed. The page shows what it had written.",
        ),
        RunState.INTERRUPTED: (
            "This run was interrupted",
            "The page shows what had been measured until then; every cell in it is whole.",
        ),
        RunState.FAILED: ("This run failed", "The page shows what had been measured until then."),
    }[run.state]
    if run.state is RunState.DONE:
        return Banner(tone="bad", title="The run reports an error", text=run.error) if run.error else None
    tone = "bad" if run.state is RunState.FAILED else "unsure"
    return Banner(tone=tone, title=title, text=f"{text} {run.error}".strip())
