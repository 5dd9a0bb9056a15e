"""Surfaces: every candidate of a space with what it truly gives, by exhaustion of the simulation; or a recorded grid.

The true value of a candidate comes from one simulated launch without any noise; what a search is told has noise on top.
"""

import hashlib
import json
import math
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean as mean

import msgspec

import harness.simulation
from harness import config
from harness.engines import failure, violations
from harness.engines.flags import names_only
from harness.errors import EngineBadFlag, EngineContextTooLong, EngineError, EngineOutOfMemory
from harness.models.registry import entry
from harness.records import (
    ClosedLoop,
    CrashRegion,
    Flags,
    GpuProfile,
    LoadJob,
    ModelEntry,
    Outcome,
    Scenario,
    Simulation,
)
from harness.search import Aim, Demand, Seed, Space, key_of, seeds_for, space_for
from harness.simulation import Crashed, Machine, Refused, drive
from harness.simulation.settings import settings

SIMULATION = Path(harness.simulation.__file__).parent
RECORDED = SIMULATION / "recorded"
USUAL = (
    "max-num-batched-tokens", "max-num-seqs", "max-model-len", "gpu-memory-utilization", "enable-prefix-caching",
    "performance-mode",
)  # fmt: skip
OPTIONAL = (
    "stream-interval", "async-scheduling", "kv-cache-dtype", "max-num-active-seqs", "long-prefill-token-threshold",
    "enable-chunked-prefill", "max-cudagraph-capture-size", "performance-mode",
)  # fmt: skip
"""Flags whose effect is simulated and without which a space is whole."""
RECORDED_GROUP = "recorded"
CHOSEN, ONCE_HELD_OUT, DEVELOPMENT, HELD_OUT = "chosen", "once held out", "development draw", "held out draw"
REPEATS = 3
MIN_CELL_S = 20.0
"""Of a repeat, in the scenarios; and at least three rounds."""
ROUNDS = 3
MEASURING = 2
"""Counts up when `measured` changes what it measures, so that kept surfaces are made anew."""
TRUTH_S = 3.0
"""Of virtual time that a noiseless level is looked at."""
CRASH_TEXT = "RuntimeError: CUDA error: an illegal memory access was encountered"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One candidate as it truly is."""

    flags: Flags
    value: float | None
    """Logarithm of the ratio to the baseline. None: it fails."""
    cold_s: float
    warm_s: float
    """Seconds of the whole trial, with and without what it compiles in the cache."""
    outcome: str = Outcome.MEASURED
    reason: str = ""
    fits_tokens: int | None = None
    is_under_load: bool = False


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a simulated surface is of."""

    gpu: str
    model: str
    users: tuple[int, ...]
    objective: str
    """"throughput" (tok/s), "latency" (time of whole answers) or "ttft" (time to the first token): the levels' mean
    logarithm of ratios. With a fixed number of users the first two are the same figure: one is the other's reciprocal.
    """
    prompt_words: int = 192
    output_tokens: int = 128
    usual: tuple[str, ...] = USUAL
    extra: tuple[str, ...] = ()
    """Flags beside the usual ones."""
    crashes: tuple[tuple[tuple[tuple[str, int], ...], int], ...] = ()
    """Of each crash region the least values of flags, and the least users."""
    group: str = CHOSEN
    number: int | None = None
    """Of a draw. None: it was written down by hand."""

    @property
    def name(self) -> str:
        """For people."""
        if self.number is not None:
            load, title = "–".join(map(str, self.users)), self.group.removesuffix(" draw")
            return (
                f"{title} {self.number}: {self.gpu}, {self.model}, {self.objective} at {load} users, "
                f"{self.prompt_words} words to {self.output_tokens} tokens"
            )
        load = "–".join(str(count) for count in dict.fromkeys((self.users[0], self.users[-1])))
        long = ", long prompts" if self.prompt_words > 500 else ""
        return f"{self.gpu}, {self.model}, {self.objective} at {load} users{long}"

    @cached_property
    def profile(self) -> GpuProfile:
        return config.gpu_profile(self.gpu)

    @cached_property
    def entry(self) -> ModelEntry:
        return entry(self.model)

    @cached_property
    def scenario(self) -> Scenario:
        found = config.scenario("concurrent", is_cpu=False)
        workload = msgspec.structs.replace(
            found.workload, prompt_words=self.prompt_words, output_tokens=self.output_tokens
        )
        assert isinstance(found.load, ClosedLoop)
        load = msgspec.structs.replace(found.load, min_s=TRUTH_S, requests_per_user=2, min_requests=2)
        return msgspec.structs.replace(found, workload=workload, load=load)

    @cached_property
    def demand(self) -> Demand:
        prompt = round(1.12 * self.prompt_words) + 58
        return Demand(
            most_users=max(self.users),
            prompt_tokens=prompt,
            output_tokens=self.output_tokens,
            needed_tokens=int(1.1 * prompt) + self.output_tokens + 32,
            aim=Aim.FIRST_TOKENS if self.objective == "ttft" else Aim.ANSWERS,
        )

    @cached_property
    def space(self) -> Space:
        """As for `harness tune`, but with one context: longer ones change no speed."""
        found = space_for(
            self.profile,
            self.entry.shape,
            precision="bf16",
            schema=names_only([*self.usual, *self.extra]),
            demand=self.demand,
            allow=("wide", "kv-fp8"),
        )
        axes = tuple(
            msgspec.structs.replace(axis, steps=axis.steps[:1]) if axis.flag == "max-model-len" else axis
            for axis in found.axes
        )
        return msgspec.structs.replace(found, axes=axes)

    def is_allowed(self, flags: Flags) -> list[str]:
        """Why vLLM would refuse these."""
        return violations(
            flags, model_max_len=self.entry.shape.max_context_tokens, needed_tokens=self.demand.needed_tokens
        )


SETUPS = (
    Setup(gpu="rtx4090", model="qwen2.5-1.5b", users=(100,), objective="throughput",
          extra=("stream-interval", "async-scheduling"),
          crashes=(((("max-num-batched-tokens", 16384), ("max-num-seqs", 256)), 1),)),
    Setup(gpu="rtx4090", model="llama-3.1-8b", users=(100,), objective="throughput", prompt_words=450),
    Setup(gpu="a100", model="qwen2.5-1.5b", users=(50, 100), objective="latency",
          extra=("stream-interval", "async-scheduling"), crashes=(((("max-num-seqs", 512),), 50),)),
    Setup(gpu="h100", model="qwen2.5-1.5b", users=(100,), objective="throughput", extra=("async-scheduling",)),
    Setup(gpu="h100", model="qwen2.5-1.5b", users=(1, 10, 100), objective="throughput", extra=("async-scheduling",)),
    Setup(gpu="h100", model="llama-3.1-8b", users=(100,), objective="throughput", prompt_words=600,
          extra=("stream-interval",), crashes=(((("max-num-batched-tokens", 32768),), 10),)),
    Setup(gpu="l4", model="llama-3.1-8b", users=(50,), objective="throughput", prompt_words=900,
          extra=("kv-cache-dtype",)),
    Setup(gpu="rtx3090", model="llama-3.1-8b", users=(10, 50), objective="throughput", prompt_words=900,
          crashes=(((("max-num-batched-tokens", 8192), ("max-num-seqs", 128)), 1),)),
    Setup(gpu="rtx3090", model="qwen2.5-1.5b", users=(100,), objective="throughput",
          extra=("stream-interval", "async-scheduling")),
)  # fmt: skip
"""5 cards, 2 models, loads of 1 to 100 users, half with crash regions; mostly loads for which defaults are not best.
The search's first guesses were set while some of these were looked at."""
SEEN = (
    Setup(gpu="rtx5090", model="llama-3.1-8b", users=(100,), objective="throughput", group=ONCE_HELD_OUT),
    Setup(gpu="rtx5090", model="llama-3.2-3b", users=(1, 5, 10, 50, 100), objective="throughput", group=ONCE_HELD_OUT,
          extra=("async-scheduling",)),
    Setup(gpu="h200", model="llama-3.1-8b", users=(100,), objective="throughput", prompt_words=900, group=ONCE_HELD_OUT,
          crashes=(((("max-num-batched-tokens", 16384), ("max-num-seqs", 512)), 1),)),
    Setup(gpu="h200", model="llama-3.2-3b", users=(50, 100), objective="latency", group=ONCE_HELD_OUT,
          extra=("stream-interval", "async-scheduling")),
    Setup(gpu="rtx4060", model="qwen2.5-1.5b", users=(50,), objective="throughput", group=ONCE_HELD_OUT),
    Setup(gpu="l4", model="llama-3.2-3b", users=(100,), objective="throughput", prompt_words=600, group=ONCE_HELD_OUT,
          crashes=(((("max-num-batched-tokens", 8192),), 50),)),
)  # fmt: skip
"""Other cards or models, and loads and lengths of their own, written down before anything was seen of them. They have
been seen since, and the search was changed after that."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A space whose every candidate is known."""

    name: str
    is_simulated: bool
    group: str
    space: Space
    seeds: tuple[Seed, ...]
    points: dict[str, Point]
    """By the key of their flags."""
    is_allowed: Callable[[Flags], list[str]]
    grid: tuple[Flags, ...]
    """In the order of vLLM's auto_tune."""

    @cached_property
    def best(self) -> float:
        """The true optimum; the baseline's 0 where nothing is better."""
        return max([0.0, *(point.value for point in self.points.values() if point.value is not None)])

    def point(self, flags: Flags) -> Point:
        """What a candidate truly is; a search may ask for a context that is on no ladder, after one did not fit."""
        found = self.points.get(key_of(flags))
        if found is not None:
            return found
        near = self.space.flags_at(self.space.places_of(flags))
        return self.points[key_of(near)]

    def good_ratio(self, within: float) -> float:
        """Share of all candidates that are truly so close to the optimum."""
        good = sum(point.value is not None and point.value >= self.best - within for point in self.points.values())
        return good / len(self.points)

    def failing_ratio(self) -> float:
        """Share that fails."""
        return sum(point.value is None for point in self.points.values()) / len(self.points)


# ---------------------------------------------------------------- by exhaustion


def simulated(setup: Setup, *, cache: Path, jobs: int) -> Surface:
    """The surface, from the cache where simulation and setup are the same."""
    kept = cache / f"{digest(setup)}.json"
    if kept.is_file():
        raw = json.loads(kept.read_text())
        points = {key: Point(**point) for key, point in raw.items()}
    else:
        points = exhausted(setup, jobs=jobs)
        cache.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({key: asdict(point) for key, point in points.items()}))
    return Surface(
        name=setup.name,
        is_simulated=True,
        group=setup.group,
        space=setup.space,
        seeds=seeds_for(setup.space, setup.profile, demand=setup.demand),
        points=points,
        is_allowed=setup.is_allowed,
        grid=auto_tune_grid(setup.space),
    )


def digest(setup: Setup) -> str:
    """Changes with what is measured, the candidates and the simulation's code."""
    code = b"".join(path.read_bytes() for path in sorted(SIMULATION.glob("*.py")))
    measured_of = replace(setup, group="", number=None)
    steps = [(axis.flag, axis.steps) for axis in setup.space.axes]
    parts = (
        repr(measured_of).encode(),
        repr(steps).encode(),
        msgspec.json.encode(setup.profile),
        code,
        b"%d" % MEASURING,
    )
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]


def exhausted(setup: Setup, *, jobs: int) -> dict[str, Point]:
    """Every candidate, each launched once without noise; of those of which vLLM makes the same only one."""
    baseline = measured_baseline(setup)
    everything = [setup.space.flags_at(places) for places in setup.space.everywhere()]
    alike: dict[object, list[Flags]] = {}
    for flags in everything:
        alike.setdefault(made_of(setup, flags), []).append(flags)
    firsts = [group[0] for group in alike.values()]
    chunks = [(setup, baseline, firsts[start::64]) for start in range(64)]
    with ProcessPoolExecutor(jobs) as pool:
        found = {key_of(point.flags): point for points in pool.map(points_of, chunks) for point in points}
    return {key_of(flags): replace(found[key_of(group[0])], flags=flags) for group in alike.values() for flags in group}


def made_of(setup: Setup, flags: Flags) -> object:
    """Equal for candidates that the simulation cannot tell apart."""
    if setup.is_allowed(flags):
        return key_of(flags)
    try:
        return settings(flags, profile=setup.profile, shape=setup.entry.shape, precision="bf16")
    except Refused:
        return key_of(flags)


def points_of(work: tuple[Setup, tuple[float, ...], list[Flags]]) -> list[Point]:
    """A share of the work, in a process of its own."""
    setup, baseline, all_flags = work
    return [point_of(setup, baseline, flags) for flags in all_flags]


def measured_baseline(setup: Setup) -> tuple[float, ...]:
    """vLLM's defaults; where their context does not fit, with the longest that does."""
    try:
        return measured(setup, {}, machine_of(setup))[0]
    except Refused as refusal:
        why = failure("vLLM", refusal.log_text, returncode=1)
        if not isinstance(why, EngineContextTooLong) or not why.fits:
            raise
        return measured(setup, {"max-model-len": why.fits // 16 * 16}, machine_of(setup))[0]


def machine_of(setup: Setup) -> Machine:
    regions = tuple(CrashRegion(flags=dict(flags), users=users, log_text=CRASH_TEXT) for flags, users in setup.crashes)
    made_of = Simulation(
        profile=setup.profile, shape=setup.entry.shape, launch_noise_ratio=0, cell_noise_ratio=0, step_noise_ratio=0,
        crashes=regions,
    )  # fmt: skip
    return Machine(made_of)


def measured(setup: Setup, flags: Flags, machine: Machine) -> tuple[tuple[float, ...], float]:
    """At each level what is to be made larger, of one launch; then the seconds that measuring it would take.

    Each level asks its own prompts, as `bench.cell_seed` sees to: no prefix cache may know them from the one before.
    """
    server = machine.launch(flags, precision="bf16")
    found, seconds = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number, users in enumerate(setup.users, 1):
            job = LoadJob(
                url="", api="openai", dialect="vllm", model=setup.model, workload=setup.scenario.workload,
                load=setup.scenario.load, users=users, repeat=1, seed=number, is_first=True,
                requests_path=f"{folder}/requests.jsonl", client_path=f"{folder}/client.json",
            )  # fmt: skip
            began_s = machine.now_s
            result = drive(server, job)
            counted = [record for record in result.records if not record.is_warmup]
            mean_s = mean(record.e2e_s for record in counted)
            match setup.objective:
                case "latency":
                    found.append(1 / mean_s)
                case "ttft":
                    found.append(1 / mean(record.ttft_s for record in counted if record.ttft_s is not None))
                case _:
                    found.append(users * setup.output_tokens / mean_s)
            warmup_s = max(0.0, result.health.started_s - began_s)
            seconds += warmup_s + REPEATS * max(MIN_CELL_S, ROUNDS * mean_s)
    return tuple(found), seconds


def point_of(setup: Setup, baseline: tuple[float, ...], flags: Flags) -> Point:
    """One candidate."""
    if refused := setup.is_allowed(flags):
        return Point(flags=flags, value=None, cold_s=9.0, warm_s=9.0, outcome=Outcome.BAD_FLAG, reason=refused[0])
    machine = machine_of(setup)
    cold_s = warm_s = 0.0
    try:
        machine.launch(flags, precision="bf16")
        cold_s = machine.now_s
        levels, measure_s = measured(setup, flags, machine)
    except (Refused, Crashed) as refusal:
        is_under_load = cold_s > 0
        seconds = machine.now_s + (REPEATS * MIN_CELL_S if is_under_load else 0.0)
        return failed_point(flags, refusal.log_text, seconds=seconds, is_under_load=is_under_load)
    warm_s = -machine.now_s
    machine.launch(flags, precision="bf16")
    warm_s += machine.now_s
    ratios = [math.log(here / there) for here, there in zip(levels, baseline, strict=True)]
    return Point(
        flags=flags,
        value=math.fsum(ratios) / len(ratios),
        cold_s=cold_s + measure_s,
        warm_s=warm_s + measure_s,
    )


def failed_point(flags: Flags, log_text: str, *, seconds: float, is_under_load: bool) -> Point:
    """Read from the log, as from a real one."""
    why = failure("vLLM", log_text, returncode=1)
    kinds: list[tuple[type[EngineError], Outcome]] = [
        (EngineOutOfMemory, Outcome.OUT_OF_MEMORY),
        (EngineContextTooLong, Outcome.CONTEXT_TOO_LONG),
        (EngineBadFlag, Outcome.BAD_FLAG),
    ]
    return Point(
        flags=flags,
        value=None,
        cold_s=seconds,
        warm_s=seconds,
        outcome=next((outcome for kind, outcome in kinds if isinstance(why, kind)), Outcome.CRASHED),
        reason=why.message,
        fits_tokens=why.fits if isinstance(why, EngineContextTooLong) else None,
        is_under_load=is_under_load,
    )


def auto_tune_grid(space: Space) -> tuple[Flags, ...]:
    """The order of vLLM's benchmarks/auto_tune: for each max-num-seqs every max-num-batched-tokens, both rising.

    It tunes nothing else; the context is the shortest that holds the load, as there.
    """
    ladders = {axis.flag: axis.steps for axis in space.axes}
    first = {axis.flag: 0 for axis in space.axes}
    found = []
    for seqs in range(len(ladders["max-num-seqs"])):
        for batched in range(len(ladders["max-num-batched-tokens"])):
            places = {**first, "max-num-seqs": seqs, "max-num-batched-tokens": batched}
            found.append(space.flags_at(tuple(places[axis.flag] for axis in space.axes)))
    return tuple(found)


# ---------------------------------------------------------------- recorded grids


def recorded() -> Iterator[Surface]:
    """What real cards gave, at the largest load of each grid. Only its own candidates are known, so only they count."""
    for path in sorted(RECORDED.glob("*.toml")):
        raw = tomllib.loads(path.read_text())
        profile, model = config.gpu_profile(raw["gpu"]), entry(raw["model"].removeprefix("synth-"))
        launches = [(one["flags"], {int(users): rate for users, rate in one["output_tok_s"].items()})
                    for one in raw["launches"]]  # fmt: skip
        users = max(launches[0][1])
        baseline = next(rates[users] for flags, rates in launches if not flags)
        tuned = [(flags, rates[users]) for flags, rates in launches if flags]
        yield recorded_surface(profile, model, tuned, baseline=baseline, users=users)


def recorded_surface(
    profile: GpuProfile, model: ModelEntry, tuned: Iterable[tuple[Flags, float]], *, baseline: float, users: int
) -> Surface:
    """A grid as a surface; a launch takes two minutes, as those that were recorded."""
    points = {
        key_of(flags): Point(flags=flags, value=math.log(rate / baseline), cold_s=300.0, warm_s=240.0)
        for flags, rate in tuned
    }
    ladders = {
        flag: tuple(sorted({point.flags[flag] for point in points.values()}))
        for flag in next(iter(points.values())).flags
    }
    demand = Demand(most_users=users, prompt_tokens=256, output_tokens=128, needed_tokens=512)
    usual = space_for(profile, model.shape, precision="bf16", schema=names_only(USUAL), demand=demand)
    axes = tuple(
        msgspec.structs.replace(
            axis,
            steps=ladders[axis.flag],
            knee=next((step for step in ladders[axis.flag] if axis.knee is not None and step >= users), None),
        )
        for axis in usual.axes
        if axis.flag in ladders
    )
    space = msgspec.structs.replace(usual, axes=axes)
    seeds = tuple(seed for seed in seeds_for(space, profile, demand=demand) if key_of(seed.flags) in points)
    return Surface(
        name=f"{profile.name}, {model.name}, throughput at {users} users, recorded",
        is_simulated=False,
        group=RECORDED_GROUP,
        space=space,
        seeds=seeds,
        points=points,
        is_allowed=lambda flags: [] if key_of(flags) in points else ["it was not recorded"],
        grid=tuple(flags for flags in auto_tune_grid(space) if key_of(flags) in points),
    )
