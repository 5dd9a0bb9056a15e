"""What was equal between two servers and what was not: the tier of a comparison and its manifest, in words."""

from collections.abc import Callable, Sequence
from typing import Final

from harness.records import Run, SideManifest, Tier
from harness.report import words
from harness.report.page_parts import Fairness, FairnessRow, Side
from harness.report.view_sides import CANDIDATE, COMPARED, is_synthetic, settings_rows
from harness.roofline import width
from harness.stats.pairing import MAX_LENGTH_DIFFERENCE

TIERS: Final = {
    Tier.AS_RUN: (
        "as people run them",
        "Each side has the weights and settings that people run it with. A ratio is of the engines and of these "
        "differences together.",
    ),
    Tier.EQUAL: (
        "under equal conditions",
        "Both sides have weights of the same precision, room for all users at a time and the same context. A ratio is "
        "of the engines.",
    ),
}
NOT_SAID: Final = "not said"


def lead(run: Run) -> str:
    """How a headline must begin: "As people run them, on synthetic weights: "; empty where nothing needs saying."""
    parts = [TIERS[run.manifest.tier][0]] if run.manifest else []
    parts += ["on synthetic weights"] if is_synthetic(run) else []
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}: " if text else ""


def tier(run: Run) -> str:
    """ "as people run them (tier as-run): vLLM 0.32.0 with bf16 weights against …"; empty where nothing is compared."""
    if run.manifest is None:
        return ""
    sides = ordered(run.manifest.sides)
    ours = [with_precision(one) for one in sides if one.role == CANDIDATE]
    theirs = [with_precision(one) for one in sides if one.role != CANDIDATE]
    name, _ = TIERS[run.manifest.tier]
    return f"{name} (tier {run.manifest.tier.value}): {words.listed(ours)} against {words.listed(theirs)}"


def with_precision(side: SideManifest) -> str:
    """ "Ollama 0.33.1 with q4_k_m weights", "vLLM 0.32.0 with synthetic bf16 weights"."""
    kind = "synthetic " if side.is_synthetic else ""
    precision = side.weights_precision
    return f"{side.title} with {kind}" + (f"{precision} weights" if precision else "weights of unknown precision")


def ordered(sides: Sequence[SideManifest]) -> list[SideManifest]:
    """In the order of the tables, the candidate last."""
    known = {role: place for place, role in enumerate(COMPARED)}
    return sorted(sides, key=lambda side: known.get(side.role, len(known)))


def precisions_differ(one: Side, other: Side) -> bool:
    """Whether the weights have another width; an unknown precision differs from every other."""
    return width(one.precision) != width(other.precision)


# ---------------------------------------------------------------- the tables


def fairness(run: Run, sides: Sequence[Side]) -> Fairness | None:
    """The manifest of a comparison, and how each server was started. None: no server is known."""
    servers = tuple(side for side in sides if side.facts)
    manifest = run.manifest
    told = ordered(manifest.sides) if manifest else []
    by_role = {side.role: side for side in sides}
    shown = [one for one in told if one.role in by_role]
    if not servers and not shown:
        return None
    return Fairness(
        tier=TIERS[manifest.tier][1] if manifest else "",
        sides=tuple(by_role[one.role] for one in shown),
        rows=manifest_rows(shown),
        servers=servers,
        settings=settings_rows(run, servers),
    )


def manifest_rows(sides: Sequence[SideManifest]) -> tuple[FairnessRow, ...]:
    """Each condition of each side; ≠ where they differ, a dash where nobody has the thing."""
    if not sides:
        return ()
    rows = (
        condition("Version", [one.version or NOT_SAID for one in sides], same=None),
        condition("Weights", [weights(one) for one in sides], same=weights_kind),
        condition("Size of the weights", [bytes_words(one.weights_bytes) for one in sides], same=None),
        condition("Precision of the KV cache", [one.kv_precision or NOT_SAID for one in sides], same=width),
        condition("Context of one sequence", [tokens(one.context_tokens) for one in sides]),
        condition("Sequences at a time", [counted(one.sequences) for one in sides]),
        means("Prompt tokens, mean", [one.prompt_tokens_mean for one in sides]),
        means("Output tokens, mean", [one.output_tokens_mean for one in sides]),
        condition("Sampling", [words.sampling(one.sampling) for one in sides]),
        condition("Prefix cache", [one.prefix_cache or NOT_SAID for one in sides]),
        condition("Prompt tokens found in it", [share(one.prefix_hit_ratio) for one in sides], same=None),
        condition("Keep-alive", [one.keep_alive or NOT_SAID for one in sides], same=None),
    )
    return tuple(row for row in rows if any(lines != (NOT_SAID,) for lines in row.values))


def condition(name: str, values: Sequence[str], *, same: Callable[[str], str] | None = str) -> FairnessRow:
    """One property of each side.

    Args:  same: gives equal texts for equal conditions. None: this is no condition, and may differ.
    """
    kinds = set() if same is None else {same(value) for value in values if value != NOT_SAID}
    return FairnessRow(name=name, values=tuple((value,) for value in values), is_code=False, differs=len(kinds) > 1)


def weights(side: SideManifest) -> str:
    """ "q4_k_m" or "bf16, synthetic: random, of the model's shape"."""
    return (side.weights_precision or NOT_SAID) + (", synthetic: random, of the model's shape" * side.is_synthetic)


def weights_kind(text: str) -> str:
    """The width alone, and whether they are synthetic."""
    precision, _, rest = text.partition(",")
    return f"{width(precision)},{rest}"


def bytes_words(value: int | None) -> str:
    """In GiB."""
    return NOT_SAID if value is None else words.gib(value)


def tokens(value: int | None) -> str:
    """ "4,096 tokens"."""
    return NOT_SAID if value is None else words.plural(value, "token")


def counted(value: int | None) -> str:
    """A bare count."""
    return NOT_SAID if value is None else f"{value:,}"


def means(name: str, values: Sequence[float | None]) -> FairnessRow:
    """With one decimal; they differ where they are further apart than a ratio may bear."""
    known = [value for value in values if value]
    differs = bool(known) and max(known) / min(known) - 1 > MAX_LENGTH_DIFFERENCE
    shown = tuple((NOT_SAID if value is None else words.fixed(value, 1),) for value in values)
    return FairnessRow(name=name, values=shown, is_code=False, differs=differs)


def share(value: float | None) -> str:
    """In percent."""
    return NOT_SAID if value is None else words.percent(value)
