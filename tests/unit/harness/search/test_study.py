"""The search: every candidate once, nothing that cannot run, what was learned kept; alone and among workers."""

import math
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import ResultsUnreadable, UsageError
from harness.records import Estimate, Flags, Outcome, Trial
from harness.search import Axis, Cost, Exhausted, MemoryNeed, Search, Seed, Space, key_of
from harness.search import study as study_file

SPACE = Space(
    axes=(
        Axis(flag="max-num-batched-tokens", steps=(2048, 4096, 8192), cost=Cost.COMPILE, effect=0.12),
        Axis(flag="max-num-seqs", steps=(32, 64, 128, 256), cost=Cost.COMPILE, effect=0.25, knee=128),
        Axis(flag="max-model-len", steps=(2048, 4096), cost=Cost.COMPILE, effect=0.02),
        Axis(flag="enable-prefix-caching", steps=(None, False), is_ordered=False),
    )
)
SMALL = Space(axes=(Axis(flag="max-num-seqs", steps=(16, 32, 64)), Axis(flag="max-model-len", steps=(512, 1024))))
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def nothing_against(flags: Flags) -> Sequence[str]:
    return ()


def search_in(
    folder: Path,
    *,
    space: Space = SPACE,
    seed: int = 1,
    seeds: Sequence[Seed] = (),
    objectives: int = 1,
    is_allowed: Callable[[Flags], Sequence[str]] = nothing_against,
    worker: str | None = None,
) -> Search:
    return Search(
        storage=folder / "study.journal",
        study="harness",
        space=space,
        seed=seed,
        seeds=seeds,
        objectives=objectives,
        is_allowed=is_allowed,
        worker=worker,
    )


def failed(flags: Flags, outcome: Outcome, **more: object) -> Trial:
    return Trial(number=1, flags=flags, outcome=outcome, **more)  # type: ignore[arg-type]


def all_of(space: Space) -> set[str]:
    return {key_of(space.flags_at(places)) for places in space.everywhere()}


def hill(flags: Flags) -> float:
    """A smooth objective with its top in the middle of the ladders."""
    batched, seqs = int(flags["max-num-batched-tokens"]), int(flags["max-num-seqs"])
    return -0.1 * abs(math.log2(batched / 4096)) - 0.2 * abs(math.log2(seqs / 128))


def asked(search: Search, count: int | None = None, *, value: Callable[[Flags], float | None] = hill) -> list[Flags]:
    """So many candidates, or all there are, each told what it gives, or that it failed."""
    found: list[Flags] = []
    while count is None or len(found) < count:
        try:
            candidate = search.ask()
        except Exhausted:
            assert count is None, f"exhausted after {len(found)} of {count}"
            break
        told = value(candidate.flags)
        if told is None:
            search.tell(candidate.ticket, None, constraints={"started": 1.0})
        else:
            search.tell(candidate.ticket, (told,), constraints={})
        found.append(candidate.flags)
    return found


def failing(flags: Flags) -> None:
    return None


def flat(flags: Flags) -> float:
    return 0.0


def assert_once_each(found: list[Flags], expected: set[str]) -> None:
    keys = [key_of(flags) for flags in found]
    assert len(keys) == len(set(keys)), "a candidate came twice"
    assert set(keys) == expected


def test_the_check_for_once_each_can_fail() -> None:
    assert_once_each([{"a": 1}], {key_of({"a": 1})})
    with pytest.raises(AssertionError, match="twice"):
        assert_once_each([{"a": 1}, {"a": 1}], {key_of({"a": 1})})
    with pytest.raises(AssertionError):
        assert_once_each([{"a": 1}], {key_of({"a": 1}), key_of({"a": 2})})


# ---------------------------------------------------------------- each once, and all of them


def test_every_candidate_comes_once_and_then_the_space_is_exhausted(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    assert_once_each(asked(search), all_of(SPACE))
    with pytest.raises(Exhausted):
        search.ask()


def test_candidates_that_fail_come_once_too(tmp_path: Path) -> None:
    found = asked(search_in(tmp_path, space=SMALL), value=failing)
    assert_once_each(found, all_of(SMALL))


def test_trial_zero_is_the_baselines(tmp_path: Path) -> None:
    assert search_in(tmp_path).ask().ticket == 1


def test_what_is_not_allowed_is_never_asked(tmp_path: Path) -> None:
    def small_only(flags: Flags) -> Sequence[str]:
        return ["too many"] if int(flags["max-num-seqs"]) > 32 else ()

    found = asked(search_in(tmp_path, space=SMALL, is_allowed=small_only), value=flat)
    assert {flags["max-num-seqs"] for flags in found} == {16, 32}
    assert len(found) == 4


def test_what_surely_does_not_fit_by_the_memory_plan_is_never_asked(tmp_path: Path) -> None:
    need = MemoryNeed(memory_bytes=1000, fixed_bytes=500, batched_token_bytes=0, sequence_bytes=5, kv_token_bytes=0.1)
    space = Space(axes=SMALL.axes, memory=need)
    # 0.92 of 1000 less 500 less 5 for each sequence leaves 340, 260, 100 for contexts that want 51.2 and 102.4.
    found = asked(search_in(tmp_path, space=space), value=flat)
    assert_once_each(found, all_of(SMALL) - {key_of({"max-num-seqs": 64, "max-model-len": 1024})})


def test_where_nothing_is_allowed_the_space_is_exhausted_at_once(tmp_path: Path) -> None:
    with pytest.raises(Exhausted):
        search_in(tmp_path, is_allowed=lambda _: ["no"]).ask()


def test_of_a_space_too_large_to_list_candidates_come_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_file, "MOST_LISTED", 10)
    monkeypatch.setattr(study_file, "DRAWN", 3)
    assert_once_each(asked(search_in(tmp_path)), all_of(SPACE))


@FEW
@given(
    ladders=st.lists(
        st.lists(st.integers(1, 10**6), min_size=1, max_size=4, unique=True).map(sorted), min_size=1, max_size=3
    ),
    values=st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=64, max_size=64),
    seed=st.integers(0, 2**31),
)
def test_any_space_is_asked_once_each_whatever_is_told(
    tmp_path_factory: pytest.TempPathFactory, ladders: list[list[int]], values: list[float | None], seed: int
) -> None:
    space = Space(axes=tuple(Axis(flag=f"flag-{i}", steps=tuple(steps)) for i, steps in enumerate(ladders)))
    told = iter(values)
    search = search_in(tmp_path_factory.mktemp("study"), space=space, seed=seed)
    assert_once_each(asked(search, value=lambda _: next(told)), all_of(space))


# ---------------------------------------------------------------- where it begins


SEEDS = (
    Seed(flags={"max-num-batched-tokens": 4096, "max-num-seqs": 128, "max-model-len": 2048}, origin="memory plan"),
    Seed(flags={"max-num-batched-tokens": 16384, "max-num-seqs": 256, "max-model-len": 4096}, origin="careful"),
)


def test_seeds_come_first_and_in_their_order_on_the_ladder(tmp_path: Path) -> None:
    search = search_in(tmp_path, seeds=SEEDS)
    first, second, third = search.ask(), search.ask(), search.ask()
    assert (first.flags, first.origin) == (SEEDS[0].flags, "memory plan")
    assert (second.flags["max-num-batched-tokens"], second.origin) == (8192, "careful")
    assert third.origin == "search"


def test_a_seed_that_is_not_allowed_is_left_out(tmp_path: Path) -> None:
    search = search_in(tmp_path, seeds=SEEDS, is_allowed=lambda flags: ["no"] if flags["max-num-seqs"] == 128 else [])
    assert search.ask().origin == "careful"


# ---------------------------------------------------------------- a run that was interrupted


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = asked(search_in(tmp_path / "whole", seeds=SEEDS), 12)
    parts: list[Flags] = []
    for _ in range(12):
        search = search_in(tmp_path / "parts", seeds=SEEDS)
        parts += asked(search, 1)
        search.ask()  # killed before it could tell
    assert parts[:2] == whole[:2]
    assert len({key_of(flags) for flags in parts}) == 12


@FEW
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_a_search_that_ends_between_trials_is_resumed_exactly(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], seed: int
) -> None:
    whole = asked(search_in(tmp_path_factory.mktemp("whole"), seeds=SEEDS, seed=seed), sum(cuts))
    folder = tmp_path_factory.mktemp("parts")
    parts = [flags for cut in cuts for flags in asked(search_in(folder, seeds=SEEDS, seed=seed), cut)]
    assert parts == whole


def test_a_candidate_in_flight_when_the_run_was_killed_comes_again_once(tmp_path: Path) -> None:
    first = search_in(tmp_path).ask()
    again = search_in(tmp_path).ask()
    assert again.flags == first.flags
    assert search_in(tmp_path).ask().flags != first.flags, "it has killed two runs"


def test_a_candidate_that_was_given_back_may_come_again_any_number_of_times(tmp_path: Path) -> None:
    search = search_in(tmp_path, space=SMALL)
    for _ in range(5):
        search.give_back(search.ask().ticket)
    assert_once_each(asked(search, value=flat), all_of(SMALL))


def test_what_the_run_folder_remembers_is_not_asked_again_where_the_storage_was_lost(tmp_path: Path) -> None:
    before = asked(search_in(tmp_path), 10)
    (tmp_path / "study.journal").unlink()
    ratio = Estimate(value=1.1, low=1.0, high=1.2, confidence=0.95, n=3, unit="ratio")
    trials = [
        Trial(number=number, flags=flags, outcome=Outcome.MEASURED, objective=ratio)
        for number, flags in enumerate(before, start=1)
    ]
    again = search_in(tmp_path)
    again.remember([Trial(number=0, flags={}, outcome=Outcome.MEASURED), *trials])
    assert_once_each(before + asked(again), all_of(SPACE))


def test_figures_of_several_objectives_are_remembered_too(tmp_path: Path) -> None:
    search = search_in(tmp_path, objectives=2)
    ratios = {
        name: Estimate(value=value, low=value, high=value, confidence=0.95, n=3, unit="ratio")
        for name, value in (("throughput", 1.1), ("latency", 0.9))
    }
    flags = search.ask().flags
    search.remember([Trial(number=1, flags=flags, outcome=Outcome.MEASURED, objectives=ratios)])
    told = search._remembered[key_of(flags)]
    assert told is not None
    assert told.values == pytest.approx((math.log(1.1), math.log(0.9)))


def test_failures_that_the_run_folder_remembers_are_learned(tmp_path: Path) -> None:
    search = search_in(tmp_path, space=SMALL)
    flags: Flags = {"max-num-seqs": 16, "max-model-len": 1024}
    search.remember([failed(flags, Outcome.CONTEXT_TOO_LONG, fits_tokens=600)])
    assert {flags["max-model-len"] for flags in asked(search, value=flat)} == {512, 592}


@pytest.mark.parametrize("lost_bytes", [1, 30, 150])
def test_a_run_that_was_killed_while_it_wrote_goes_on_and_again(tmp_path: Path, lost_bytes: int) -> None:
    asked(search_in(tmp_path), 3)
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-lost_bytes])
    asked(search_in(tmp_path), 3)
    assert len({key_of(flags) for flags in asked(search_in(tmp_path), 3)}) == 3


def test_a_study_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search_in(tmp_path)
    monkeypatch.setattr("harness.search.storage.FORMAT", 3)
    with pytest.raises(ResultsUnreadable, match="version 2, this harness goes on with 3"):
        search_in(tmp_path)


def test_a_study_of_other_objectives_is_refused(tmp_path: Path) -> None:
    search_in(tmp_path)
    with pytest.raises(UsageError, match="has 1 objectives, and 2 are asked for"):
        search_in(tmp_path, objectives=2)


def test_a_storage_that_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("no JSON\n\n")
    with pytest.raises(ResultsUnreadable, match="damaged"):
        search_in(tmp_path)


def test_half_a_line_that_another_worker_left_is_not_glued_to_the_next(tmp_path: Path) -> None:
    """A full disk or kill −9 cut it off, while this one has the journal open; glued, nobody could read any of it."""
    search = search_in(tmp_path, worker="one")
    first = search.ask()
    with (tmp_path / "study.journal").open("a") as journal:
        journal.write('{"op_code": 4, "worker_')
    search.tell(first.ticket, (0.1,), constraints={})
    second = search.ask()
    assert search_in(tmp_path, worker="two").ask().flags not in (first.flags, second.flags)


@pytest.mark.parametrize("line", ['{"op_code": 99}', "[]", '{"op_code": 0}', "7", '{"op_code": 4, "worker_id": "w"}'])
def test_a_journal_with_a_line_that_nobody_writes_is_refused(tmp_path: Path, line: str) -> None:
    search_in(tmp_path)
    with (tmp_path / "study.journal").open("a") as journal:
        journal.write(f"{line}\n")
    with pytest.raises(ResultsUnreadable, match="damaged"):
        search_in(tmp_path)


def test_a_database_without_a_driver_or_a_server_is_named() -> None:
    for url in ("nosuchdatabase://here/x", "sqlite:////nowhere/at/all.db"):
        with pytest.raises(UsageError, match=r"nosuchdatabase|nowhere"):
            Search(storage=url, study="x", space=SMALL, seed=1, is_allowed=nothing_against)


# ---------------------------------------------------------------- learning


def test_a_context_that_fits_is_used_for_the_next_candidates(tmp_path: Path) -> None:
    search = search_in(tmp_path, space=SMALL)
    candidate = search.ask()
    while candidate.flags["max-model-len"] != 1024:
        search.tell(candidate.ticket, (0.0,), constraints={})
        candidate = search.ask()
    search.tell(candidate.ticket, None, constraints={"context": 0.1})
    search.learn(failed(candidate.flags, Outcome.CONTEXT_TOO_LONG, fits_tokens=900))
    rest = asked(search, value=flat)
    assert {flags["max-model-len"] for flags in rest} <= {512, 896}
    assert any(flags["max-model-len"] == 896 for flags in rest)


def test_after_memory_ran_out_nothing_that_needs_more_is_asked(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    wall: Flags = {"max-num-batched-tokens": 4096, "max-num-seqs": 64, "max-model-len": 2048}
    search.learn(failed(wall, Outcome.OUT_OF_MEMORY))
    rest = asked(search)
    assert rest
    assert not [one for one in rest if one["max-num-batched-tokens"] >= 4096 and one["max-num-seqs"] >= 64]  # type: ignore[operator]


def test_a_refused_value_is_never_asked_again(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    flags: Flags = {**SPACE.flags_at((0, 0, 0, 1))}
    refusal = "vLLM: error: unrecognized arguments: --no-enable-prefix-caching"
    search.learn(failed(flags, Outcome.BAD_FLAG, reason=refusal))
    assert not [one for one in asked(search) if "enable-prefix-caching" in one]


def test_it_finds_the_top_of_a_hill_in_half_of_what_chance_needs(tmp_path: Path) -> None:
    batched = msgspec.structs.replace(SPACE.axes[0], steps=(512, 1024, 2048, 4096, 8192))
    seqs = msgspec.structs.replace(SPACE.axes[1], steps=(8, 16, 32, 64, 128, 256))
    large = Space(axes=(batched, seqs, *SPACE.axes[2:]))
    counts = []
    for seed in range(5):
        (tmp_path / str(seed)).mkdir()
        values = [hill(flags) for flags in asked(search_in(tmp_path / str(seed), space=large, seed=seed), 40)]
        counts.append(values.index(0.0) + 1)
    # Of 120 candidates 4 are on the top: chance has a median of 19.
    assert sorted(counts)[2] <= 10


def test_several_objectives_spread_over_the_front(tmp_path: Path) -> None:
    def both(flags: Flags) -> tuple[float, float]:
        place = math.log2(int(flags["max-num-seqs"]) / 32)
        return -0.2 * (3 - place), -0.2 * place

    search, found = search_in(tmp_path, objectives=2), []
    for _ in range(20):
        candidate = search.ask()
        search.tell(candidate.ticket, both(candidate.flags), constraints={})
        found.append(candidate.flags["max-num-seqs"])
    assert {32, 256} <= set(found)


# ---------------------------------------------------------------- several workers


def test_what_others_measure_now_is_not_asked(tmp_path: Path) -> None:
    searches = [search_in(tmp_path, space=SMALL, worker=str(number)) for number in range(3)]
    found = [search.ask().flags for search in searches for _ in range(2)]
    assert_once_each(found, all_of(SMALL))
    with pytest.raises(Exhausted):
        searches[0].ask()


def test_what_one_worker_learned_the_others_know(tmp_path: Path) -> None:
    one, other = (search_in(tmp_path, worker=name) for name in ("one", "other"))
    wall: Flags = {"max-num-batched-tokens": 2048, "max-num-seqs": 64, "max-model-len": 2048}
    one.learn(failed(wall, Outcome.OUT_OF_MEMORY))
    assert {flags["max-num-seqs"] for flags in asked(other)} == {32}


def test_a_new_worker_leaves_alone_what_the_others_do(tmp_path: Path) -> None:
    one = search_in(tmp_path, worker="one")
    candidate = one.ask()
    other = search_in(tmp_path, worker="other")
    assert other.ask().flags != candidate.flags
    one.tell(candidate.ticket, (0.1,), constraints={})


def test_what_a_dead_worker_held_can_be_given_back_by_another(tmp_path: Path) -> None:
    dead, alive = (search_in(tmp_path, space=SMALL, worker=name) for name in ("dead", "alive"))
    ticket = dead.ask().ticket
    alive.give_back(ticket)
    assert_once_each(asked(alive, value=flat), all_of(SMALL))


def work(folder: Path, name: str, told: "multiprocessing.Queue[str]") -> None:
    """A worker: asks until there is nothing left."""
    search = search_in(folder, worker=name)
    while True:
        try:
            candidate = search.ask()
        except Exhausted:
            break
        told.put(key_of(candidate.flags))
        search.tell(candidate.ticket, (hill(candidate.flags),), constraints={})
    told.put("")


def test_workers_in_processes_of_their_own_never_get_the_same_candidate(tmp_path: Path) -> None:
    search_in(tmp_path, worker="first")  # makes the study
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[str] = context.Queue()
    workers = [context.Process(target=work, args=(tmp_path, f"w{n}", told), daemon=True) for n in range(3)]
    for worker in workers:
        worker.start()
    found: list[str] = []
    ended = 0
    while ended < len(workers):
        key = told.get(timeout=120)
        ended += not key
        found += [key] if key else []
    for worker in workers:
        worker.join(timeout=30)
    assert len(found) == len(set(found)), "two workers had the same candidate"
    assert set(found) == all_of(SPACE)
