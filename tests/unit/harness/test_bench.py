"""One cell after the other: what goes wrong in one is its state, and an engine that dies is started once more."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from harness import bench
from harness.bench import Bench, Part, work_of
from harness.engines import Engine
from harness.engines.running import HANG_S
from harness.errors import EngineCrashed, EngineHung
from harness.load import LoadResult
from harness.progress import Progress
from harness.recording import Recording, recorded
from harness.records import (
    Cell,
    CellState,
    ClientHealth,
    ClosedLoop,
    EngineFacts,
    EngineMetric,
    LaunchSpec,
    Level,
    LoadJob,
    OpenLoop,
    RequestRecord,
    Scenario,
    TelemetrySample,
    Workload,
)
from harness.store import RunFolder

SCENARIO = Scenario(
    name="small",
    title="",
    workload=Workload(prompt_words=8, output_tokens=8, is_streamed=True),
    load=ClosedLoop(users=(1, 4), requests_per_user=1, min_requests=8, min_s=1, max_s=9),
)
SPEC = LaunchSpec(engine="reference", model="reference")


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    with recorded(results=tmp_path, kind="bench", model="m", gpu="cpu", seed=1, scenarios=[SCENARIO]) as found:
        yield found


@pytest.mark.parametrize(("dialect", "stands"), [("vllm", True), ("llamacpp", False)])
def test_an_engine_that_stands_still_is_said_to_hang(dialect: str, stands: bool) -> None:
    """llama.cpp is not judged: it counts an answer only when that has ended."""
    engine: Any = SimpleNamespace(title="E", dialect=dialect, metrics_dialect=None, log=None, check=lambda: None)
    told = dict[str, float]({EngineMetric.RUNNING: 2.0, EngineMetric.OUTPUT_TOKENS: 9.0})
    sampler: Any = SimpleNamespace(samples=[TelemetrySample(t_s=t, engine=told) for t in (0.0, HANG_S)])
    bench.check(engine, sampler)
    sampler.samples.append(TelemetrySample(t_s=HANG_S + 1, engine=told))
    if not stands:
        bench.check(engine, sampler)
        return
    with pytest.raises(EngineHung, match="E has had requests for 121 s and given no token"):
        bench.check(engine, sampler)


def progress() -> Progress:
    return Progress([], say=lambda _: None)


def answered(job: LoadJob, *, each_s: float = 0.1, count: int = 30) -> LoadResult:
    """A load as it should be: each user sends a request as soon as the one before has ended."""
    users = max(job.users, 1)
    records = tuple(
        RequestRecord(
            user=user,
            index=index,
            is_warmup=False,
            sent_s=index * each_s,
            end_s=(index + 1) * each_s,
            chunks_s=tuple(index * each_s + each_s * part / 8 for part in range(1, 9)),
            headers_s=index * each_s,
            prompt_tokens=20,
            output_tokens=8,
            finish_reason="length",
            status=200,
        )
        for index in range(count)
        for user in range(users)
    )
    health = ClientHealth(
        cpu_ratio=0.1, lag_p50_s=0.0, lag_p99_s=0.0, started_s=0.0, stopped_s=count * each_s, ended_s=count * each_s,
        is_steady=True, requests=len(records),
    )  # fmt: skip
    return LoadResult(records=records, health=health)


class Load:
    """Stands in for Locust: answers each job with what `reply` makes of it and of its number."""

    def __init__(self, reply: Callable[[LoadJob, int], LoadResult] = lambda job, _: answered(job)) -> None:
        self.jobs: list[LoadJob] = []
        self.reply = reply

    def drive(self, job: LoadJob, **_: Any) -> LoadResult:
        self.jobs.append(job)
        return self.reply(job, len(self.jobs))


def running(recording: Recording, load: Load, *, spec: LaunchSpec = SPEC, block: int = 1, stage: str = "") -> Bench:
    """A bench whose engine is no process of ours."""
    engine = Engine(
        name="url",
        title="t",
        version="1",
        url="http://127.0.0.1:9",
        api="openai",
        dialect="plain",
        model="m",
        launch_s=0,
    )
    facts = EngineFacts(role="bench", engine="url", title="t", version="1", precision="", block=block)
    return Bench(engine, facts, spec=spec, recording=recording, progress=progress(), drive=load.drive, stage=stage)


# ---------------------------------------------------------------- one cell


def test_a_cell_is_measured_and_on_disk(recording: Recording) -> None:
    load = Load()
    cell = running(recording, load, block=3).cell(SCENARIO, Level(users=4), repeat=2)
    assert cell.state == CellState.MEASURED, cell.reasons
    assert (cell.users, cell.block, cell.repeat, cell.requests) == (4, 3, 2, 120)
    assert cell.output_tok_s is not None
    assert cell.output_tok_s.value == pytest.approx(4 * 80, rel=0.05)
    assert recording.folder.cells() == (cell,)
    assert cell.requests_file == "requests/bench-small-4-3-2.jsonl"


def test_a_level_is_warmed_up_for_long_only_the_first_time_in_a_launch(recording: Recording) -> None:
    load = Load()
    running(recording, load).measure(SCENARIO, repeats=2)
    assert [(job.users, job.is_first) for job in load.jobs] == [(1, True), (1, False), (4, True), (4, False)]
    running(recording, load, block=2).measure(SCENARIO, repeats=1)
    assert [job.is_first for job in load.jobs[4:]] == [True, True]


def test_prompts_are_held_out_from_one_kind_of_run_to_the_next(tmp_path: Path) -> None:
    """What a search chose on its own prompts must not be judged by the same ones."""
    seeds = {}
    for kind, stage in (("tune", ""), ("compare", "baseline search"), ("compare", "")):
        for side in "ab":
            with recorded(
                results=tmp_path / kind / stage / side, kind=kind, model="m", gpu="cpu", seed=1, scenarios=[SCENARIO]
            ) as own:
                load = Load()
                running(own, load, stage=stage).cell(SCENARIO, Level(users=4), repeat=1)
                seeds[kind, stage, side] = load.jobs[0].seed
    assert len(set(seeds.values())) == 3
    assert all(seeds[kind, stage, "a"] == seeds[kind, stage, "b"] for kind, stage, _ in seeds), (
        "both sides share theirs"
    )


def test_prompts_differ_from_cell_to_cell_and_not_from_engine_to_engine(recording: Recording) -> None:
    load, other = Load(), Load()
    for block in (1, 2):
        running(recording, load, block=block).measure(SCENARIO, repeats=2)
    running(recording, other, spec=msgspec.structs.replace(SPEC, engine="vllm")).measure(SCENARIO, repeats=2)
    assert len({job.seed for job in load.jobs}) == len(load.jobs)
    assert [job.seed for job in other.jobs] == [job.seed for job in load.jobs[:4]]


def test_an_open_loop_has_rates_for_levels(recording: Recording) -> None:
    load = Load()
    opened = msgspec.structs.replace(SCENARIO, load=OpenLoop(rates_per_s=(2.5,), duration_s=3))
    cell = running(recording, load).cell(opened, Level(rate_per_s=2.5), repeat=1)
    (job,) = load.jobs
    assert (job.users, job.rate_per_s) == (0, 2.5)
    assert (cell.users, cell.rate_per_s) == (0, 2.5)
    assert cell.requests_file == "requests/bench-small-2.5rps-1-1.jsonl"


def test_each_user_of_a_low_level_sends_more() -> None:
    """A median needs requests, however few users there are."""
    low, high = (bench.load_at(SCENARIO.load, Level(users=users)) for users in (1, 100))
    assert isinstance(low, ClosedLoop)
    assert isinstance(high, ClosedLoop)
    assert (low.requests_per_user, high.requests_per_user) == (8, 1)


# ---------------------------------------------------------------- what goes wrong in one cell


def test_a_client_that_was_killed_spoils_its_cell_and_the_next_ones_go_on(recording: Recording) -> None:
    def reply(job: LoadJob, number: int) -> LoadResult:
        if number == 2:
            return LoadResult(records=answered(job).records[:9], health=None, trouble="a Locust process was killed")
        return answered(job)

    cells = running(recording, Load(reply)).measure(SCENARIO, repeats=2)
    assert [cell.state for cell in cells] == [
        CellState.MEASURED, CellState.INVALID, CellState.MEASURED, CellState.MEASURED
    ]  # fmt: skip
    assert "a Locust process was killed" in cells[1].reasons
    assert len(recording.folder.cells()) == 4


def test_a_cell_whose_requests_all_failed_is_failed_and_the_next_ones_go_on(recording: Recording) -> None:
    def reply(job: LoadJob, number: int) -> LoadResult:
        found = answered(job)
        if number > 1:
            return found
        failed = tuple(msgspec.structs.replace(one, error="HTTP 500", output_tokens=None) for one in found.records)
        return msgspec.structs.replace(found, records=failed)

    first, second = running(recording, Load(reply)).measure(SCENARIO.at([Level(users=1)]), repeats=2)
    assert first.state == CellState.FAILED
    assert first.reasons == ("all 30 requests failed, 30 of them with: HTTP 500",)
    assert second.state == CellState.MEASURED


class NoRoomForSamples(RunFolder):
    """A folder on a disk that is full when the samples come."""

    def write_telemetry(self, name: str, samples: Iterable[TelemetrySample]) -> None:
        raise OSError(28, "No space left on device")


def test_samples_that_the_disk_refused_are_told_and_the_figures_stay(recording: Recording) -> None:
    full = Recording(NoRoomForSamples(recording.folder.path), recording.run)
    cell = running(full, Load()).cell(SCENARIO, Level(users=1), repeat=1)
    assert cell.state == CellState.MEASURED
    assert cell.flags == ("the samples of the machine could not be written: No space left on device",)


def test_a_figure_over_what_the_card_can_do_is_invalid(recording: Recording) -> None:
    """8 billion parameters in 16 bits at 1008 GB/s: 63 passes a second at most, and one token a pass for one user."""
    host = msgspec.structs.replace(recording.run.host, gpu="NVIDIA GeForce RTX 4090")
    recording.update(gpu="rtx4090", host=host)
    spec = LaunchSpec(engine="vllm", model="llama-3.1-8b", precision="bf16")
    cell = running(recording, Load(), spec=spec).cell(SCENARIO, Level(users=1), repeat=1)
    assert cell.ceilings["output_tok_s"] < 70
    assert cell.state == CellState.INVALID
    assert any("data sheet" in reason for reason in cell.reasons)
    slow = Load(lambda job, _: answered(job, each_s=0.5))
    cell = running(recording, slow, spec=spec).cell(SCENARIO, Level(users=1), repeat=1)
    assert cell.state == CellState.MEASURED, cell.reasons


# ---------------------------------------------------------------- an engine that dies


def blocked(recording: Recording, load: Load, *, repeats: int = 2) -> list[Cell]:
    part = Part(spec=msgspec.structs.replace(SPEC, flags={"ttft-s": 0.01}), role="bench")
    return bench.block(
        part, work_of([SCENARIO], repeats=repeats), recording=recording, progress=progress(), drive=load.drive
    )


def dies_in(*numbers: int) -> Load:
    def reply(job: LoadJob, number: int) -> LoadResult:
        if number in numbers:
            raise EngineCrashed(f"the engine died in cell {number}")
        return answered(job)

    return Load(reply)


def test_an_engine_that_dies_is_started_once_more_for_the_cells_that_are_left(recording: Recording) -> None:
    load = dies_in(2)
    cells = blocked(recording, load)
    assert [cell.state.value for cell in cells] == ["MEASURED", "FAILED", "MEASURED", "MEASURED"]
    assert cells[1].reasons == ("the engine died in cell 2",)
    assert load.jobs[0].url != load.jobs[2].url, "another launch"
    assert any("the engine died and was started again" in note for note in recording.run.notes)
    assert len(recording.folder.cells()) == 4


def test_an_engine_that_dies_twice_ends_the_block_and_all_cells_stay(recording: Recording) -> None:
    with pytest.raises(EngineCrashed, match="in cell 3"):
        blocked(recording, dies_in(2, 3))
    assert [cell.state.value for cell in recording.folder.cells()] == ["MEASURED", "FAILED", "FAILED"]


def test_an_engine_that_dies_in_the_last_cell_is_not_started_for_nothing(recording: Recording) -> None:
    load = dies_in(4)
    assert [cell.state.value for cell in blocked(recording, load)] == ["MEASURED", "MEASURED", "MEASURED", "FAILED"]
    assert len({job.url for job in load.jobs}) == 1


def test_an_engine_that_dies_and_leaves_nothing_measured_is_an_error(recording: Recording) -> None:
    one = SCENARIO.at([Level(users=1)])
    with pytest.raises(EngineCrashed):
        bench.block(
            Part(spec=SPEC, role="bench"),
            work_of([one], repeats=1),
            recording=recording,
            progress=progress(),
            drive=dies_in(1).drive,
        )
