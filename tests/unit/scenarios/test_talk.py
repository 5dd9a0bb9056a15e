"""What is asked next."""

import pytest

from harness.records import ClosedLoop, LoadJob, Workload
from scenarios.prompts import SYSTEM, prompt, system
from scenarios.talk import Talk


def job(**of_workload):
    work = {"prompt_words": 3, "output_tokens": 7, "is_streamed": True} | of_workload
    return LoadJob(
        url="",
        api="openai",
        dialect="vllm",
        model="m",
        workload=Workload(**work),
        load=ClosedLoop(users=(1,), requests_per_user=1, min_s=0, max_s=1),
        users=1,
        repeat=1,
        seed=5,
        requests_path="",
        client_path="",
    )


def said(talk, *texts):
    """The questions, where each is answered with a text."""
    out = []
    for text in texts:
        out.append(talk.question())
        talk.answered(out[-1], text)
    return out


def roles(question):
    return [message["role"] for message in question.messages]


def test_single_questions_share_nothing_but_the_system_message():
    first, second = said(Talk(job(), 2), "a", "b")
    assert first.messages == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt(5, 2, 0, 3)}]
    assert second.messages[1]["content"] == prompt(5, 2, 1, 3)
    assert (first.index, second.index, second.turn, second.keeps_text) == (0, 1, 0, False)
    assert first.output_tokens == 7


def test_each_turn_says_again_all_that_was_said_before():
    first, second, third = said(Talk(job(), 2, turns=3), "Once", "upon", "a time")
    assert second.messages == [
        *first.messages,
        {"role": "assistant", "content": "Once"},
        {"role": "user", "content": prompt(5, 2, 1, 3)},
    ]
    assert third.messages[: len(second.messages)] == second.messages
    assert roles(third) == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [question.turn for question in (first, second, third)] == [0, 1, 2]
    assert [question.keeps_text for question in (first, second, third)] == [True, True, False]


def test_after_the_last_turn_a_new_conversation_begins():
    *_, last, new = said(Talk(job(), 2, turns=2), "a", "b", "c")
    assert (last.turn, new.turn, roles(new)) == (1, 0, ["system", "user"])
    assert new.index == 2


def test_a_failed_turn_ends_its_conversation():
    first, second, third = said(Talk(job(), 2, turns=3), "a", None, "c")
    assert [question.turn for question in (first, second, third)] == [0, 1, 0]
    assert roles(third) == ["system", "user"]


def test_the_first_conversation_may_be_shorter_than_those_that_follow():
    turns = [question.turn for question in said(Talk(job(), 2, turns=3, first_turns=1), *"abcde")]
    assert turns == [0, 0, 1, 2, 0]


def test_lengths_and_due_time_may_be_given():
    asked = Talk(job(), 2).question(words=9, output_tokens=4, due_s=3.5)
    assert asked.messages[-1]["content"] == prompt(5, 2, 0, 9)
    assert (asked.output_tokens, asked.due_s) == (4, 3.5)


def test_a_shared_prefix_is_the_same_for_all_and_the_unique_part_stands_behind_it():
    one, other = (Talk(job(shared_prefix_words=50), user).question() for user in (1, 2))
    assert one.messages[0] == other.messages[0] == {"role": "system", "content": system(5, shared_words=50)}
    assert one.messages[1] != other.messages[1]


@pytest.mark.parametrize("words", [1, 50])
def test_a_shared_prefix_has_as_many_words_and_is_another_one_in_every_cell(words):
    text = system(5, shared_words=words)
    assert len(text.partition(": ")[2].split()) == words
    assert text.startswith(SYSTEM)
    assert text.split()[5] != system(6, shared_words=words).split()[5]


def test_without_a_shared_prefix_the_system_message_is_short():
    assert system(5, shared_words=0) == SYSTEM
