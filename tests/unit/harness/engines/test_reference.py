import asyncio
import math
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.reference import command, pace, spelling
from harness.engines.reference.plan import Fault, When, timetable
from harness.wire import http, ticker


def plan(*flags):
    return command.plan(command.parser().parse_args(flags))


# ---------------------------------------------------------------- when


@given(tokens=st.integers(1, 300), size=st.integers(1, 20))
def test_a_timetable_holds_every_token_once_and_in_order(tokens, size):
    steps = list(timetable(plan(f"--tokens-per-chunk={size}"), start_s=5.0, tokens=tokens))
    assert sum(step.tokens for step in steps) == sum(len(step.text.split()) for step in steps) == tokens
    assert all(step.tokens == size for step in steps[:-1])
    assert [step.due_s for step in steps] == sorted(step.due_s for step in steps)
    assert steps[0].due_s == pytest.approx(5.2)


def test_the_token_rate_is_the_same_however_many_a_chunk_carries():
    single = list(timetable(plan(), start_s=0.0, tokens=40))
    fours = list(timetable(plan("--tokens-per-chunk=4"), start_s=0.0, tokens=40))
    assert [step.due_s for step in fours] == pytest.approx([step.due_s for step in single[::4]])


@pytest.mark.parametrize(
    "timer",
    [
        pytest.param(ticker.TimerFd, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux's")),
        ticker.LoopTimer,
    ],
)
def test_an_alarm_goes_off_at_its_moment_and_not_before(timer):
    async def rung_s(wait_s):
        rung = asyncio.get_running_loop().create_future()
        alarm = timer(asyncio.get_running_loop(), lambda: rung.set_result(time.perf_counter()))
        alarm.set(time.perf_counter() + 60)  # is replaced
        due_s = time.perf_counter() + wait_s
        alarm.set(due_s)
        return await rung - due_s

    for wait_s in (0.02, -1.0):
        assert asyncio.run(asyncio.wait_for(rung_s(wait_s), 5)) > -0.001


def test_answers_go_on_in_the_order_in_which_they_are_due():
    seen = []

    def answer(name, *waits_s):
        for wait_s in waits_s:
            yield start_s + wait_s
            seen.append(name)

    async def run():
        ended = asyncio.Semaphore(0)
        ticking = ticker.Ticker(asyncio.get_running_loop())
        ticking.run(answer("slow", 0.06), ended.release)
        ticking.run(answer("fast", 0.02, 0.04), ended.release)
        ticking.run(answer("never", math.inf), ended.release)
        await ended.acquire()
        await ended.acquire()

    start_s = time.perf_counter()
    asyncio.run(asyncio.wait_for(run(), 5))
    assert seen == ["fast", "fast", "slow"]


def test_a_slot_goes_to_who_waits_longest():
    begun, slots = [], pace.Slots(2)
    for name in "abcd":
        slots.enter(lambda name=name: begun.append(name))
    assert begun == ["a", "b"]
    slots.leave()
    assert begun == ["a", "b", "c"]
    for _ in range(3):
        slots.leave()
    slots.enter(lambda: begun.append("e"))
    assert begun == ["a", "b", "c", "d", "e"]


def test_without_a_capacity_nobody_waits():
    begun, slots = [], pace.Slots(None)
    for name in range(1000):
        slots.enter(lambda name=name: begun.append(name))
    assert len(begun) == 1000


# ---------------------------------------------------------------- how long, and what goes wrong


def test_an_answer_is_as_long_as_it_may_be_unless_told_otherwise():
    assert plan("--tokens=7").length(None, prompt="a") == (7, "stop")
    assert plan("--tokens=7").length(5, prompt="a") == (5, "length")
    assert plan("--tokens=7", "--ignore-max-tokens").length(5, prompt="a") == (7, "stop")


def test_spread_lengths_lie_evenly_between_their_bounds_and_are_the_same_for_the_same_prompt():
    spread = plan("--length-spread=0.5")
    lengths = [spread.length(100, prompt=str(n))[0] for n in range(2000)]
    assert lengths == [spread.length(100, prompt=str(n))[0] for n in range(2000)]
    assert min(lengths) == 50
    assert max(lengths) == 100
    assert sum(lengths) / len(lengths) == pytest.approx(75, abs=1.5)
    assert lengths != [plan("--length-spread=0.5", "--seed=1").length(100, prompt=str(n))[0] for n in range(2000)]
    assert plan("--length-spread=0.9").length(1, prompt="a") == (1, "stop")


def test_chances_of_faults_add_up_and_no_request_has_two():
    faulty = plan("--drop=0.1", "--stall=0.2")
    found = [faulty.fault(number=n, prompt=str(n)) for n in range(5000)]
    assert found.count(Fault.DROP) == pytest.approx(500, abs=100)
    assert found.count(Fault.STALL) == pytest.approx(1000, abs=130)
    assert set(found) == {None, Fault.DROP, Fault.STALL}


def test_the_same_requests_are_hit_in_whichever_order_they_come():
    faulty = plan("--garbage=0.5", "--seed=3")
    assert [faulty.fault(number=n, prompt=str(n)) for n in range(99)] == [
        faulty.fault(number=99 - n, prompt=str(n)) for n in range(99)
    ]


def test_a_fault_after_some_requests_befalls_all_that_follow():
    faulty = plan("--http-503=after:3")
    assert faulty.faults == {Fault.HTTP_503: When(after=3)}
    assert [faulty.fault(number=n, prompt="a") for n in range(1, 6)] == [None] * 3 + [Fault.HTTP_503] * 2


@pytest.mark.parametrize("flag", ["--drop=0", "--drop=1.5", "--drop=after:x", "--length-spread=1", "--tokens=0"])
def test_a_flag_without_sense_is_refused(flag, capsys):
    with pytest.raises(SystemExit):
        plan(flag)
    assert flag.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(("tokens", "flags", "place"), [(10, (), 5), (1, (), 1), (10, ("--fault-at-token=30",), 10)])
def test_a_fault_strikes_within_the_answer(tokens, flags, place):
    assert plan(*flags).fault_place(tokens) == place


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("text", ["a café here", "plain"])
def test_the_halves_of_a_chunk_are_the_chunk(text):
    first, last = spelling.halves(text.encode())
    assert first + last == text.encode()
    assert first
    assert last


def test_a_split_chunk_is_cut_inside_a_character():
    first, _ = spelling.halves("a café here".encode())
    with pytest.raises(UnicodeDecodeError):
        first.decode()


@given(data=st.data())
def test_requests_are_the_same_however_their_bytes_arrive(data):
    sent = (
        b"POST /api/chat?x=1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /times HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    buffer, calls = bytearray(), []
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        buffer += sent[start:end]
        while (call := http.taken(buffer)) is not None:
            calls.append(call)
    assert [(call.method, call.path, call.body, call.is_kept_alive) for call in calls] == [
        ("POST", "/api/chat", b"hello", True),
        ("GET", "/times", b"", False),
    ]


@pytest.mark.parametrize(
    "sent", [b"hello\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"x" * 100_000], ids=["no", "x", "long"]
)
def test_what_is_not_http_is_refused(sent):
    with pytest.raises(http.NotHttp):
        http.taken(bytearray(sent))


@pytest.mark.parametrize(
    ("payload", "limit"),
    [
        ({"messages": [{"content": "a b"}], "max_tokens": 9}, 9),
        ({"messages": [{"content": [{"type": "text", "text": "a b"}]}], "max_completion_tokens": 9}, 9),
        ({"messages": [{"content": "a b"}], "options": {"num_predict": 9}}, 9),
        ({"prompt": "a b", "options": {"num_predict": -1}}, None),
        ({"prompt": "a b"}, None),
    ],
)
def test_the_limit_of_a_request_is_found_in_either_api(payload, limit):
    request = spelling.asked(payload, streams_by_default=True)
    assert (request.max_tokens, request.prompt_tokens, request.prompt) == (limit, 2, "a b")


def test_each_api_streams_by_its_own_default():
    assert spelling.asked({"prompt": "a"}, streams_by_default=True).is_streamed is True
    assert spelling.asked({"prompt": "a", "stream": False}, streams_by_default=True).is_streamed is False
    assert spelling.asked({"messages": []}, streams_by_default=False).is_streamed is False
