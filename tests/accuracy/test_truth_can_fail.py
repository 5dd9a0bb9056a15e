"""The assertions of `truth` on records that are falsified: each kind of lie must be found."""

import msgspec
import pytest

from harness.records import RequestRecord
from tests.accuracy.truth import (
    ITL_S,
    TOKENS,
    Pair,
    Sent,
    assert_counts,
    assert_near,
    assert_nothing_is_seen_before_it_was_done,
)

REQUESTS = 40


def honest_pairs():
    """Requests that both sides agree on: each chunk is seen between 0.25 and 2 ms after it was sent."""
    found = []
    for number in range(REQUESTS):
        received_s = 10.0 + number
        did = [received_s + 0.2 + n * ITL_S for n in range(TOKENS)]
        late_s = [0.00025 + 0.00005 * ((number + n) % 35) for n in range(TOKENS + 1)]
        seen = RequestRecord(
            user=0,
            index=number,
            is_warmup=False,
            sent_s=received_s - 0.0003,
            end_s=did[-1] + 0.0001 + late_s[-1],
            chunks_s=tuple(at + late for at, late in zip(did, late_s, strict=False)),
            prompt_tokens=9,
            output_tokens=TOKENS,
        )
        sent = Sent("", received_s=received_s, prompt_tokens=9, tokens=TOKENS, chunks_s=did, end_s=did[-1] + 0.0001)
        found.append(Pair(seen, sent))
    return found


def falsified(lie):
    """All pairs with another record; what the server did stays as it is."""
    return [Pair(msgspec.structs.replace(pair.seen, **lie(pair.seen)), pair.did) for pair in honest_pairs()]


def assert_all(found):
    assert_counts(found)
    assert_nothing_is_seen_before_it_was_done(found)
    assert_near(found)


def test_the_assertions_hold_for_honest_records():
    assert_all(honest_pairs())


@pytest.mark.parametrize(
    "lie",
    [
        {"output_tokens": 24},
        {"output_tokens": None},
        {"prompt_tokens": 8},
        {"error": "it broke"},
    ],
)
def test_a_wrong_count_is_found(lie):
    with pytest.raises(AssertionError):
        assert_counts(falsified(lambda _: lie))


@pytest.mark.parametrize("at", [0, 12, 24])
def test_a_lost_chunk_is_found(at):
    with pytest.raises(AssertionError):
        assert_counts(falsified(lambda seen: {"chunks_s": (*seen.chunks_s[:at], *seen.chunks_s[at + 1 :])}))


def test_a_chunk_too_many_is_found():
    with pytest.raises(AssertionError):
        assert_counts(falsified(lambda seen: {"chunks_s": (seen.chunks_s[0], *seen.chunks_s)}))


@pytest.mark.parametrize(
    "lie",
    [
        lambda seen: {"chunks_s": tuple(at - 0.005 for at in seen.chunks_s)},
        lambda seen: {"chunks_s": (*seen.chunks_s[:-1], seen.chunks_s[-1] - 0.005)},
        lambda seen: {"sent_s": seen.sent_s + 0.001},
        lambda seen: {"end_s": seen.end_s - 0.005},
    ],
    ids=["all", "last", "sent", "end"],
)
def test_what_is_seen_too_early_is_found(lie):
    """A single token in 1,000 is enough."""
    with pytest.raises(AssertionError):
        assert_nothing_is_seen_before_it_was_done([*honest_pairs(), falsified(lie)[-1]])


def later(seen, by_s):
    """Everything is noted `by_s` late."""
    return {"chunks_s": tuple(at + by_s for at in seen.chunks_s), "end_s": seen.end_s + by_s}


def bunched(seen, size=4):
    """Lines come out when the buffer is full, as from `iter_lines`."""
    count = len(seen.chunks_s)
    return {"chunks_s": tuple(seen.chunks_s[min(n // size * size + size, count) - 1] for n in range(count))}


LATE = {
    "everything 5 ms late": lambda seen: later(seen, 0.005),
    "a clock that starts 5 ms too soon": lambda seen: {"sent_s": seen.sent_s - 0.005},
    "the first token 5 ms late": lambda seen: {"chunks_s": (seen.chunks_s[0] + 0.005, *seen.chunks_s[1:])},
    "the end 5 ms late": lambda seen: {"end_s": seen.end_s + 0.005},
    "lines in bunches": bunched,
    "lines in pairs": lambda seen: bunched(seen, 2),
    "the role taken for a token": lambda seen: {"chunks_s": (seen.sent_s + 0.002, *seen.chunks_s[1:])},
    "three requests of five 20 ms late": lambda seen: later(seen, 0.020 * (seen.index % 5 < 3)),
    "one request of twelve 100 ms late": lambda seen: later(seen, 0.100 * (seen.index % 12 == 0)),
    "a stretched clock": lambda seen: {
        "chunks_s": tuple(seen.sent_s + 1.15 * (at - seen.sent_s) for at in seen.chunks_s),
        "end_s": seen.sent_s + 1.15 * (seen.end_s - seen.sent_s),
    },
}


@pytest.mark.parametrize("lie", LATE.values(), ids=LATE.keys())
def test_a_biased_client_is_found(lie):
    with pytest.raises(AssertionError):
        assert_near(falsified(lie))
