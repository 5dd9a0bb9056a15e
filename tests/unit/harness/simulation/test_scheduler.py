"""The scheduler's promises under any load, and in cases small enough to follow by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.simulation.blocks import BlockPool, Segment, block_keys
from harness.simulation.scheduler import Limits, Scheduler, Sequence, Step


def limits(**more: int | bool) -> Limits:
    return Limits(**{"batched_tokens": 64, "sequences": 4, "context_tokens": 256, "blocks": 16, **more})


def sequence(name: object, prompt: int, output: int, *, said: tuple[Segment, ...] = ()) -> Sequence:
    return Sequence(name, (*said, Segment(name, prompt)), answer=(name, "answer"), output_tokens=output)


def worked_off(scheduler: Scheduler, *, most_steps: int = 100_000) -> tuple[list[Step], list[Sequence]]:
    """All steps until nobody wants anything, and the sequences in the order in which they ended."""
    steps: list[Step] = []
    ended: list[Sequence] = []
    while not scheduler.is_idle:
        assert len(steps) < most_steps, "the scheduler is stuck"
        step = scheduler.schedule()
        assert step.tokens, "a step that does nothing never ends"
        ended += scheduler.commit(step)
        steps.append(step)
    return steps, ended


def token_steps(one: Sequence) -> list[int]:
    """The steps that gave its tokens."""
    return [number for start, end in one.spans for number in range(start, end)]


# ---------------------------------------------------------------- any load

ASKS = st.tuples(st.integers(1, 80), st.integers(1, 60), st.integers(0, 30), st.sampled_from([0, 16, 40]))
LOADS = st.lists(ASKS, min_size=1, max_size=25)
"""(tokens of the prompt, of the answer, when it comes, tokens of a document that others may ask about too)"""


def asked(number: int, prompt: int, output: int, shared: int) -> Sequence:
    return sequence(number, prompt, output, said=(Segment(("document", shared), shared),) if shared else ())


LIMITS = st.builds(
    limits,
    batched_tokens=st.integers(8, 200),
    sequences=st.integers(1, 8),
    context_tokens=st.just(180),
    blocks=st.integers(12, 40),
    long_prefill_tokens=st.sampled_from([0, 16, 50]),
    has_prefix_cache=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(rules=LIMITS, load=LOADS)
def test_whatever_comes_every_promise_of_the_scheduler_is_kept(rules, load):
    scheduler = Scheduler(rules)
    arrivals = sorted(
        (
            (at, number, asked(number, prompt, output, shared))
            for number, (prompt, output, at, shared) in enumerate(load)
        ),
        key=lambda arrival: arrival[:2],
    )
    everyone = [one for _, _, one in arrivals]
    ended, let_in, guard = [], [], 0
    while arrivals or not scheduler.is_idle:
        guard += 1
        assert guard < 50_000, "the scheduler is stuck"
        while arrivals and arrivals[0][0] <= guard:
            scheduler.add(arrivals.pop(0)[2])
        if scheduler.is_idle:
            continue
        step = scheduler.schedule()
        let_in += [piece.sequence for piece in step.prefills if piece.sequence not in let_in]
        assert 0 < step.tokens <= max(rules.batched_tokens, rules.sequences)
        assert len(scheduler.running) <= rules.sequences
        assert 0 <= scheduler.pool.held <= rules.blocks
        assert scheduler.pool.kept <= scheduler.pool.free
        assert all(piece.tokens <= (rules.long_prefill_tokens or math.inf) for piece in step.prefills)
        ended += scheduler.commit(step)
    assert sorted(one.name for one in ended) == sorted(one.name for one in everyone)
    assert let_in == everyone, "first come, first served"
    assert scheduler.pool.held == 0
    for one in everyone:
        given_in = token_steps(one)
        assert len(given_in) == one.output_tokens == one.generated
        assert given_in == sorted(set(given_in)), "one token a step"
        assert 1 <= len(one.spans) <= 1 + one.preemptions


@settings(max_examples=60, deadline=None)
@given(load=LOADS)
def test_a_preempted_request_ends_all_the_same(load):
    scheduler = Scheduler(limits(blocks=12, sequences=8, batched_tokens=256, context_tokens=180))
    for number, (prompt, output, _, shared) in enumerate(load):
        scheduler.add(asked(number, prompt, output, shared))
    _, ended = worked_off(scheduler)
    assert len(ended) == len(load)
    assert scheduler.preemptions == sum(one.preemptions for one in ended)


# ---------------------------------------------------------------- by hand


def test_one_request_gets_its_first_token_with_its_prompt_and_one_in_each_step_after():
    scheduler = Scheduler(limits())
    one = sequence("a", 40, 5)
    scheduler.add(one)
    steps, ended = worked_off(scheduler)
    assert [step.tokens for step in steps] == [40, 1, 1, 1, 1]
    assert [step.context_tokens for step in steps] == [0, 41, 42, 43, 44]
    assert ended == [one]
    assert one.spans == [(0, 5)]


def test_a_prompt_over_the_budget_is_computed_in_pieces():
    scheduler = Scheduler(limits(batched_tokens=64, context_tokens=200))
    scheduler.add(sequence("a", 150, 1))
    steps, _ = worked_off(scheduler)
    assert [[piece.tokens for piece in step.prefills] for step in steps] == [[64], [64], [22]]


def test_decoding_comes_before_prompts_and_prompts_get_what_is_left():
    scheduler = Scheduler(limits(batched_tokens=64))
    scheduler.add(sequence("a", 10, 20))
    scheduler.commit(scheduler.schedule())
    scheduler.add(sequence("b", 100, 2))
    step = scheduler.schedule()
    assert (step.decoding, [piece.tokens for piece in step.prefills]) == (1, [63])


def test_a_long_prompt_gets_no_more_than_its_threshold_and_leaves_room_for_others():
    scheduler = Scheduler(limits(batched_tokens=64, long_prefill_tokens=20))
    scheduler.add(sequence("long", 100, 1))
    scheduler.add(sequence("short", 10, 1))
    assert [piece.tokens for piece in scheduler.schedule().prefills] == [20, 10]


def test_without_chunked_prefill_a_prompt_waits_for_a_step_that_holds_all_of_it():
    scheduler = Scheduler(limits(batched_tokens=64, is_chunked=False))
    scheduler.add(sequence("a", 40, 1))
    scheduler.add(sequence("b", 40, 1))
    steps, _ = worked_off(scheduler)
    assert [[piece.tokens for piece in step.prefills] for step in steps] == [[40], [40]]


def test_no_more_sequences_run_than_allowed():
    scheduler = Scheduler(limits(sequences=2))
    for name in "abc":
        scheduler.add(sequence(name, 4, 3))
    steps, ended = worked_off(scheduler)
    assert max(step.sampled for step in steps) == 2
    assert [one.name for one in ended] == ["a", "b", "c"]


def test_the_latest_is_preempted_when_blocks_run_out_and_is_computed_again():
    scheduler = Scheduler(limits(blocks=4, context_tokens=64, sequences=2, has_prefix_cache=False))
    first, second = sequence("first", 30, 20), sequence("second", 30, 20)
    scheduler.add(first)
    scheduler.add(second)
    steps, ended = worked_off(scheduler)
    assert [one for step in steps for one in step.preempted] == [second]
    assert ended == [first, second]
    assert len(second.spans) == 2
    again = [piece.tokens for step in steps for piece in step.prefills if piece.sequence is second]
    assert again == [30, 30 + second.spans[0][1] - second.spans[0][0]]


def test_what_does_not_fit_the_context_is_refused_in_vllms_words():
    scheduler = Scheduler(limits(context_tokens=64))
    assert scheduler.refusal(sequence("a", 60, 4)) is None
    told = scheduler.refusal(sequence("a", 60, 5))
    assert told is not None
    assert "maximum context length is 64 tokens" in told
    assert "for a total of 65 tokens" in told


def test_an_aborted_request_leaves_nothing_behind():
    scheduler = Scheduler(limits())
    gone, stays, waits = sequence("gone", 20, 10), sequence("stays", 20, 10), sequence("waits", 20, 10)
    scheduler.add(gone)
    scheduler.add(stays)
    scheduler.commit(scheduler.schedule())
    scheduler.commit(scheduler.schedule())
    scheduler.add(waits)
    scheduler.abort(waits)
    scheduler.abort(gone)
    _, ended = worked_off(scheduler)
    assert ended == [stays]
    assert scheduler.pool.held == 0


# ---------------------------------------------------------------- prefix cache


def test_a_shared_prefix_is_computed_once():
    scheduler = Scheduler(limits(batched_tokens=512))
    shared = (Segment("document", 64),)
    for name in "abc":
        scheduler.add(sequence(name, 10, 1, said=shared))
    pieces = scheduler.schedule().prefills
    assert [(piece.tokens, piece.context_tokens) for piece in pieces] == [(74, 0), (10, 64), (10, 64)]
    assert (scheduler.hit_tokens, scheduler.queried_tokens) == (128, 222)


def test_a_conversation_finds_all_that_was_said_but_its_last_partial_block():
    scheduler = Scheduler(limits(batched_tokens=512))
    first = sequence("q1", 40, 25)
    scheduler.add(first)
    worked_off(scheduler)
    said = (*first.segments, Segment(first.answer_name, 25))
    second = sequence("q2", 20, 1, said=said)
    scheduler.add(second)
    assert scheduler.schedule().prefills[0].context_tokens == 64  # of 64 computed: the 65th token never was
    assert second.cached_tokens == 64


def test_the_last_token_of_a_known_prompt_is_computed_again():
    scheduler = Scheduler(limits(batched_tokens=512))
    for _ in range(2):
        scheduler.add(sequence("same", 32, 1))
    assert [piece.tokens for piece in scheduler.schedule().prefills] == [32, 16]


def test_without_a_prefix_cache_nothing_is_found():
    scheduler = Scheduler(limits(batched_tokens=512, has_prefix_cache=False))
    for _ in range(2):
        scheduler.add(sequence("same", 32, 1))
    assert [piece.tokens for piece in scheduler.schedule().prefills] == [32, 32]


def test_a_full_pool_forgets_what_was_used_longest_ago():
    pool = BlockPool(3)
    for name in ("old", "new"):
        pool.take(1)
        pool.release(pool.keep(iter([(name, 0)])), blank=0)
    pool.take(2)
    assert pool.found(iter([("old", 0)])) == []
    assert pool.found(iter([("new", 0)])) == [("new", 0)]


@pytest.mark.parametrize(("blocks", "expected"), [(1, [("a", 0)]), (9, [("a", 0), ("b", 1)])])
def test_a_block_is_of_the_segment_that_its_last_token_is_of(blocks, expected):
    segments = [Segment("a", 20), Segment("b", 20)]
    assert list(block_keys(segments, block_tokens=16, blocks=blocks)) == expected
