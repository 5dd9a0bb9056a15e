"""A cell in virtual time: the records that Locust would have written, and what the timing says they must hold."""

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from harness import store
from harness.records import ClientHealth, ClosedLoop, Level, OpenLoop, Replay, RequestRecord
from harness.simulation import Crashed, Machine, drive
from harness.simulation.asked import QUESTION_TOKENS, SYSTEM_TOKENS, TOKENS_PER_WORD, Talk, drawn_count
from harness.simulation.scheduler import Prefill, Sequence, Step
from harness.simulation.timing import HTTP_IN_S, HTTP_OUT_S, TOKENIZE_S
from harness.stats import summary
from scenarios import prompts, talk


@pytest.fixture
def server(even):
    def launch(gpu="rtx4090", model="qwen2.5-1.5b", *, made=None, **flags):
        given = {name.replace("_", "-"): value for name, value in flags.items()}
        return Machine(even(gpu, model, **(made or {}))).launch(given, precision="bf16")

    return launch


def measured(result) -> list[RequestRecord]:
    return [record for record in result.records if not record.is_warmup]


def test_the_records_lie_where_the_job_says_and_are_those_of_the_result(server, job):
    one = job(users=3)
    found = drive(server(), one)
    assert store.lines(Path(one.requests_path), RequestRecord) == found.records
    assert msgspec.json.decode(Path(one.client_path).read_bytes(), type=ClientHealth) == found.health
    assert found.health.requests == len(found.records)
    assert [record.end_s for record in found.records] == sorted(record.end_s for record in found.records)


def test_one_users_times_are_those_of_the_steps(server, job):
    running = server()
    found = drive(running, job(words=100, tokens=10))
    record = measured(found)[-1]
    prompt = SYSTEM_TOKENS + QUESTION_TOKENS + round(TOKENS_PER_WORD * 100)
    assert record.prompt_tokens == prompt
    assert record.output_tokens == len(record.chunks_s) == 10
    # the system message is shorter than a block, so nothing of the prompt is in the cache
    whole = Sequence("x", (), answer="y", output_tokens=10)
    first_s = running.pace.step_s(Step(0, 0, [Prefill(whole, prompt, 0, True)], []))
    assert record.ttft_s == pytest.approx(HTTP_IN_S + TOKENIZE_S * prompt + first_s + HTTP_OUT_S, abs=2e-6)
    for number, (one_s, next_s) in enumerate(pairwise(record.chunks_s)):
        expected_s = running.pace.step_s(Step(1, prompt + number + 1, [], []))
        assert next_s - one_s == pytest.approx(expected_s, abs=2e-6)
    assert record.end_s == record.chunks_s[-1]


def test_the_same_seed_gives_the_same_records_and_another_one_does_not(server, job):
    noisy = {"step_noise_ratio": 0.05, "cell_noise_ratio": 0.02}
    one, same, other = (
        drive(server(made={**noisy, "seed": seed}), job(users=4, name=name)).records
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert one == same
    assert one != other


def test_a_closed_loop_makes_a_valid_cell(server, job):
    closed = ClosedLoop(users=(20,), requests_per_user=3, min_s=5.0, max_s=60.0)
    found = drive(server(), job(users=20, load=closed, words=192, tokens=64))
    figures = summary.figures(found.records, load=closed, level=Level(users=20), health=found.health)
    assert figures.state == "MEASURED", figures.reasons
    assert figures.reasons == ()
    assert figures.in_flight_mean > 19
    assert figures.window_s > 4.5
    assert figures.ttft_s["p50"] is not None
    assert any(record.is_warmup for record in found.records)


def test_users_that_fill_the_server_wait_in_its_queue(server, job):
    alone = measured(drive(server(max_num_seqs=4), job(users=4)))
    queued = measured(drive(server(max_num_seqs=4), job(users=16, name="many")))
    assert min(record.ttft_s for record in queued) > 2 * max(record.ttft_s for record in alone)


def test_a_shared_document_is_computed_once(server, job):
    running = server()
    drive(running, job(users=5, shared_prefix_words=500, words=10))
    cache = running.scheduler
    assert cache.hit_tokens / cache.queried_tokens > 0.85
    without = server(enable_prefix_caching=False)
    drive(without, job(users=5, shared_prefix_words=500, words=10, name="without"))
    assert without.scheduler.hit_tokens == 0


def test_a_conversation_grows_and_its_beginning_is_in_the_cache(server, job):
    running = server()
    found = drive(running, job(users=2, turns=4, words=20, tokens=30))
    by_turn = {record.turn: record.prompt_tokens for record in measured(found)}
    asked = QUESTION_TOKENS + round(TOKENS_PER_WORD * 20)
    assert [by_turn[turn] for turn in range(4)] == [SYSTEM_TOKENS + asked + turn * (asked + 30) for turn in range(4)]
    assert running.scheduler.hit_tokens / running.scheduler.queried_tokens > 0.4


def test_a_stream_interval_gives_fewer_pieces_of_the_same_answer(server, job):
    found = measured(drive(server(stream_interval=8), job(tokens=20)))
    assert {(len(record.chunks_s), record.output_tokens) for record in found} == {(4, 20)}


def test_an_answer_in_one_piece_has_no_chunks(server, job):
    found = measured(drive(server(), job(is_streamed=False)))
    assert {record.chunks_s for record in found} == {()}
    assert {record.output_tokens for record in found} == {20}


def test_a_prompt_over_the_context_is_refused_like_vllm_does(server, job):
    closed = ClosedLoop(users=(1,), requests_per_user=2, min_s=0.5, max_s=5.0, warmup_max_s=2.0)
    found = drive(server(max_model_len=64), job(load=closed, words=100))
    assert {record.status for record in found.records} == {400}
    assert all("maximum context length is 64 tokens" in record.error for record in found.records)
    assert all(record.output_tokens is None for record in found.records)


def test_who_waits_too_long_gives_up(server, job):
    hasty = ClosedLoop(users=(8,), requests_per_user=2, min_s=1.0, max_s=5.0, warmup_max_s=1.0, request_timeout_s=0.5)
    running = server(max_num_seqs=2)
    found = drive(running, job(users=8, load=hasty, tokens=100))
    late = [record for record in found.records if record.error is not None]
    assert late
    assert {record.error for record in late} == {"no end after 0.5 s"}
    assert all(record.end_s - record.sent_s == pytest.approx(0.5) for record in late)
    assert running.scheduler.pool.held == 0


def test_an_open_loop_sends_when_requests_are_due(server, job):
    load = OpenLoop(rates_per_s=(5.0,), duration_s=20.0, warmup_s=2.0)
    found = drive(server(), job(load=load, rate_per_s=5.0))
    assert len(found.records) == pytest.approx(110, abs=40)
    assert all(record.sent_s == record.due_s for record in found.records)
    figures = summary.figures(found.records, load=load, level=Level(rate_per_s=5.0), health=found.health)
    assert figures.state == "MEASURED", figures.reasons
    assert figures.window_s == pytest.approx(20.0)


def test_constant_and_rising_arrivals_come_as_they_should(server, job):
    constant = OpenLoop(rates_per_s=(2.0,), arrivals="constant", duration_s=5.0, warmup_s=0.0)
    due = [record.due_s for record in drive(server(), job(load=constant, rate_per_s=2.0)).records]
    assert [round(later - sooner, 6) for sooner, later in pairwise(due)] == [0.5] * 9
    ramp = OpenLoop(rates_per_s=(4.0,), arrivals="ramp", duration_s=10.0)
    due = [record.due_s for record in drive(server(), job(load=ramp, rate_per_s=4.0, name="ramp")).records]
    assert len(due) == 20
    assert due[1] - due[0] > due[-1] - due[-2]


def test_an_open_loop_over_its_limit_does_not_send(server, job):
    load = OpenLoop(rates_per_s=(50.0,), duration_s=5.0, warmup_s=0.0, max_in_flight=3)
    found = drive(server("rtx4060"), job(load=load, rate_per_s=50.0, tokens=100))
    unsent = [record for record in found.records if record.error is not None]
    assert unsent
    assert {record.error for record in unsent} == {"not sent: 3 requests were under way"}
    assert found.health.requests == len(found.records)


def test_a_replay_keeps_the_moments_and_lengths_of_its_trace(server, job, tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"at_s": 0.0, "prompt_words": 10, "output_tokens": 5}\n'
        '{"at_s": 1.0, "prompt_words": 20, "output_tokens": 6, "session": "s"}\n'
        '{"at_s": 1.01, "prompt_words": 30, "output_tokens": 7, "session": "s"}\n'
    )
    found = drive(server(), job(load=Replay(trace=str(trace), speed=2.0)))
    records = sorted(found.records, key=lambda record: record.due_s)
    began_s = records[0].due_s
    assert [round(record.due_s - began_s, 6) for record in records] == [0.0, 0.5, 0.505]
    assert [record.output_tokens for record in records] == [5, 6, 7]
    assert [record.turn for record in records] == [0, 0, 1]
    assert records[2].sent_s >= records[1].end_s
    assert records[2].prompt_tokens > records[1].prompt_tokens


def test_records_before_a_crash_are_kept(server, job):
    one = job(users=30, words=400, tokens=200)
    running = server(gpu_memory_utilization=0.975, max_num_batched_tokens=8192)
    with pytest.raises(Crashed, match="CUDA out of memory"):
        drive(running, one)
    assert Path(one.requests_path).exists()


def test_the_cells_of_a_launch_follow_one_another_on_its_clock(server, job):
    running = server()
    first, second = drive(running, job(name="a")), drive(running, job(name="b", is_first=False, seed=8))
    assert second.records[0].sent_s >= first.health.ended_s
    assert second.health.is_steady is None
    assert first.health.is_steady is True


def test_users_begin_somewhere_on_their_way_as_those_of_locust_do(job):
    one = job(users=3, turns=3, words=8)
    drawn = [drawn_count(7, user, "turns", 3) for user in range(3)]
    assert drawn == [prompts.drawn_count(7, user, "turns", 3) for user in range(3)]
    ours, theirs = Talk(one, 0, turns=3, first_turns=2), talk.Talk(one, 0, turns=3, first_turns=2)
    for _ in range(7):
        asked, question = ours.question(), theirs.question()
        assert (asked.user, asked.index, asked.turn) == (question.user, question.index, question.turn)
        assert len(asked.segments) == len(question.messages)
        ours.answered(asked, is_ok=True)
        theirs.answered(question, "an answer")
