"""The search: every candidate once, nothing that cannot run, and something learned on the way."""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from harness.engines import violations
from harness.records import Flags, SearchSpace
from harness.search import Exhausted, Search, candidate

SPACE = SearchSpace(
    max_num_batched_tokens=(2048, 4096, 8192, 16384), max_num_seqs=(32, 64, 128, 256), max_model_len=(2048, 4096, 8192)
)
ALL = {
    (batched, seqs, length)
    for batched in SPACE.max_num_batched_tokens
    for seqs in SPACE.max_num_seqs
    for length in SPACE.max_model_len
}
SMALL = SearchSpace(max_num_batched_tokens=(64, 128), max_num_seqs=(64, 128), max_model_len=(512, 1024))
CONSERVATIVE: Flags = {"max-num-batched-tokens": 16384, "max-num-seqs": 256, "max-model-len": 4096}

Point = tuple[int, int, int]


def search_in(
    folder: Path, *, space: SearchSpace = SPACE, seed: int = 1, needed_tokens: int = 300, model_max_len: int = 32768
) -> Search:
    return Search(
        folder, space, seed=seed, needed_tokens=needed_tokens, model_max_len=model_max_len, violations=violations
    )


def asked(search: Search, count: int | None = None, *, objective: float | None = 0.1) -> list[Point]:
    """So many candidates, or all there are, each told the same result."""
    points: list[Point] = []
    constraints = {} if objective is not None else {"memory_short_gib": 1.5}
    while count is None or len(points) < count:
        try:
            ticket, flags = search.ask()
        except Exhausted:
            assert count is None, f"exhausted after {len(points)} of {count}"
            break
        search.tell(ticket, objective, constraints=constraints)
        points.append(candidate(flags))
    return points


def assert_once_each(points: list[Point], expected: set[Point]) -> None:
    assert len(points) == len(set(points)), "a candidate came twice"
    assert set(points) == expected


def test_the_check_for_once_each_can_fail() -> None:
    assert_once_each([(1, 1, 1)], {(1, 1, 1)})
    with pytest.raises(AssertionError, match="twice"):
        assert_once_each([(1, 1, 1), (1, 1, 1)], {(1, 1, 1)})
    with pytest.raises(AssertionError):
        assert_once_each([(1, 1, 1)], {(1, 1, 1), (2, 2, 2)})


def test_asking_for_more_than_there_is_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exhausted after 6 of 7"):
        asked(search_in(tmp_path, space=SMALL), 7)


# ---------------------------------------------------------------- each once, and all of them


@pytest.mark.parametrize("objective", [0.1, None], ids=["measured", "failed"])
def test_every_candidate_comes_once_and_then_the_space_is_exhausted(tmp_path: Path, objective: float | None) -> None:
    search = search_in(tmp_path)
    assert_once_each(asked(search, objective=objective), ALL)
    with pytest.raises(Exhausted):
        search.ask()


def test_fewer_batched_tokens_than_sequences_are_never_tried(tmp_path: Path) -> None:
    # vLLM refuses them at launch.
    assert_once_each(
        asked(search_in(tmp_path, space=SMALL)),
        {
            (64, 64, 512),
            (64, 64, 1024),
            (128, 64, 512),
            (128, 64, 1024),
            (128, 128, 512),
            (128, 128, 1024),
        },
    )


def test_a_candidate_names_all_three_flags(tmp_path: Path) -> None:
    _, flags = search_in(tmp_path).ask()
    assert set(flags) == {"max-num-batched-tokens", "max-num-seqs", "max-model-len"}


def test_a_candidate_that_is_being_measured_is_not_given_out_again(tmp_path: Path) -> None:
    search = search_in(tmp_path, space=SMALL)
    in_flight = [search.ask() for _ in range(6)]  # none told
    assert len({candidate(flags) for _, flags in in_flight}) == 6
    with pytest.raises(Exhausted):
        search.ask()


def test_after_a_restart_no_candidate_comes_again(tmp_path: Path) -> None:
    before = asked(search_in(tmp_path), 20)
    again = search_in(tmp_path)
    again.remember([flags_of(point) for point in before], longest_that_fits=None)
    assert_once_each(before + asked(again), ALL)


def test_failed_candidates_do_not_come_again_after_a_restart_either(tmp_path: Path) -> None:
    failed = asked(search_in(tmp_path), 7, objective=None)
    again = search_in(tmp_path)
    again.remember([flags_of(point) for point in failed], longest_that_fits=None)
    assert_once_each(failed + asked(again), ALL)


def test_the_baseline_is_no_candidate_to_remember(tmp_path: Path) -> None:
    search = search_in(tmp_path, space=SMALL)
    search.remember([{}, {"max-model-len": 512}], longest_that_fits=None)
    assert len(asked(search)) == 6


def test_trial_zero_is_the_baselines(tmp_path: Path) -> None:
    ticket, _ = search_in(tmp_path).ask()
    assert ticket == 1


# ---------------------------------------------------------------- what is known not to fit


def test_a_context_shorter_than_the_workload_is_never_tried(tmp_path: Path) -> None:
    points = asked(search_in(tmp_path, needed_tokens=2049))
    assert_once_each(points, {point for point in ALL if point[2] >= 4096})


def test_a_context_of_just_the_workload_is_tried(tmp_path: Path) -> None:
    assert_once_each(asked(search_in(tmp_path, needed_tokens=8192)), {point for point in ALL if point[2] == 8192})


def test_a_context_longer_than_the_model_knows_is_never_tried(tmp_path: Path) -> None:
    points = asked(search_in(tmp_path, model_max_len=4096))
    assert_once_each(points, {point for point in ALL if point[2] <= 4096})


def test_where_nothing_fits_the_space_is_exhausted_at_once(tmp_path: Path) -> None:
    with pytest.raises(Exhausted):
        search_in(tmp_path, needed_tokens=9000).ask()


def test_a_length_that_did_not_fit_is_cut_from_then_on(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    before = asked(search, 5)
    search.learn_longest(5000)
    after = asked(search)
    assert max(point[2] for point in after) == 4096
    assert_once_each(before + after, {point for point in ALL if point[2] <= 4096} | set(before))


def test_a_longer_length_learned_later_does_not_open_what_was_cut(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    search.learn_longest(2048)
    search.learn_longest(8192)
    assert {point[2] for point in asked(search)} == {2048}


def test_what_did_not_fit_is_remembered_over_a_restart(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    search.remember([], longest_that_fits=2048)
    assert {point[2] for point in asked(search)} == {2048}


# ---------------------------------------------------------------- where it begins


@pytest.mark.parametrize(
    ("flags", "first"),
    [
        (CONSERVATIVE, (16384, 256, 4096)),
        ({"max-num-batched-tokens": 10000, "max-num-seqs": 255, "max-model-len": 99999}, (8192, 128, 8192)),
        ({"max-num-batched-tokens": 1, "max-num-seqs": 1, "max-model-len": 1}, (2048, 32, 2048)),
    ],
)
def test_it_begins_at_the_nearest_step_below_what_was_asked_for(tmp_path: Path, flags: Flags, first: Point) -> None:
    search = search_in(tmp_path)
    search.start_with(flags)
    assert candidate(search.ask()[1]) == first


def test_where_the_start_does_not_fit_it_begins_beside_it(tmp_path: Path) -> None:
    search = search_in(tmp_path, needed_tokens=5000)
    search.start_with(CONSERVATIVE)
    assert candidate(search.ask()[1]) == (16384, 256, 8192)


def test_the_start_is_asked_for_once(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    search.start_with(CONSERVATIVE)
    search.start_with(CONSERVATIVE)
    assert_once_each(asked(search), ALL)


# ---------------------------------------------------------------- a run that was killed


def test_a_candidate_that_was_given_back_may_come_again(tmp_path: Path) -> None:
    search = search_in(tmp_path, space=SMALL)
    ticket, _ = search.ask()
    search.give_back(ticket)
    assert len(set(asked(search))) == 6


def test_a_start_that_was_interrupted_is_asked_for_again(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    search.start_with(CONSERVATIVE)
    search.give_back(search.ask()[0])
    again = search_in(tmp_path)
    again.start_with(CONSERVATIVE)
    assert candidate(again.ask()[1]) == candidate(CONSERVATIVE)


def test_a_candidate_in_flight_when_the_run_was_killed_may_come_again(tmp_path: Path) -> None:
    search_in(tmp_path, space=SMALL).ask()  # never told
    assert len(asked(search_in(tmp_path, space=SMALL))) == 6


def test_candidates_in_flight_when_the_run_was_killed_do_not_count_as_running_for_ever(tmp_path: Path) -> None:
    # TPE takes a running trial for a bad one, so that several workers spread out.
    search = search_in(tmp_path)
    for _ in range(3):
        search.ask()  # never told
    asked(search_in(tmp_path), 1)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    states = [trial.state for trial in optuna.load_study(study_name="harness", storage=storage).trials]
    assert TrialState.RUNNING not in states
    assert states.count(TrialState.COMPLETE) == 1


def test_a_run_that_was_killed_before_its_first_candidate_goes_on(tmp_path: Path) -> None:
    search_in(tmp_path).start_with(CONSERVATIVE)  # its place in the queue is written, nobody took it
    again = search_in(tmp_path)
    again.start_with(CONSERVATIVE)
    points = asked(again)
    assert points[0] == candidate(CONSERVATIVE)
    assert_once_each(points, ALL)


@pytest.mark.parametrize("lost_bytes", [1, 30, 150])
def test_a_run_that_was_killed_while_it_wrote_goes_on_and_again(tmp_path: Path, lost_bytes: int) -> None:
    asked(search_in(tmp_path), 3)
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-lost_bytes])
    asked(search_in(tmp_path), 3)
    assert len(set(asked(search_in(tmp_path), 3))) == 3


# ---------------------------------------------------------------- learning


def regret_of_chance(values: list[float], draws: int) -> float:
    """What the best of `draws` different points misses of the best of all, on average: counted, not simulated."""
    ordered = sorted(values, reverse=True)
    ways = math.comb(len(values), draws)
    return sum(
        (ordered[0] - value) * math.comb(len(values) - place - 1, draws - 1) / ways
        for place, value in enumerate(ordered)
        if len(values) - place >= draws
    )


def test_the_regret_of_chance_is_right_where_it_can_be_counted_by_hand() -> None:
    # Of 3, 2, 0 two are drawn: 32, 30, 20 miss 0, 0, 1.
    assert regret_of_chance([2.0, 0.0, 3.0], 2) == pytest.approx(1 / 3)
    assert regret_of_chance([2.0, 0.0, 3.0], 3) == 0.0


def hill(random_: random.Random) -> Callable[[Point], float]:
    """A smooth objective over the ladders' places, with its top anywhere."""
    ladders = (SPACE.max_num_batched_tokens, SPACE.max_num_seqs, SPACE.max_model_len)
    top = [random_.randrange(len(ladder)) for ladder in ladders]
    steep = [random_.uniform(0.03, 0.15) for _ in ladders]
    return lambda point: (
        -sum(
            slope * (ladder.index(step) - best) ** 2
            for slope, ladder, step, best in zip(steep, ladders, point, top, strict=True)
        )
    )


def does_not_fit(point: Point) -> bool:
    """As if the largest settings together ran out of memory."""
    return point[0] * point[1] * point[2] > 16384 * 128 * 4096


def regrets(tmp_path: Path, *, studies: int, trials: int) -> Iterator[tuple[float, float]]:
    """(regret of the search, expected regret of chance) for objectives of their own."""
    for seed in range(studies):
        objective = hill(random.Random(1000 + seed))
        folder = tmp_path / str(seed)
        folder.mkdir()
        search, best = search_in(folder, seed=seed), -math.inf
        for _ in range(trials):
            ticket, flags = search.ask()
            point = candidate(flags)
            if does_not_fit(point):
                search.tell(ticket, None, constraints={"memory_short_gib": 1.0})
            else:
                search.tell(ticket, objective(point), constraints={})
                best = max(best, objective(point))
        possible = [objective(point) for point in ALL if not does_not_fit(point)]
        # Chance is spared the points that do not fit: an easier opponent would prove less.
        yield max(possible) - best, regret_of_chance(possible, trials)


def test_it_finds_better_settings_than_chance_with_as_many_trials(tmp_path: Path) -> None:
    pairs = list(regrets(tmp_path, studies=10, trials=16))
    searched, chance = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    assert searched < chance / 2, f"mean regret {searched:.4f}, of chance {chance:.4f}"


def flags_of(point: Point) -> Flags:
    return dict(zip(("max-num-batched-tokens", "max-num-seqs", "max-model-len"), point, strict=True))
