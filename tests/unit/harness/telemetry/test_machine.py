"""The machine as a run remembers it, with and without a card."""

import psutil

from harness.telemetry import Gpu, host, strangers_note
from tests.fakes.nvml import NOT_SUPPORTED, Card, FakeNvml


def card_of(card: Card) -> Gpu:
    return Gpu({}, nvml=FakeNvml(cards=[card]))


def test_the_host_tells_of_the_card_and_what_it_may_draw() -> None:
    seen = host(find_gpu=lambda: card_of(Card()))
    assert (seen.gpu, seen.gpu_driver) == ("NVIDIA GeForce RTX 4090", "580.159.04")
    assert (seen.gpu_memory_bytes, seen.gpu_power_limit_w) == (24 * 2**30, 450.0)
    assert seen.gpu_default_power_limit_w == 450.0


def test_a_host_without_a_card_has_none_of_its_figures() -> None:
    seen = host(find_gpu=lambda: None)
    assert (seen.gpu, seen.gpu_driver, seen.gpu_memory_bytes, seen.gpu_power_limit_w) == (None, None, None, None)
    assert seen.cores == psutil.cpu_count()
    assert seen.cpu
    assert seen.memory_bytes > 0


def test_strangers_are_named_with_what_is_in_use() -> None:
    note = strangers_note(find_gpu=lambda: card_of(Card(memory_used=3 * 2**30, computing=(41, 17))))
    assert "process ids 17, 41, 3.0 GiB in use" in note


def test_strangers_are_named_where_the_card_does_not_tell_its_memory() -> None:
    note = strangers_note(find_gpu=lambda: card_of(Card(memory_used=NOT_SUPPORTED, computing=(17,))))
    assert "(process ids 17)" in note


def test_a_card_that_nobody_computes_on_and_no_card_are_worth_no_note() -> None:
    assert strangers_note(find_gpu=lambda: card_of(Card(drawing=(1500,)))) == ""
    assert strangers_note(find_gpu=lambda: None) == ""
