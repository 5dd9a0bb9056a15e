"""How much longer: the guess, and what was seen."""

import pytest

from harness.progress import Progress, clock_text


class Clock:
    """Moves only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def unheard(_text: str) -> None:
    """For tests that look at the time left, not at what is said."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (-5.0, "0 s"),
        (38.2, "38 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (245.0, "4 min 05 s"),
        (3725.0, "62 min 05 s"),
    ],
)
def test_times_are_told_in_minutes_and_seconds(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_before_anything_was_seen_the_guesses_count(clock: Clock) -> None:
    progress = Progress([("launch", 60.0), ("cell", 22.0), ("cell", 22.0)], say=unheard, now=clock)
    assert progress.left_s() == 104.0


def test_what_was_seen_of_a_kind_replaces_its_guess(clock: Clock) -> None:
    progress = Progress([("launch", 60.0), ("cell", 22.0), ("cell", 22.0), ("cell", 22.0)], say=unheard, now=clock)
    clock.now_s += 90.0
    progress.done("launch", "")
    assert progress.left_s() == 66.0  # a launch tells nothing about cells
    clock.now_s += 10.0
    progress.done("cell", "")
    assert progress.left_s() == 20.0
    clock.now_s += 30.0
    progress.done("cell", "")
    assert progress.left_s() == 20.0  # one is left, like the mean of 10 and 30


def test_each_kind_is_corrected_by_its_own_steps(clock: Clock) -> None:
    progress = Progress(
        [("1 user", 5.0), ("50 users", 5.0), ("1 user", 5.0), ("50 users", 5.0)], say=unheard, now=clock
    )
    clock.now_s += 3.0
    progress.done("1 user", "")
    clock.now_s += 40.0
    progress.done("50 users", "")
    assert progress.left_s() == 43.0


def test_each_step_is_said_with_the_time_left_and_the_last_without(clock: Clock) -> None:
    said: list[str] = []
    progress = Progress([("cell", 22.0)] * 2, say=said.append, now=clock)
    clock.now_s += 65.0
    progress.done("cell", "first")
    progress.note("by the way")
    clock.now_s += 1.0
    progress.done("cell", "second")
    assert said == ["first  [1 min 05 s left]", "by the way", "second"]


def test_time_that_is_not_the_users_is_called_by_its_name(clock: Clock) -> None:
    said = list[str]()
    progress = Progress([("a", 5.0), ("b", 65.0)], say=said.append, now=clock, of="of simulated time")
    progress.done("a", "first")
    assert said == ["first  [at least 1 min 05 s of simulated time left]"]


def test_cells_of_an_engine_that_is_slow_are_expected_to_be_slow_at_other_loads_too(clock: Clock) -> None:
    steps = [("launch vllm", 60.0), ("vllm 1 user", 5.0), ("vllm 50 users", 7.0), ("ollama 1 user", 5.0)]
    progress = Progress(steps, say=unheard, now=clock)
    clock.now_s += 30.0
    progress.done("launch vllm", "")
    assert progress.left_s() == 17.0, "a launch tells nothing of cells"
    clock.now_s += 20.0
    progress.done("vllm 1 user", "")
    assert progress.left_s() == 4 * 7.0 + 5.0, "nor one engine of the other"


def test_a_launch_of_one_engine_tells_nothing_of_anothers(clock: Clock) -> None:
    progress = Progress([("launch ollama", 5.0), ("launch vllm", 60.0)], say=unheard, now=clock)
    clock.now_s += 50.0
    progress.done("launch ollama", "")
    assert progress.left_s() == 60.0


def test_a_time_left_that_nothing_seen_supports_is_the_least(clock: Clock) -> None:
    said: list[str] = []
    progress = Progress([("vllm 1 user", 5.0), ("ollama 1 user", 5.0)] * 2, say=said.append, now=clock)
    for kind in ("vllm 1 user", "ollama 1 user", "vllm 1 user"):
        clock.now_s += 10.0
        progress.done(kind, "one")
    assert said == ["one  [at least 20 s left]", "one  [20 s left]", "one  [10 s left]"]


def test_a_step_that_was_added_later_is_paced_too(clock: Clock) -> None:
    progress = Progress([("vllm 1 user", 5.0)], say=unheard, now=clock)
    clock.now_s += 10.0
    progress.done("vllm 1 user", "")
    progress.add([("vllm 5 users", 6.0)])
    assert progress.left_s() == 12.0


def test_a_step_that_will_not_come_takes_no_time(clock: Clock) -> None:
    progress = Progress([("launch", 60.0), ("cell", 20.0), ("cell", 20.0)], say=unheard, now=clock)
    progress.skip("cell")
    assert progress.left_s() == 80.0
    progress.skip("unheard of")
    assert progress.left_s() == 80.0


def test_a_step_that_was_not_planned_is_said_and_changes_no_other(clock: Clock) -> None:
    said: list[str] = []
    progress = Progress([("cell", 20.0)], say=said.append, now=clock)
    clock.now_s += 500.0
    progress.done("surprise", "it came")
    assert said == ["it came  [at least 20 s left]"]
