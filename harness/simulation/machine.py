"""A machine that is not there: one card, its clock, and what launches leave behind for the next one."""

import random
from typing import Final

from harness.records import Flags, Simulation
from harness.simulation import startup
from harness.simulation.scheduler import Limits, Scheduler, Step
from harness.simulation.settings import Refused, Settings, settings
from harness.simulation.startup import MemoryPlan
from harness.simulation.timing import Timing, timing

NOISE_DRAWS: Final = 4096
PARSE_S: Final = 9.0
"""Assumed: until argparse or vLLM's configuration refuses flags, most of it imports."""
MIN_FACTOR: Final = 0.5
"""No noise makes anything faster than twice as fast."""


class Crashed(Exception):
    """The engine has died under load; `log_text` is what it wrote."""

    def __init__(self, log_text: str) -> None:
        super().__init__(log_text)
        self.log_text = log_text


class Stalled(Exception):
    """The engine stands still under load, and will not go on."""


class Machine:
    """Launches simulated vLLMs one after another. Its time passes only by what they do."""

    def __init__(self, made_of: Simulation, *, now_s: float = 0.0) -> None:
        self.made_of = made_of
        self.now_s = now_s
        self._compiled: set[tuple[object, ...]] = set()
        self._launches = 0

    def clock(self) -> float:
        """Seconds on the virtual clock, which all its records are on."""
        return self.now_s

    def launch(self, flags: Flags, *, precision: str) -> "Server":
        """A server that is ready, and the time that it took has passed; it has passed too where it failed.

        Raises: Refused: vLLM would not have come up.
        """
        made_of = self.made_of
        self._launches += 1
        draws = random.Random(f"launch/{made_of.seed}/{self._launches}")
        slowness = max(MIN_FACTOR, draws.gauss(1.0, made_of.launch_noise_ratio))
        began_s = self.now_s
        self.now_s += PARSE_S * slowness
        made = settings(flags, profile=made_of.profile, shape=made_of.shape, precision=precision)
        pace = timing(made, profile=made_of.profile, shape=made_of.shape)
        if pace is None or made_of.profile.memory_bytes is None:
            raise Refused(f"RuntimeError: {made_of.profile.title} has no data-sheet figures to simulate it from")
        plan = startup.memory_plan(made, profile=made_of.profile, shape=made_of.shape)
        self.now_s = began_s + startup.load_s(plan) * slowness
        context = startup.context_tokens(made, plan, shape=made_of.shape)
        is_cached = made.compile_key in self._compiled
        whole_s = startup.launch_s(made, plan, shape=made_of.shape, is_cached=is_cached) * slowness
        self.now_s = began_s + whole_s
        self._compiled.add(made.compile_key)
        server = Server(
            self,
            made=made,
            plan=plan,
            pace=pace,
            context_tokens=context,
            launch=self._launches,
            launch_s=whole_s,
            slowness=slowness,
        )
        server.refuse_start()
        return server


class Server:
    """A simulated vLLM that is ready: a scheduler with a pace."""

    def __init__(
        self,
        machine: Machine,
        *,
        made: Settings,
        plan: MemoryPlan,
        pace: Timing,
        context_tokens: int,
        launch: int,
        launch_s: float,
        slowness: float,
    ) -> None:
        self.machine, self.made, self.plan, self.pace = machine, made, plan, pace
        self.context_tokens, self.launch_s = context_tokens, launch_s
        self.scheduler = Scheduler(
            Limits(
                batched_tokens=made.batched_tokens,
                sequences=min(made.active_sequences, made.sequences),
                context_tokens=context_tokens,
                blocks=plan.blocks(made.block_tokens),
                block_tokens=made.block_tokens,
                long_prefill_tokens=made.long_prefill_tokens,
                is_chunked=made.is_chunked,
                has_prefix_cache=made.has_prefix_cache,
            )
        )
        self._crashes = [region for region in machine.made_of.crashes if region.holds(self.resolved)]
        self._launch, self._cells = launch, 0
        self._slowness, self._cell_slowness = slowness, 1.0
        self._noise = _factors(machine.made_of, launch=launch)
        self._drawn = 0

    def refuse_start(self) -> None:
        """Nothing, where it comes up. Raises: Refused."""
        for region in self._crashes:
            if not region.users:
                raise Refused(region.log_text)

    def begin_cell(self) -> None:
        """Another cell of the same launch: somewhat faster or slower than the one before."""
        self._cells += 1
        draws = random.Random(f"cell/{self.machine.made_of.seed}/{self._launch}/{self._cells}")
        self._cell_slowness = max(MIN_FACTOR, draws.gauss(1.0, self.machine.made_of.cell_noise_ratio))

    @property
    def resolved(self) -> Flags:
        """What it took, by flag name, as vLLM's log tells it."""
        made = self.made
        return {
            "max-num-seqs": made.sequences,
            "max-num-batched-tokens": made.batched_tokens,
            "max-model-len": self.context_tokens,
            "enforce-eager": not made.is_compiled,
            "enable-prefix-caching": made.has_prefix_cache,
            "enable-chunked-prefill": made.is_chunked,
            "kv-cache-tokens": self.scheduler.limits.blocks * made.block_tokens,
        }

    @property
    def log_text(self) -> str:
        """What it says as it starts."""
        told = "\n".join(f"  {name}: {value}" for name, value in self.resolved.items())
        return f"Simulated vLLM: no engine ran, and every time here is of a virtual clock.\n{told}\n"

    def step_s(self, step: Step) -> float:
        """How long this step takes, by noise and drift too. Raises: Crashed, Stalled."""
        self._refuse(step)
        made_of = self.machine.made_of
        drift = 1 + made_of.drift_ratio_per_hour * self.machine.now_s / 3600
        noise = self._noise[self._drawn]
        self._drawn = (self._drawn + 1) % NOISE_DRAWS
        return self.pace.step_s(step) * self._slowness * self._cell_slowness * drift * noise

    def _refuse(self, step: Step) -> None:
        plan, users = self.plan, step.decoding + len(step.prefills)
        peak_bytes = plan.peak_bytes(step.tokens / self.made.batched_tokens)
        if peak_bytes > plan.device_bytes:
            raise Crashed(startup.out_of_memory(plan, asked_bytes=peak_bytes - plan.device_bytes))
        for region in self._crashes:
            if users >= region.users:
                raise Stalled if region.is_hang else Crashed(region.log_text)


def _factors(made_of: Simulation, *, launch: int) -> list[float]:
    draws = random.Random(f"step/{made_of.seed}/{launch}")
    return [max(MIN_FACTOR, draws.gauss(1.0, made_of.step_noise_ratio)) for _ in range(NOISE_DRAWS)]
