"""Settings of their own that Ollama and llama.cpp can be given: those of the equal tier, and the best of a few.

What people run is measured with its defaults. That alone would be easy to beat, so the baseline has a second side
with the best settings that a small search finds.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from harness import bench, roofline
from harness.bench import Part
from harness.errors import EngineError
from harness.progress import Progress
from harness.recording import Recording
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    GpuProfile,
    LaunchSpec,
    Level,
    ModelShape,
    OpenLoop,
    Record,
    Scenario,
    Tier,
    Workload,
)

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
SEARCH_HELD_S: Final = 5.0
SEARCH_WARMUP_S: Final = 20.0


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
    """At most four launches of a baseline, each with one short cell under the highest load."""

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
        self._cells: dict[Settings, Cell | None] = {}
        """None: it did not start, or died."""

    def best(self, most: Settings, *, tier: Tier) -> Settings | None:
        """The fastest by output tokens per second. None: not one gave a figure.

        First few slots and many; then the better of them without flash attention, and in the as-run tier with a KV
        cache of 8 bits. What does not start is out of the race.

        Args:  most: with as many slots as there are users, or as fit.
        """
        for slots in (min(FEW_SLOTS, most.slots), most.slots):
            self._attempt(msgspec.structs.replace(most, slots=slots))
        leader = self._leader()
        if leader is not None:
            self._attempt(msgspec.structs.replace(leader, has_flash_attention=False))
            if tier == Tier.AS_RUN:
                self._attempt(msgspec.structs.replace(leader, kv_precision="q8_0"))
        self._conclude()
        return self._leader()

    def _leader(self) -> Settings | None:
        ranks = {one: rank(cell) for one, cell in self._cells.items() if cell is not None}
        known = {one: found for one, found in ranks.items() if found is not None}
        return max(known, key=lambda one: known[one], default=None)

    def _attempt(self, settings: Settings) -> None:
        if settings in self._cells:
            return
        part = Part(
            spec=with_settings(self._spec, settings),
            role=f"baseline search {len(self._cells) + 1}",
            title_suffix=f", {settings.title}",
        )
        try:
            work = bench.work_of([self._scenario], repeats=1)
            (cell,) = self._measure(part, work, recording=self._recording, progress=self._progress)
        except EngineError as error:
            self._progress.note(f"{part.role}: {settings.title}: {error.message}")
            self._cells[settings] = None
            return
        self._cells[settings] = cell

    def _conclude(self) -> None:
        tried = ", ".join(f"{one.title}: {told(cell)}" for one, cell in self._cells.items())
        self._recording.add_note(
            f"The baseline's own settings, each tried once under {self._scenario.name} at "
            f"{self._scenario.levels[0].name}: {tried}."
        )


def rank(cell: Cell) -> tuple[bool, float] | None:
    """By tok/s; figures that do not count rank behind all that do. None: no figure, or failed requests."""
    if cell.output_tok_s is None or cell.failures:
        return None
    return cell.state == CellState.MEASURED, cell.output_tok_s.value


def told(cell: Cell | None) -> str:
    """What came of one try."""
    if cell is None or (found := rank(cell)) is None:
        return "no figure"
    return f"{found[1]:.3g} tok/s" + ("" if found[0] else f" ({cell.state})")


def short(loads: Sequence[Scenario]) -> Scenario:
    """The highest load of them all, for a few seconds."""
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
            warmup_max_s=min(plan.warmup_max_s, SEARCH_WARMUP_S),
        )
    elif isinstance(plan, OpenLoop):
        plan = msgspec.structs.replace(plan, duration_s=min(plan.duration_s, 2 * SEARCH_HELD_S))
    return msgspec.structs.replace(scenario, load=plan).at([level])


def search_steps(engine: str, loads: Sequence[Scenario]) -> list[tuple[str, float]]:
    """(kind, expected seconds) of the launches and cells of a search; nothing where there is nothing to measure."""
    if not loads:
        return []
    return bench.planned_steps(engine, [short(loads)], repeats=1) * 4
