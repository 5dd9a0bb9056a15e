"""What was equal between the sides of a comparison and what was not: the manifest, and what it forbids."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from harness.records import (
    Cell,
    CellState,
    EngineFacts,
    Level,
    Manifest,
    Sampling,
    Scenario,
    SideManifest,
    Tier,
)
from harness.roofline import width
from harness.stats.pairing import MAX_LENGTH_DIFFERENCE, mean_count, mean_output_tokens

MAX_HIT_DIFFERENCE: Final = 0.05
MAX_EQUAL_LENGTH_DIFFERENCE: Final = 0.1
"""Answers whose mean lengths differ by more are no equal work, whatever the metric: a fault of the equal tier."""
CANDIDATE: Final = "candidate"
FOREVER: Final = "forever"
UNKNOWN: Final = "not known"

SHORT: Final = {"bfloat16": "bf16", "float16": "f16"}


class Load(NamedTuple):
    """What cells of all sides have in common that are set against each other."""

    scenario: str
    level: Level

    @property
    def name(self) -> str:
        """For people: "concurrent at 50"."""
        return f"{self.scenario} at {self.level.name}"


def load_of(cell: Cell) -> Load:
    """The load that a cell is of."""
    return Load(cell.scenario, Level(users=cell.users, rate_per_s=cell.rate_per_s))


# ---------------------------------------------------------------- one side


def side(facts: EngineFacts, cells: Iterable[Cell], *, sampling: Sampling) -> SideManifest:
    """What is known of the server that `facts` tells of, and of its cells."""
    mine = [cell for cell in cells if cell.role == facts.role and cell.state == CellState.MEASURED]
    hits = [cell.telemetry.prefix_hit_ratio for cell in mine if cell.telemetry is not None]
    known_hits = [ratio for ratio in hits if ratio is not None]
    return SideManifest(
        role=facts.role,
        title=facts.title,
        version=facts.version,
        weights_precision=facts.precision,
        weights_bytes=facts.weights_bytes,
        kv_precision=kv_precision(facts),
        context_tokens=number(facts, "max-model-len", "context-tokens"),
        sequences=number(facts, "max-num-seqs", "slots") if facts.slots is None else facts.slots,
        prompt_tokens_mean=mean_count(mine, lambda cell: cell.prompt_tokens_mean),
        output_tokens_mean=mean_count(mine, lambda cell: cell.output_tokens_mean),
        sampling=sampling,
        prefix_cache=prefix_cache(facts),
        prefix_hit_ratio=sum(known_hits) / len(known_hits) if known_hits else None,
        keep_alive=keep_alive(facts),
        is_synthetic=facts.is_synthetic,
    )


def kv_precision(facts: EngineFacts) -> str:
    """Of the KV cache; empty where nothing says it, as with a server that we did not start."""
    match facts.engine:
        case "vllm" | "proxied":
            asked = str(facts.resolved.get("kv-cache-dtype", facts.flags.get("kv-cache-dtype", "")))
            found = str(facts.resolved.get("dtype", "")) if asked == "auto" else asked
            return SHORT.get(found, found)
        case "ollama" if facts.argv:
            return facts.env.get("OLLAMA_KV_CACHE_TYPE", "f16")
        case "llamacpp" if facts.argv:
            keys, values = (str(facts.flags.get(f"cache-type-{kind}", "f16")) for kind in "kv")
            return keys if keys == values else f"{keys} keys, {values} values"
    return ""


def prefix_cache(facts: EngineFacts) -> str:
    """ "on", "off", or empty where nothing says it. Ollama sends `cache_prompt` with every request, as we do."""
    known = facts.flags | facts.resolved
    is_refused = known.get("no-enable-prefix-caching") is True
    match facts.engine, known.get("enable-prefix-caching", False if is_refused else None):
        case (("ollama" | "llamacpp"), _):
            return "on" if facts.argv else ""
        case _, bool(is_on):
            return "on" if is_on else "off"
    return ""


def keep_alive(facts: EngineFacts) -> str:
    """How long the model stays in memory between requests; empty for a server that we did not start."""
    if not facts.argv:
        return ""
    asked = facts.env.get("OLLAMA_KEEP_ALIVE", "5m") if facts.engine == "ollama" else "-1"
    return FOREVER if asked.startswith("-") else asked


def number(facts: EngineFacts, *names: str) -> int | None:
    """The first of these settings that the server says it took, or else was told. None: neither."""
    found = (values[name] for values in (facts.resolved, facts.flags) for name in names if name in values)
    return next((value for value in found if isinstance(value, int)), None)


# ---------------------------------------------------------------- the same prompts


class Prompt(NamedTuple):
    """One prompt that all sides are sent: its words follow from these alone."""

    load: Load
    block: int
    repeat: int
    user: int
    number: int
    """Which request of this user's it is, from 0."""


Prompts = Mapping[Prompt, int]
"""How many tokens a side's server counted of each prompt."""


class _Counted(msgspec.Struct):
    """The fields of a `RequestRecord` that are needed here: the others are many times as long."""

    user: int
    index: int
    turn: int = 0
    prompt_tokens: int | None = None
    error: str | None = None


def prompts_of(cell: Cell, requests: bytes) -> Prompts:
    """What the server counted, from the lines of the cell's requests; of a conversation only its first turn.

    Later turns hold what the model has said, and that is not the same on both sides.
    """
    decoder = msgspec.json.Decoder(_Counted)
    records = map(decoder.decode, requests[: requests.rfind(b"\n") + 1].splitlines())
    return {
        Prompt(load_of(cell), cell.block, cell.repeat, one.user, one.index): one.prompt_tokens
        for one in records
        if one.turn == 0 and one.error is None and one.prompt_tokens is not None
    }


def shared_means(prompts: Mapping[str, Prompts], *, load: Load | None = None) -> dict[str, float]:
    """Mean tokens by side over the prompts that all of them have answered; empty where there are none.

    A faster side answers more prompts, and these are not equally long: means over all that each has answered would
    differ by chance.
    Args:  load: of which. None: of all.
    """
    if not prompts:
        return {}
    first, *others = prompts.values()
    keys = [one for one in first if (load is None or one.load == load) and all(one in other for other in others)]
    return {role: sum(counts[one] for one in keys) / len(keys) for role, counts in prompts.items()} if keys else {}


def prompt_fault(load: Load, role: str, prompts: Mapping[str, Prompts]) -> str:
    """Why the candidate and `role` were not asked the same at this load; empty where they were, or it is not known."""
    pair = {name: prompts[name] for name in (role, CANDIDATE) if name in prompts}
    means = shared_means(pair, load=load)
    if len(means) < len((role, CANDIDATE)) or apart(means[role], means[CANDIDATE]) <= MAX_LENGTH_DIFFERENCE:
        return ""
    return (
        f"{load.name}: the same prompts were {means[role]:.1f} tokens to the {role} and {means[CANDIDATE]:.1f} to the "
        f"candidate, over {MAX_LENGTH_DIFFERENCE:.0%} apart: not the same work."
    )


def length_fault(tier: Tier, load: Load, role: str, cells: Iterable[Cell]) -> str:
    """Why answers of this load are no equal work; empty where they are, where it is not known, and as people run it."""
    here = [cell for cell in cells if load_of(cell) == load]
    old, new = (mean_output_tokens([cell for cell in here if cell.role == name]) for name in (role, CANDIDATE))
    if tier != Tier.EQUAL or not old or not new or apart(old, new) <= MAX_EQUAL_LENGTH_DIFFERENCE:
        return ""
    return (
        f"{load.name}: the tier is equal, and answers have {old:.1f} tokens from the {role} and {new:.1f} from the "
        f"candidate, over {MAX_EQUAL_LENGTH_DIFFERENCE:.0%} apart: not the same work."
    )


# ---------------------------------------------------------------- all sides


def manifest(
    tier: Tier,
    *,
    engines: Sequence[EngineFacts],
    cells: Sequence[Cell],
    scenarios: Sequence[Scenario],
    prompts: Mapping[str, Prompts],
) -> Manifest:
    """The manifest of a comparison; its faults are those of the sides and those of single loads.

    Args:  engines: a server for each side; of one that was launched in several blocks the last one counts.
           cells: of all sides. scenarios: what all sides were put under. prompts: by role.
    """
    samplings = list(dict.fromkeys(scenario.workload.sampling for scenario in scenarios))
    by_role = {facts.role: facts for facts in engines}
    means = shared_means(prompts)
    sides = tuple(
        msgspec.structs.replace(one, prompt_tokens_mean=means.get(one.role, one.prompt_tokens_mean))
        for one in (side(facts, cells, sampling=samplings[0]) for facts in by_role.values())
    )
    known = list(differences(sides))
    if len(samplings) > 1:
        known.append("The scenarios sample differently, each of them alike on all sides.")
    loads = dict.fromkeys(load_of(cell) for cell in cells if cell.role in by_role)
    of_loads = (
        fault
        for load in loads
        for role in by_role
        if role != CANDIDATE
        for fault in (prompt_fault(load, role, prompts), length_fault(tier, load, role, cells))
    )
    return Manifest(
        tier=tier,
        sides=sides,
        faults=(*faults(tier, sides), *filter(None, of_loads)),
        differences=tuple(known),
    )


def faults(tier: Tier, sides: Sequence[SideManifest]) -> Iterable[str]:
    """What forbids a ratio at any load; in the equal tier also what is not known to be equal."""
    if len({one.sampling for one in sides}) > 1:
        yield "The sides were told to sample differently."
    if len({one.is_synthetic for one in sides}) > 1:
        yield "One side has random weights, the other has not: not the same model."
    if tier != Tier.EQUAL:
        return
    conditions = {
        "precision of the weights": [width(one.weights_precision) for one in sides],
        "precision of the KV cache": [width(one.kv_precision) for one in sides],
        "context of a sequence": ["" if one.context_tokens is None else str(one.context_tokens) for one in sides],
    }
    for name, values in conditions.items():
        if "" in values or len(set(values)) > 1:
            listed = ", ".join(f"{value or UNKNOWN} ({one.role})" for one, value in zip(sides, values, strict=True))
            yield f"The tier is equal, and the {name} is not shown to be: {listed}."
    caches = {one.prefix_cache for one in sides}
    if {"on", "off"} <= caches:
        listed = ", ".join(f"{one.prefix_cache or UNKNOWN} ({one.role})" for one in sides)
        yield f"The tier is equal, and the prefix cache is not: {listed}."


# ---------------------------------------------------------------- differences


def apart(one: float, other: float) -> float:
    """By what share the larger of two positive numbers is above the smaller."""
    return max(one, other) / min(one, other) - 1


def differences(sides: Sequence[SideManifest]) -> Iterable[str]:
    """What a ratio is also of, besides the engines: a sentence each."""
    yield from told("Precision of the weights", sides, lambda one: one.weights_precision or UNKNOWN)
    sizes = [one.weights_bytes for one in sides if one.weights_bytes]
    if len(sizes) > 1 and apart(min(sizes), max(sizes)) > MAX_LENGTH_DIFFERENCE:
        yield from told("Size of the weights", sides, lambda one: megabytes(one.weights_bytes))
    yield from told("Precision of the KV cache", sides, lambda one: one.kv_precision or UNKNOWN)
    yield from told("Context of a sequence", sides, lambda one: counted(one.context_tokens, "tokens"))
    yield from told("Sequences computed at a time, at most", sides, lambda one: counted(one.sequences))
    yield from told("Prefix cache", sides, lambda one: one.prefix_cache or UNKNOWN)
    hits = [one.prefix_hit_ratio for one in sides if one.prefix_hit_ratio is not None]
    if hits and max(hits) - min(hits) > MAX_HIT_DIFFERENCE:
        yield from told("Prompt tokens found in the prefix cache", sides, lambda one: share(one.prefix_hit_ratio))
    yield from told("The model stays in memory", sides, lambda one: one.keep_alive or UNKNOWN)
    lengths = [one.output_tokens_mean for one in sides if one.output_tokens_mean]
    if lengths and apart(min(lengths), max(lengths)) > MAX_LENGTH_DIFFERENCE:
        yield from told("Mean length of the answers", sides, lambda one: mean_text(one.output_tokens_mean))


def told(name: str, sides: Sequence[SideManifest], text: Callable[[SideManifest], str]) -> Iterable[str]:
    """One sentence where the sides have different texts, none where they have not."""
    texts = [text(one) for one in sides]
    if len(set(texts)) > 1:
        yield f"{name}: {', '.join(f'{text} ({one.role})' for one, text in zip(sides, texts, strict=True))}."


def counted(count: int | None, unit: str = "") -> str:
    """1,024 tokens."""
    return UNKNOWN if count is None else f"{count:,} {unit}".rstrip()


def megabytes(size_bytes: int | None) -> str:
    """Decimal megabytes, as file sizes are read."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / 1e6:,.0f} MB"


def share(ratio: float | None) -> str:
    """12 %."""
    return UNKNOWN if ratio is None else f"{ratio:.0%}"


def mean_text(tokens: float | None) -> str:
    """12.3 tokens."""
    return UNKNOWN if tokens is None else f"{tokens:.1f} tokens"


# ---------------------------------------------------------------- from block to block


def drifts(cells: Iterable[Cell]) -> list[str]:
    """A sentence for each side and load whose throughput in the last block lies outside its intervals in the first."""
    blocks: dict[tuple[str, Load], dict[int, list[Cell]]] = {}
    for cell in cells:
        if cell.state == CellState.MEASURED and cell.output_tok_s is not None:
            blocks.setdefault((cell.role, load_of(cell)), {}).setdefault(cell.block, []).append(cell)
    out = []
    for (role, load), mine in blocks.items():
        first, last = (span(mine[block]) for block in (min(mine), max(mine)))
        if first[1] < last[0] or last[1] < first[0]:
            out.append(
                f"Drift: {role}, {load.name}: {first[0]:.1f} to {first[1]:.1f} tok/s in block {min(mine)}, "
                f"{last[0]:.1f} to {last[1]:.1f} in block {max(mine)}. The ratio's interval takes it in."
            )
    return out


def span(cells: Iterable[Cell]) -> tuple[float, float]:
    """From the lowest to the highest end of the cells' intervals of tok/s."""
    found = [cell.output_tok_s for cell in cells if cell.output_tok_s is not None]
    return min(one.low for one in found), max(one.high for one in found)
