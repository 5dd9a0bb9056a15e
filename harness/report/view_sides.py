"""The servers that a page is about, and whether they had the same conditions, in words."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from harness.records import Cell, CellState, EngineFacts, FlagValue, Run, Trial
from harness.report import words
from harness.report.page import Fairness, FairnessRow, Side
from harness.report.view_search import winner

# Names under which engines speak of their context length, in flags and logs.
CONTEXT_NAMES: Final = ("max-model-len", "max_model_len", "context-tokens", "n_ctx", "ctx-size", "num_ctx")
# One width under its many names: all of these cost two bytes per weight.
SIXTEEN_BIT: Final = frozenset({"bf16", "bfloat16", "f16", "fp16", "float16", "half"})
BOTH: Final = ("baseline", "candidate")
PRECISION_WARNING: Final = (
    "Weights differ in precision: no headline across precisions should be read as an engine difference alone."
)


def sides_of(run: Run, cells: Sequence[Cell], trials: Sequence[Trial]) -> tuple[Side, ...]:
    """The servers that the page is about: both of a comparison, defaults and winner of a search, or all.

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
                precision=facts.precision if facts else "",
                look=len(parts) - place,
                facts=facts,
            )
        )
    return tuple(out)


def parts_of(run: Run, trials: Sequence[Trial], titles: dict[str, str]) -> dict[str, str]:
    """The roles that the page is about, and what each is called in it."""
    if run.kind == "tune":
        best = winner(run, trials)
        wanted = {"baseline": "defaults"} | ({f"trial {best.number}": "winner"} if best else {})
    else:
        wanted = {role: role for role in BOTH}
    known = {role: part for role, part in wanted.items() if role in titles}
    return known or dict.fromkeys(titles, "")


def pair(sides: Sequence[Side]) -> tuple[Side, Side] | None:
    """Baseline and candidate. None: the run has not both."""
    by_role = {side.role: side for side in sides}
    both = [by_role[role] for role in BOTH if role in by_role]
    return (both[0], both[1]) if len(both) == len(BOTH) else None


def precisions_differ(one: Side, other: Side) -> bool:
    """Whether the weights have another width; an unknown precision differs from every other."""
    return width(one.precision) != width(other.precision)


def width(precision: str) -> str:
    """Precisions that cost the same bytes have the same name."""
    name = precision.casefold()
    return "16 bit" if name in SIXTEEN_BIT else name


def fairness(cells: Sequence[Cell], sides: Sequence[Side]) -> Fairness | None:
    """What each server was, was told and took. None: no server is known."""
    known = tuple(side for side in sides if side.facts)
    if not known:
        return None
    facts = [side.facts for side in known if side.facts]
    rows = (
        fairness_row("Precision of the weights", [one.precision or "not known" for one in facts], same=width),
        fairness_row("Context of a request", [context(one) for one in facts], same=str),
        fairness_row("Slots", ["has none" if one.slots is None else str(one.slots) for one in facts], same=str),
        fairness_row("Prompt tokens", [tokens(cells, one, "prompt_tokens_mean") for one in known], same=str),
        fairness_row("Output tokens", [tokens(cells, one, "output_tokens_mean") for one in known], same=str),
        fairness_row("Version", [one.version or "not known" for one in facts]),
        fairness_row("Flags passed", [flag_lines(one.flags, "none: its defaults") for one in facts], is_code=True),
        fairness_row("Flags it took", [flag_lines(one.resolved, "it does not say") for one in facts], is_code=True),
        fairness_row("Environment", [flag_lines(one.env, "nothing set") for one in facts], is_code=True),
        fairness_row("Started as", [started_as(one) for one in facts], is_code=True),
        fairness_row(
            "Launch took", ["not known" if one.launch_s is None else words.duration(one.launch_s) for one in facts]
        ),
        fairness_row("Memory, peak", [peak(cells, one, "engine_rss_peak_bytes") for one in known]),
        fairness_row("GPU memory, peak", [peak(cells, one, "gpu_memory_peak_bytes") for one in known]),
        fairness_row("Log", [one.log or "none" for one in facts], is_code=True),
    )
    both = pair(known)
    return Fairness(warning=precision_box(*both) if both else "", sides=known, rows=rows)


def fairness_row(
    name: str,
    values: Sequence[str | tuple[str, ...]],
    *,
    is_code: bool = False,
    same: Callable[[str], str] | None = None,
) -> FairnessRow:
    """One property, in one line of text or several for each side.

    Args:  same: gives equal texts for equal conditions. None: this is no condition, and may differ.
    """
    lines = tuple((value,) if isinstance(value, str) else value for value in values)
    kinds = set() if same is None else {tuple(same(line) for line in one) for one in lines}
    return FairnessRow(name=name, values=lines, is_code=is_code, differs=len(kinds) > 1)


def precision_box(baseline: Side, candidate: Side) -> str:
    """The warning where weights have another width; empty where they have not."""
    if not precisions_differ(baseline, candidate):
        return ""
    return (
        f"{PRECISION_WARNING} {candidate.title}: {candidate.precision or 'not known'}; "
        f"{baseline.title}: {baseline.precision or 'not known'}. The side with fewer bytes per weight reads less "
        "memory for each token, which counts most with few users."
    )


def context(facts: EngineFacts) -> str:
    """Context length in tokens, as the server took it or else as it was told."""
    for flags in (facts.resolved, facts.flags):
        for name in CONTEXT_NAMES:
            if name in flags:
                return f"{words.shown_value(name, flags[name])} tokens"
    return "not said"


def started_as(facts: EngineFacts) -> str:
    """The command line, without secrets."""
    return shlex.join(words.without_secrets(facts.argv)) or "it ran already"


def flag_lines(flags: Mapping[str, FlagValue], nothing: str) -> tuple[str, ...]:
    """name = value, line by line."""
    return tuple(f"{name} = {words.shown_value(name, value)}" for name, value in flags.items()) or (nothing,)


def tokens(cells: Sequence[Cell], side: Side, field: str) -> tuple[str, ...]:
    """The mean per request over a side's valid cells, for each scenario; servers count in their own tokens."""
    valid = [cell for cell in cells if cell.role == side.role and cell.state is CellState.MEASURED]
    out = []
    for name in dict.fromkeys(cell.scenario for cell in valid):
        counted = [
            (mean, cell.requests)
            for cell in valid
            if cell.scenario == name and (mean := getattr(cell, field)) is not None
        ]
        requests = sum(count for _, count in counted)
        if requests:
            out.append(f"{name}: {words.number(sum(mean * count for mean, count in counted) / requests)}")
    return tuple(out) or ("not counted",)


def peak(cells: Sequence[Cell], side: Side, field: str) -> str:
    """The largest reading over a side's cells."""
    seen = [found for cell in cells if cell.role == side.role and (found := getattr(cell, field)) is not None]
    return words.gib(max(seen)) if seen else "not read"
