from hypothesis import given
from hypothesis import strategies as st

from scenarios.prompts import WORDS, prompt

numbers = st.integers(min_value=0, max_value=10**6)
places = st.tuples(numbers, numbers, numbers)


def test_the_same_place_gets_the_same_prompt_in_every_process_and_version():
    """Both sides of a comparison must be asked the same, and a run must be repeatable later."""
    assert prompt(1, 0, 0, 4) == (
        "816ff463a750 Write an endless story in every detail with all of these words: captain above echo crowd"
    )


@given(st.sets(places, min_size=2, max_size=50))
def test_no_two_requests_begin_alike(places):
    """A prefix cache works in blocks of 16 tokens, so the first words must tell prompts apart."""
    assert len({prompt(*place, 20).split()[0] for place in places}) == len(places)


def test_neighbours_are_told_apart_although_their_digits_run_together():
    assert prompt(1, 2, 34, 5) != prompt(1, 23, 4, 5) != prompt(12, 3, 4, 5)


@given(places, st.integers(min_value=0, max_value=400))
def test_the_unique_part_has_as_many_words_as_asked_for(place, words):
    drawn = prompt(*place, words).partition(": ")[2].split()
    assert len(drawn) == words
    assert set(drawn) <= set(WORDS)


@given(places)
def test_a_prompt_is_plain_ascii_on_one_line(place):
    text = prompt(*place, 30)
    assert text.isascii()
    assert text.isprintable()


def test_the_words_are_many_and_differ():
    assert len(WORDS) == len(set(WORDS)) > 200
