"""What open loops and replays send, and when."""

import itertools

import pytest

from harness.records import OpenLoop, TraceLine
from scenarios.schedule import Ask, Visit, single_visits, trace_visits, warmup_s


def line(at_s, session=None, words=5, tokens=6):
    return TraceLine(at_s=at_s, prompt_words=words, output_tokens=tokens, session=session)


def test_the_warmup_of_an_open_loop_is_the_same_load_before_it():
    load = OpenLoop(rates_per_s=(2.0,), arrivals="constant", duration_s=3.0, warmup_s=1.0)
    found = list(single_visits(load, rate_per_s=2.0, seed=1, part=0, parts=1))
    assert [visit.asks[0].at_s for visit in found] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert [visit.user for visit in found] == list(range(8))
    assert {visit.asks[0][1:] for visit in found} == {(None, None)}


def test_a_ramp_has_no_warmup():
    load = OpenLoop(rates_per_s=(2.0,), arrivals="ramp", duration_s=10.0, warmup_s=5.0)
    assert warmup_s(load) == 0
    assert len(list(single_visits(load, rate_per_s=2.0, seed=1, part=0, parts=1))) == 10


def test_the_visits_of_all_processes_are_those_of_one():
    load = OpenLoop(rates_per_s=(20.0,), duration_s=5.0)
    one = list(single_visits(load, rate_per_s=20.0, seed=1, part=0, parts=1))
    parts = [list(single_visits(load, rate_per_s=20.0, seed=1, part=part, parts=3)) for part in range(3)]
    assert sorted(itertools.chain(*parts), key=lambda visit: visit.user) == one


def test_lines_of_one_session_are_one_conversation_in_the_order_of_their_times():
    found = trace_visits([line(3.0, "b"), line(1.0), line(2.0, "a", words=9), line(0.5, "b"), line(1.0)], speed=1.0)
    assert found == [
        Visit(0, (Ask(0.5, 5, 6), Ask(3.0, 5, 6))),
        Visit(1, (Ask(1.0, 5, 6),)),
        Visit(2, (Ask(1.0, 5, 6),)),
        Visit(3, (Ask(2.0, 9, 6),)),
    ]


def test_turns_of_one_moment_keep_the_order_of_the_file():
    [visit] = trace_visits([line(1.0, "a", words=9), line(1.0, "a", words=2)], speed=1.0)
    assert [ask.words for ask in visit.asks] == [9, 2]


@pytest.mark.parametrize(("speed", "at_s"), [(1.0, 4.0), (2.0, 2.0), (0.5, 8.0)])
def test_twice_the_speed_is_half_the_time(speed, at_s):
    [visit] = trace_visits([line(4.0)], speed=speed)
    assert visit.asks == (Ask(at_s, 5, 6),)
