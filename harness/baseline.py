"""Settings of their own that Ollama and llama.cpp can be given: those of the equal tier, and the best of a few.

What people run is measured with its defaults. That alone would be easy to beat, so the baseline has a second side
with the best settings that a small search finds.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from harness import bench, roofline
from harness.bench import Part
from harness.errors import EngineError
from harness.progress import Progress
from harness.recording import Recording
from harness.records import (
    Cell,
    ClosedLoop,
    Estimate,
    GpuProfile,
    LaunchSpec,
    Level,
    ModelShape,
    OpenLoop,
    Record,
    Scenario,
    Tier,
    Verdict,
    Workload,
)
from harness.stats.estimate import ratio
from harness.stats.pairing import by_block, geometric_mean, valid_values
from harness.stats.verdict import verdict

TUNABLE: Final = ("ollama", "llamacpp")
FEW_SLOTS: Final = 4
"""What Ollama's documentation names as a usual value of OLLAMA_NUM_PARALLEL."""
MAX_SLOTS: Final = 256
"""llama.cpp's own limit."""
OPEN_LOOP_SLOTS: Final = 64
"""An open loop says nothing of how many requests will be under way."""
MIN_CONTEXT_TOKENS: Final = 4096
"""Ollama's default without a GPU and on one with less than 24 GiB."""
SHARED_MEMORY_SHARE: Final = 0.5
"""Of the machine's memory where there is no card: everything else lives there too."""
ROUNDS: Final = 2
"""Launches of each racer at least: an interval needs two."""
METRIC: Final = "output_tok_s"
UNCHANGED: Final = "unchanged"
SEARCH_HELD_S: Final = 5.0


class Settings(Record, frozen=True, kw_only=True):
    """What both engines can be told, Ollama in its environment and llama.cpp's server by flags."""

    slots: int
    context_tokens: int
    """Of each slot."""
    has_flash_attention: bool = True
    kv_precision: str = "f16"

    @property
    def title(self) -> str:
        """ "4 slots, flash attention on, KV f16"."""
        attention = "on" if self.has_flash_attention else "off"
        return f"{self.slots} slots, flash attention {attention}, KV {self.kv_precision}"


def with_settings(spec: LaunchSpec, settings: Settings) -> LaunchSpec:
    """The same launch with these settings."""
    if spec.engine == "ollama":
        env = {
            "OLLAMA_FLASH_ATTENTION": "1" if settings.has_flash_attention else "0",
            "OLLAMA_CONTEXT_LENGTH": str(settings.context_tokens),
            "OLLAMA_KV_CACHE_TYPE": settings.kv_precision,
        }
        return msgspec.structs.replace(spec, slots=settings.slots, env={**spec.env, **env})
    flags = {
        "flash-attn": "on" if settings.has_flash_attention else "off",
        "context-tokens": settings.context_tokens,
        "cache-type-k": settings.kv_precision,
        "cache-type-v": settings.kv_precision,
    }
    return msgspec.structs.replace(spec, slots=settings.slots, flags={**spec.flags, **flags})


# ---------------------------------------------------------------- how much fits


def context_for(workloads: Iterable[Workload], *, longest: int) -> int:
    """A context that holds the longest conversation: a power of two, at least MIN_CONTEXT_TOKENS, at most `longest`.

    An English word is taken for two tokens, which is more than any tokenizer of the registry makes of one.
    """
    needed = max((conversation_tokens(workload) for workload in workloads), default=0)
    context = MIN_CONTEXT_TOKENS
    while context < needed:
        context *= 2
    return min(context, longest)


def conversation_tokens(workload: Workload) -> int:
    """At most so many tokens has a conversation with its last answer."""
    turn = 2 * workload.prompt_words + workload.output_tokens
    return 2 * workload.shared_prefix_words + workload.turns * turn


def slots_for(
    levels: Iterable[Level],
    *,
    profile: GpuProfile,
    shape: ModelShape,
    precision: str,
    context_tokens: int,
    machine_bytes: int,
) -> int:
    """A slot for each user of the highest level, as far as weights and a KV cache of 16 bits fit into the memory.

    Args:  machine_bytes: the machine's own memory, which counts where there is no card.
    """
    wanted = max((level.users or OPEN_LOOP_SLOTS for level in levels), default=1)
    known = precision if precision in roofline.GGUF_PRECISIONS else "f16"
    plan = roofline.memory_plan(profile, shape, known)
    if plan is None:
        left = SHARED_MEMORY_SHARE * machine_bytes - roofline.weights(shape, known).total_bytes
        fitting = int(left // (roofline.kv_token_bytes(shape) * context_tokens))
    else:
        fitting = plan.sequences(context_tokens)
    return max(1, min(wanted, fitting, MAX_SLOTS))


# ---------------------------------------------------------------- the best of a few


class Search:
    """Races of a baseline's own settings against the baseline unchanged, in short cells under the highest load.

    A race launches all that are in it in turns, A B C, C B A, so that drift falls on all alike, and its winner is who
    is surely faster than whoever held the place before. At first the unchanged baseline holds it: its defaults, or in
    the equal tier what that gives it.
    """

    def __init__(
        self,
        spec: LaunchSpec,
        *,
        loads: Sequence[Scenario],
        recording: Recording,
        progress: Progress,
        measure: Callable[..., Sequence[Cell]] = bench.block,
    ) -> None:
        self._spec, self._recording, self._progress, self._measure = spec, recording, progress, measure
        self._scenario = short(loads)
        self._names: dict[Settings | None, str] = {}
        self._rounds = 0
        self._said: list[str] = []

    def best(self, most: Settings, *, tier: Tier, is_brief: bool = False) -> Settings | None:
        """The settings that are surely faster than the unchanged baseline, by output tokens per second. None: it is.

        First few slots and many; then the winner, or many slots, without flash attention, and in the as-run tier with
        a KV cache of 8 bits.

        Args:  most: with as many slots as there are users, or as fit. is_brief: only slots are raced.
        """
        few = msgspec.structs.replace(most, slots=min(FEW_SLOTS, most.slots))
        champion = self._race(None, [few, most])
        if not is_brief:
            base = champion or most
            more = [msgspec.structs.replace(base, has_flash_attention=False)]
            if tier == Tier.AS_RUN:
                more.append(msgspec.structs.replace(base, kv_precision="q8_0"))
            champion = self._race(champion, more)
        self._conclude(champion)
        return champion

    def _race(self, champion: Settings | None, challengers: Iterable[Settings]) -> Settings | None:
        """Who holds the place after two rounds, and a third one for those that seem faster and are not surely so.

        A champion that does not start any more gives the place back to the unchanged baseline. One without a figure
        that counts gives it to the fastest that has a figure of each round: against nothing no interval can be had, and
        whoever wins is measured anew in the comparison, beside the unchanged one.
        """
        own = self._spec_of(champion)
        rivals = [one for one in dict.fromkeys(challengers) if self._spec_of(one) != own]
        cells: dict[Settings | None, list[Cell]] = {one: [] for one in (champion, *rivals)}
        for _ in range(ROUNDS):
            self._round(cells)
        close = {one for one in rivals if one in cells and is_close(self._ratio(cells, champion, one))}
        if close:
            self._round(cells, among={champion, *close})
        ratios: dict[Settings | None, Estimate | None] = {one: self._ratio(cells, champion, one) for one in rivals}
        for one in (champion, *rivals):
            self._said.append(f"{title_of(one)}: {told(cells.get(one), ratios.get(one), champion)}")
        sure = {one: found.value for one, found in ratios.items() if found and verdict(found) == Verdict.FASTER}
        values = {one: valid_values(cells.get(one, ()), METRIC) for one in (champion, *rivals)}
        if not values[champion]:
            sure = {one: sum(values[one]) / len(values[one]) for one in rivals if len(values[one]) >= ROUNDS}
        return max(sure, key=lambda one: sure[one], default=champion if champion in cells else None)

    def _round(
        self, cells: dict[Settings | None, list[Cell]], *, among: Collection[Settings | None] | None = None
    ) -> None:
        """One launch and one cell of each, every other time in the opposite order; what does not start is out."""
        self._rounds += 1
        order = [one for one in cells if among is None or one in among]
        for settings in order if self._rounds % 2 else reversed(order):
            part = Part(
                spec=self._spec_of(settings),
                role=self._names.setdefault(settings, f"baseline search {len(self._names) + 1}"),
                block=self._rounds,
                title_suffix=f", {title_of(settings)}",
                stage="baseline search",
            )
            try:
                work = bench.work_of([self._scenario], repeats=1)
                cells[settings] += self._measure(part, work, recording=self._recording, progress=self._progress)
            except EngineError as error:
                self._progress.note(f"{part.role}, {title_of(settings)}: {error.message}")
                del cells[settings]

    def _ratio(
        self, cells: Mapping[Settings | None, Sequence[Cell]], champion: Settings | None, rival: Settings
    ) -> Estimate | None:
        """tok/s of the rival over the champion's, over the launches in which they met; INVALID cells count for none."""
        if champion not in cells or rival not in cells:
            return None
        blocks = {cell.block for cell in cells[rival]}
        old, new = ([cell for cell in cells[one] if cell.block in blocks] for one in (champion, rival))
        return ratio([(by_block(old, METRIC), by_block(new, METRIC))])

    def _spec_of(self, settings: Settings | None) -> LaunchSpec:
        return self._spec if settings is None else with_settings(self._spec, settings)

    def _conclude(self, champion: Settings | None) -> None:
        outcome = (
            "None of them was surely faster than the baseline unchanged, so this stands alone."
            if champion is None
            else f"Of them {champion.title} won, and is measured anew as a side of its own, with other prompts."
        )
        self._recording.add_note(
            f"The baseline's own settings, raced in launches that took turns, under {self._scenario.name} at "
            f"{self._scenario.levels[0].name}: {'; '.join(self._said)}. {outcome}"
        )


def title_of(settings: Settings | None) -> str:
    """What a racer is called."""
    return UNCHANGED if settings is None else settings.title


def is_close(found: Estimate | None) -> bool:
    """Whether one more round may show who is faster: it seems to be faster, or a round gave no figure that counts."""
    return found is None or (verdict(found) == Verdict.UNDECIDED and found.value > 1)


def told(cells: Sequence[Cell] | None, found: Estimate | None, champion: Settings | None) -> str:
    """What came of one racer."""
    if cells is None:
        return "did not start, or died"
    values = valid_values(cells, METRIC)
    if not values:
        states = ", ".join(dict.fromkeys(cell.state.value for cell in cells)) or "no cell"
        return f"no figure that counts ({states})"
    mean = f"{geometric_mean(values):.3g} tok/s in {len(values)} launches"
    against = f"{found.value:.2f}x ({found.low:.2f} to {found.high:.2f}) that of {title_of(champion)}" if found else ""
    return ", ".join(filter(None, (mean, against)))


def short(loads: Sequence[Scenario]) -> Scenario:
    """The highest load of them all, for a few seconds once it is steady: a slow engine takes its time until then."""
    scenario, level = max(
        ((scenario, level) for scenario in loads for level in scenario.levels),
        key=lambda pair: (pair[1].users, pair[1].rate_per_s or 0.0),
    )
    plan = scenario.load
    if isinstance(plan, ClosedLoop):
        plan = msgspec.structs.replace(
            plan,
            requests_per_user=1,
            min_s=min(plan.min_s, SEARCH_HELD_S),
        )
    elif isinstance(plan, OpenLoop):
        plan = msgspec.structs.replace(plan, duration_s=min(plan.duration_s, 2 * SEARCH_HELD_S))
    return msgspec.structs.replace(scenario, load=plan).at([level])


def search_steps(engine: str, loads: Sequence[Scenario], *, is_brief: bool = False) -> list[tuple[str, float]]:
    """(kind, expected seconds) of the launches and cells of a search; nothing where there is nothing to measure.

    Races of three racers each; rounds more or less are made up for by the times that the others took.
    """
    if not loads:
        return []
    return bench.planned_steps(engine, [short(loads)], repeats=1) * ((1 if is_brief else 2) * ROUNDS * 3)
