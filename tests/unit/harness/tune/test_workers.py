"""Several workers of one search: cards, numbers, one run folder, a storage that goes away; a tuner that is killed."""

import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc

from harness import config, errors, tune
from harness.errors import ResultsUnreadable, StorageLost, UsageError
from harness.recording import Recording
from harness.records import ClosedLoop, EngineFacts, Outcome, Scenario, Trial, Workload
from harness.search import Axis, Enough, Exhausted, Search, Space, key_of
from harness.search import storage as storage_file
from harness.store import RunFolder, without_password
from harness.tune import workers
from harness.tune.plan import Plan
from harness.tune.session import resume, run
from harness.tune.study import Study
from harness.tune.world import World, world_of
from tests.unit.harness.tune.worlds import FakeEngines, like_all, plan, recording_of
from tests.unit.harness.tune.worlds import Search as Listed

SPACE = Space(
    axes=(Axis(flag="max-num-seqs", steps=(16, 64, 256)), Axis(flag="max-num-batched-tokens", steps=(2048, 8192)))
)


# ---------------------------------------------------------------- cards


class Gpu:
    """Cards by their names, as `telemetry.Gpu` tells them."""

    def __init__(self, **names: str) -> None:
        self.names = names

    def __enter__(self) -> "Gpu":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def cards(count: int, gpu: Gpu | None, *, name: str = "rtx4090", is_simulated: bool = False) -> tuple[str, ...]:
    find: Any = lambda: gpu  # noqa: E731
    return workers.cards(count, config.gpu_profile(name), is_simulated=is_simulated, find_gpu=find)


def test_each_worker_has_a_card_of_its_own() -> None:
    assert cards(2, Gpu(a="H100", b="H100", c="H100")) == ("a", "b")


def test_cards_that_are_not_alike_are_refused() -> None:
    with pytest.raises(UsageError, match=r"not alike.*H100, A100"):
        cards(2, Gpu(a="H100", b="A100"))


def test_fewer_cards_than_workers_are_refused() -> None:
    with pytest.raises(UsageError, match="there are 2"):
        cards(3, Gpu(a="H100", b="H100"))


def test_without_a_card_workers_are_refused_but_for_what_needs_none() -> None:
    with pytest.raises(UsageError, match="NVML sees none"):
        cards(4, None)
    assert cards(1, None) == cards(4, None, is_simulated=True) == cards(4, None, name="cpu") == ()


def test_card_and_compile_caches_are_apart() -> None:
    one, two = (workers.environment(number, ("a", "b"), {"HOME": "/h"}) for number in (1, 2))
    assert (one["CUDA_VISIBLE_DEVICES"], two["CUDA_VISIBLE_DEVICES"]) == ("a", "b")
    for name in ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert one[name] != two[name]
    assert workers.environment(2, (), {"HOME": "/h"}) == {"HOME": "/h"}


def test_a_worker_begins_with_what_the_baseline_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    workers.share_caches(2)
    assert not workers.caches_of(2).exists()
    compiled = workers.caches_of(1) / "vllm" / "compiled"
    compiled.parent.mkdir(parents=True)
    compiled.write_text("first")
    workers.share_caches(2)
    copied = workers.caches_of(2) / "vllm" / "compiled"
    assert copied.read_text() == "first"
    copied.write_text("its own")
    workers.share_caches(2)
    assert (copied.read_text(), compiled.read_text()) == ("its own", "first")
    assert {path.name for path in workers.caches_of(1).parent.iterdir()} == {"1", "2"}


def test_an_error_of_a_worker_is_that_error_again() -> None:
    found = workers.error_of(workers.Word(kind="error", text="no", error="StorageLost", hint="start it"), 3)
    assert isinstance(found, StorageLost)
    assert (found.message, found.hint, found.exit_code) == ("worker 3: no", "start it", 3)
    assert type(workers.error_of(workers.Word(kind="error", text="no"), 1)) is errors.HarnessError


# ---------------------------------------------------------------- one run folder


def trial(number: int, **changes: Any) -> Trial:
    return Trial(**{"number": number, "flags": {"max-num-seqs": number}, "outcome": Outcome.MEASURED, **changes})


def test_numbers_are_each_held_by_one(tmp_path: Path) -> None:
    one, other = (RunFolder(tmp_path) for _ in range(2))
    one.append_trial(trial(2))
    with one.claimed_number(most=3) as first, other.claimed_number(most=3) as second:
        assert (first, second) == (1, 3)
        with RunFolder(tmp_path).claimed_number(most=3) as third:
            assert third is None
    with other.claimed_number(most=3) as again:
        assert again == 1


def test_trials_are_read_by_number_whoever_was_first(tmp_path: Path) -> None:
    for number in (0, 3, 1):
        RunFolder(tmp_path).append_trial(trial(number))
    assert [one.number for one in RunFolder(tmp_path).trials()] == [0, 1, 3]


def test_candidates_of_workers_are_compared_with_the_defaults_in_the_same_company(tmp_path: Path) -> None:
    """The baseline was alone: on two H200s of one host all candidates seemed slower, while others were at work."""
    asked = plan(workers=2, trials=2)
    recording = recording_of(asked, tmp_path / "run")
    alone, crowded = FakeEngines(like_all), FakeEngines(lambda flags, users: 0.8 * like_all(flags, users))
    listed = [{"max-num-batched-tokens": 8192, "max-num-seqs": count, "max-model-len": 4096} for count in (64, 128)]

    def made(engines: FakeEngines, worker: int | None) -> Study:
        world = World(
            clock=engines.clock, pause=engines.pause, launch=engines.launch, ask=None,
            make_search=lambda *_, **__: Listed(listed),
        )  # fmt: skip
        return Study(asked, recording, say=lambda _: None, world=world, worker=worker)

    made(alone, None)._defaults.measure()
    made(crowded, 1).search_as_worker(tmp_path)
    _, control, *candidates = recording.folder.trials()
    assert (control.number, control.is_control, control.flags) == (1, True, {})
    assert control.objective is not None
    assert control.objective.value == pytest.approx(0.8, rel=0.05)
    assert [one.flags for one in candidates] == listed, "the control is none of the two that were asked for"
    for one in candidates:
        assert one.objective is not None
        assert one.objective.value == pytest.approx(1.0, rel=0.05)
    made(crowded, 2).search_as_worker(tmp_path)
    assert len(recording.folder.trials()) == 4, "it is measured once"


def test_a_workers_candidate_is_not_stopped_for_being_behind_one_that_was_measured_alone(tmp_path: Path) -> None:
    """A study that went on with several workers after it had one."""
    asked = plan(workers=2)
    recording = recording_of(asked, tmp_path / "run")
    for one in (trial(0), trial(1), trial(2, worker=1)):
        recording.folder.append_trial(one)
    for worker, rivals in ((1, [2]), (None, [0, 1, 2])):
        study = Study(asked, recording, say=lambda _: None, world=World(), worker=worker)
        assert [one.number for one in study._candidates._attempts._rivals()] == rivals


def test_a_worker_waits_for_the_control_no_longer_than_a_launch_takes(tmp_path: Path) -> None:
    """Another worker holds its number, and never comes back with it."""
    asked = plan(workers=2, trials=2)
    recording = recording_of(asked, tmp_path / "run")
    engines = FakeEngines(like_all)
    world = World(
        clock=engines.clock, pause=engines.pause, launch=engines.launch, ask=None,
        make_search=lambda *_, **__: Listed([{"max-num-seqs": 64}]),
    )  # fmt: skip
    Study(asked, recording, say=lambda _: None, world=world)._defaults.measure()
    longest_s = recording.folder.trials()[0].wall_s
    with RunFolder(recording.folder.path).claimed_number(most=None) as held:
        assert held == 1
        Study(asked, recording, say=lambda _: None, world=world, worker=2).search_as_worker(tmp_path)
    _, candidate = recording.folder.trials()
    assert candidate.number == 2
    assert candidate.objective is not None
    assert sum(engines.pauses) == pytest.approx(longest_s, abs=1.0)


def test_two_that_share_a_run_lose_nothing_of_each_other(tmp_path: Path) -> None:
    first = recording_of(plan(), tmp_path / "run")
    one, other = (Recording(first.folder, first.run, is_shared=True) for _ in range(2))
    one.add_engine(facts("trial 1"))
    other.add_engine(facts("trial 2"))
    one.add_note("of one")
    other.add_note("of the other")
    found = RunFolder(tmp_path / "run").run()
    assert [each.role for each in found.engines] == ["trial 1", "trial 2"]
    assert found.notes == ("of one", "of the other")


def facts(role: str) -> EngineFacts:
    return EngineFacts(role=role, engine="vllm", title="", version="", precision="")


def test_a_child_that_inherits_the_lock_holds_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked():
        inherited = os.dup(folder.lock_file or -1)
    with pytest.raises(UsageError, match="another process"), RunFolder(tmp_path).locked():
        pass
    os.close(inherited)
    with RunFolder(tmp_path).locked():
        pass


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:sesame@db:5432/x", "postgresql://me@db:5432/x"),
        ("tune --storage 'postgresql://me:p@ss@db/x' --json", "tune --storage 'postgresql://me@db/x' --json"),
        ("postgresql://db/x?password=sesame&user=me", "postgresql://db/x?password=&user=me"),
        ("sqlite:////data/study.db", "sqlite:////data/study.db"),
        ("http://127.0.0.1:8000/a@b", "http://127.0.0.1:8000/a@b"),
    ],
)  # fmt: skip
def test_passwords_are_never_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


# ---------------------------------------------------------------- what the dead leave behind


def search_in(folder: Path, worker: str | None, **more: Any) -> Search:
    known: dict[str, Any] = {"storage": folder / "study.journal", "study": "t", "space": SPACE, "seed": 1}
    return Search(**known, is_allowed=lambda _: (), worker=worker, **more)


def test_a_dead_workers_candidate_is_taken_up_once_and_then_given_up(tmp_path: Path) -> None:
    tuner = search_in(tmp_path, "run")
    lost = search_in(tmp_path, "run/1").ask()
    tuner.take_back("run/1", measured={})
    assert tuner.given_up() == []
    second = search_in(tmp_path, "run/2")
    asked = [second.ask() for _ in range(6)]
    assert [one.flags for one in asked].count(lost.flags) == 1
    for one in asked:
        if one.flags != lost.flags:
            second.tell(one.ticket, (0.0,), constraints={})
    tuner.take_back("run/2", measured={})
    assert tuner.given_up() == [lost.flags]
    with pytest.raises(Exhausted):
        search_in(tmp_path, "run/3").ask()
    tuner.remember([Trial(number=9, flags=lost.flags, outcome=Outcome.CRASHED)])
    assert tuner.given_up() == []


def test_what_a_dead_worker_wrote_before_it_told_is_told_for_it(tmp_path: Path) -> None:
    tuner = search_in(tmp_path, "run")
    written = search_in(tmp_path, "run/1").ask()
    tuner.take_back("run/1", measured={key_of(written.flags): (0.3,)})
    assert tuner.best_elsewhere("other run") == (0.3, "run")
    assert tuner.best_elsewhere("run") is None
    assert tuner.count() == 1


def test_no_more_candidates_are_given_out_than_were_asked_for(tmp_path: Path) -> None:
    one, other = (search_in(tmp_path, name) for name in ("a", "b"))
    one.ask(most=2)
    other.ask(most=2)
    for search in (one, other):
        with pytest.raises(Enough):
            search.ask(most=2)


def test_a_study_of_another_plan_is_refused_with_what_differs(tmp_path: Path) -> None:
    search_in(tmp_path, "a", about={"model": "small", "GPU": "h100"})
    search_in(tmp_path, "b", about={"model": "small", "GPU": "h100"})
    with pytest.raises(UsageError, match="GPU h100, not l40s"):
        search_in(tmp_path, "c", about={"model": "small", "GPU": "l40s"})


def test_a_database_of_another_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    storage_file.refuse_storage(url)
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v0.9.0.a'"))
    engine.dispose()
    with pytest.raises(ResultsUnreadable, match="another version of Optuna"):
        storage_file.refuse_storage(url)


@pytest.mark.parametrize("url", ["mysql://me:sesame@db/x", "study.journal"])
def test_other_storages_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(UsageError, match="no such kind") as caught:
        storage_file.refuse_storage(url)
    assert "sesame" not in caught.value.message


def away() -> None:
    raise sqlalchemy.exc.OperationalError("SELECT", {}, Exception("connection refused"))


def test_a_storage_that_stays_away_is_waited_for_and_then_said() -> None:
    now, said = [0.0], list[str]()

    def pause(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(StorageLost, match=r"connection refused") as caught:
        storage_file.patiently(away, say=said.append, clock=lambda: now[0], pause=pause)
    assert caught.value.exit_code == 3
    assert storage_file.PATIENCE_S <= now[0] <= storage_file.PATIENCE_S + 2 * storage_file.RETRY_S
    assert len(said) == 1


def test_a_storage_that_comes_back_is_as_if_it_had_not_been_away() -> None:
    tries = iter([away, away, lambda: "there"])
    found = storage_file.patiently(lambda: next(tries)(), say=lambda _: None, pause=lambda _: None)
    assert found == "there"


# ---------------------------------------------------------------- a tuner that is killed


LOAD = ClosedLoop(users=(1,), requests_per_user=3, min_s=4, max_s=60)
SMALL = Scenario(name="s", title="", workload=Workload(prompt_words=50, output_tokens=32, is_streamed=True), load=LOAD)


def small_plan() -> Plan:
    return plan(engine=tune.SIMULATED, scenario=SMALL, users=(1,), repeats=2, trials=None, is_defended=False)


def small_search(asked: Plan, *, folder: RunFolder, say: Any, violations: Any, **more: Any) -> Search:
    return Search(
        storage=folder.path / "study.journal", study=asked.study, space=SPACE, seed=asked.seed, is_allowed=violations
    )


def tuned(results: Path) -> None:
    """A study over a small space, from its begin or from where the last process was killed."""
    runs = sorted(results.glob("*/plan.json"))
    asked = small_plan()
    if runs:
        folder = RunFolder(runs[0].parent)
        world = world_of(asked, folder)
        world.make_search = small_search
        more: dict[str, Any] = {"trials": None, "budget_s": None, "vllm_python": None}
        resume(folder, results=results, say=lambda _: None, world=world, **more)
    else:
        world = world_of(asked, RunFolder(results))
        world.make_search = small_search
        run(asked, results=results, say=lambda _: None, world=world)


def whole_lines(path: Path) -> list[bytes]:
    return (
        [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if path.exists() else []
    )


def flags_of(trials: tuple[Trial, ...]) -> list[str]:
    return sorted(key_of(one.flags) for one in trials if one.number)


@pytest.mark.timeout(200)
def test_a_tuner_killed_at_twenty_moments_ends_with_the_trials_of_one_that_was_not(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.tune", __name__])
    draws, kills, rounds = random.Random(20), 0, 0
    expected = sorted(key_of(SPACE.flags_at(places)) for places in SPACE.everywhere())
    while kills < 20:
        rounds += 1
        results = tmp_path / str(rounds)
        results.mkdir()
        ended = None
        while ended != 0:
            before = [line for path in results.glob("*/trials.jsonl") for line in whole_lines(path)]
            process = context.Process(target=tuned, args=(results,))
            process.start()
            if kills < 20:
                process.join(timeout=draws.uniform(0.05, 1.5))
                if process.exitcode is None and process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
            process.join()
            ended = process.exitcode
            assert ended in (0, -signal.SIGKILL)
            after = [line for path in results.glob("*/trials.jsonl") for line in whole_lines(path)]
            assert after[: len(before)] == before, "a trial that was kept is gone"
        (folder,) = (RunFolder(path.parent) for path in results.glob("*/plan.json"))
        trials = folder.trials()
        assert flags_of(trials) == expected
        assert [one.number for one in trials] == list(range(len(trials)))
        for one in trials:
            mine = [
                cell
                for cell in folder.cells()
                if cell.role == ("baseline" if one.number == 0 else f"trial {one.number}")
            ]
            assert len(mine) == (0 if one.outcome == Outcome.CRASHED else 2), one
        assert folder.run().state == "DONE"
