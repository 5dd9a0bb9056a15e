"""The servers that a page is about, and how each was started, in words."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from harness.records import Cell, EngineFacts, FlagValue, Run, Trial
from harness.report import words
from harness.report.page_parts import FairnessRow, Side
from harness.report.view_search import winner

BASELINE: Final = "baseline"
CANDIDATE: Final = "candidate"
TUNED: Final = "baseline tuned"
COMPARED: Final = (BASELINE, TUNED, CANDIDATE)
"""Roles of a comparison, in the order of its tables."""
LOOKS: Final = {CANDIDATE: 1, BASELINE: 2, TUNED: 3}


def sides_of(run: Run, cells: Sequence[Cell], trials: Sequence[Trial]) -> tuple[Side, ...]:
    """The servers that the page is about: all sides of a comparison, defaults and winner of a search, or all.

    The last one is what is judged; it comes first where they are named, and has the first colour.
    """
    titles = {cell.role: cell.title for cell in cells} | {facts.role: facts.title for facts in run.engines}
    parts = parts_of(run, trials, titles)
    shown = [titles[role] for role in parts]
    out = []
    for place, (role, part) in enumerate(parts.items()):
        facts = next((facts for facts in run.engines if facts.role == role), None)
        title = titles[role]
        out.append(
            Side(
                role=role,
                part="" if part in title else part,
                title=f"{title} ({part or role})" if shown.count(title) > 1 else title,
                precision=precision_of(run, role),
                look=LOOKS.get(role, len(parts) - place) if run.kind == "compare" else len(parts) - place,
                facts=facts,
            )
        )
    return tuple(out)


def precision_of(run: Run, role: str) -> str:
    """Of the weights, as the manifest has it, or else the server's facts; empty where neither says."""
    told = [one.weights_precision for one in (run.manifest.sides if run.manifest else ()) if one.role == role]
    return next((one for one in (*told, *(one.precision for one in run.engines if one.role == role)) if one), "")


def parts_of(run: Run, trials: Sequence[Trial], titles: dict[str, str]) -> dict[str, str]:
    """The roles that the page is about, and what each is called in it."""
    if run.kind == "tune":
        best = winner(run, trials)
        wanted = {BASELINE: "defaults"} | ({f"trial {best.number}": "winner"} if best else {})
    else:
        wanted = {role: role for role in COMPARED}
    known = {role: part for role, part in wanted.items() if role in titles}
    return known or dict.fromkeys(titles, "")


def pair(sides: Sequence[Side]) -> tuple[Side, Side] | None:
    """Baseline and candidate. None: the run has not both."""
    by_role = {side.role: side for side in sides}
    if BASELINE not in by_role or CANDIDATE not in by_role:
        return None
    return by_role[BASELINE], by_role[CANDIDATE]


def is_synthetic(run: Run) -> bool:
    """Whether any of the weights are random."""
    manifest = run.manifest.sides if run.manifest else ()
    return any(one.is_synthetic for one in run.engines) or any(one.is_synthetic for one in manifest)


# ---------------------------------------------------------------- how each was started


def settings_rows(run: Run, sides: Sequence[Side]) -> tuple[FairnessRow, ...]:
    """What each server was, was told and took; what the manifest says already is left out."""
    facts = [side.facts for side in sides if side.facts]
    launches = [[one for one in run.engines if one.role == side.role] for side in sides if side.facts]
    told = (
        row("Version", [one.version or "not known" for one in facts]),
        row("Precision of the weights", [one.precision or "not known" for one in facts]),
        row("Slots", ["has none" if one.slots is None else str(one.slots) for one in facts]),
    )
    return (
        *(told if run.manifest is None else ()),
        row("Flags passed", [flag_lines(one.flags, "none: its defaults") for one in facts], is_code=True),
        row("Flags it took", [flag_lines(one.resolved, "it does not say") for one in facts], is_code=True),
        row("Environment", [flag_lines(one.env, "nothing set") for one in facts], is_code=True),
        row("Started as", [started_as(one) for one in facts], is_code=True),
        row("Launched", [launch_words(one) for one in launches]),
        row("Log", [tuple(dict.fromkeys(one.log or "none" for one in mine)) for mine in launches], is_code=True),
    )


def row(name: str, values: Sequence[str | tuple[str, ...]], *, is_code: bool = False) -> FairnessRow:
    """One property, in one line of text or several for each side; it may differ."""
    lines = tuple((value,) if isinstance(value, str) else value for value in values)
    return FairnessRow(name=name, values=lines, is_code=is_code, differs=False)


def launch_words(launches: Sequence[EngineFacts]) -> str:
    """ "3 times: 97 s, 95 s and 96 s until ready"."""
    times = [words.duration(one.launch_s) for one in launches if one.launch_s is not None]
    if not times:
        return "it ran already" if not any(one.argv for one in launches) else "how long it took is not known"
    count = "once" if len(launches) == 1 else f"{len(launches)} times"
    return f"{count}: {words.listed(times)} until ready"


def started_as(facts: EngineFacts) -> str:
    """The command line, without secrets."""
    return shlex.join(words.without_secrets(facts.argv)) or "it ran already"


def flag_lines(flags: Mapping[str, FlagValue], nothing: str) -> tuple[str, ...]:
    """name = value, line by line."""
    return tuple(f"{name} = {words.shown_value(name, value)}" for name, value in flags.items()) or (nothing,)
