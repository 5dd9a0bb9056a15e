"""Step times: below the data sheet's ceilings, and what each setting costs."""

import msgspec
import pytest

from harness import roofline
from harness.records import Flags, Simulation
from harness.simulation import timing as constants
from harness.simulation.blocks import Segment
from harness.simulation.scheduler import Prefill, Sequence, Step
from harness.simulation.settings import settings
from harness.simulation.timing import Timing, timing


def pace(made_of: Simulation, flags: Flags | None = None) -> Timing:
    made = settings(flags or {}, profile=made_of.profile, shape=made_of.shape, precision="bf16")
    found = timing(made, profile=made_of.profile, shape=made_of.shape)
    assert found is not None
    return found


def decode(users: int, context: int) -> Step:
    return Step(users, users * context, [], [])


def prompt(tokens: int) -> Step:
    one = Sequence("a", (Segment("a", tokens),), answer="b", output_tokens=9)
    return Step(0, 0, [Prefill(one, tokens, 0, True)], [])


def test_a_step_of_one_user_is_weights_and_cache_at_a_share_of_the_bandwidth_and_what_the_host_adds(even):
    made_of = even("rtx4090")
    shape, card = made_of.shape, made_of.profile
    # by hand: 1.5437e9 tied weights of 2 bytes, 28 layers of 2 heads of 128 numbers, 2 bytes each, key and value
    moved = 1_543_714_304 * 2 + 300 * 2 * 28 * 2 * 128 * 2 - 75_497_472
    card_s = moved / (1.008e12 * constants.BANDWIDTH_SHARE) + 28 * constants.LAYER_S
    each_s = constants.HOST_SEQUENCE_S * (1 + 256 * constants.SLOT_SHARE) + constants.CHUNK_S
    assert shape.parameters == 1_543_714_304
    assert card.cache_bytes == 75_497_472
    assert pace(made_of).step_s(decode(1, 300)) == pytest.approx(card_s + constants.HOST_STEP_S + each_s, rel=1e-9)


@pytest.mark.parametrize("gpu", ["h100", "rtx4060", "l4"])
@pytest.mark.parametrize("users", [1, 10, 100])
def test_no_step_is_faster_than_the_data_sheet_allows(even, gpu, users):
    made_of = even(gpu)
    at = roofline.roof(made_of.profile, made_of.shape, "bf16")
    assert at is not None
    assert pace(made_of).step_s(decode(users, 500)) > roofline.decode_step_s(at, users=users, context_tokens=500)


def test_a_long_prompt_takes_arithmetic_and_more_of_it_takes_longer(even):
    short, long = (pace(even("rtx4090")).step_s(prompt(tokens)) for tokens in (2000, 4000))
    assert 1.9 < long / short < 2.3


def test_a_batch_is_padded_to_the_next_captured_size(even):
    made_of = even("rtx4060", "llama-3.2-3b")
    slow = msgspec.structs.replace(pace(made_of), at=msgspec.structs.replace(pace(made_of).at, flop_s=1e12))
    assert slow.card_s(decode(97, 10)) == pytest.approx(slow.card_s(decode(104, 10)), rel=0.02)
    assert slow.card_s(decode(96, 10)) < 0.95 * slow.card_s(decode(97, 10))


def test_without_graphs_a_small_step_takes_as_long_as_its_kernels_take_to_start(even):
    made_of = even("h100")
    eager = pace(made_of, {"enforce-eager": True})
    assert eager.card_s(decode(1, 100)) == pytest.approx(28 * constants.LAYER_UNGRAPHED_S)
    assert pace(made_of).card_s(decode(1, 100)) < eager.card_s(decode(1, 100))


@pytest.mark.parametrize(
    ("flags", "is_faster"),
    [
        ({"kv-cache-dtype": "fp8"}, True),
        ({"quantization": "fp8"}, True),
        ({"stream-interval": 10}, True),
        ({"async-scheduling": False}, False),
        ({"no-async-scheduling": True}, False),
        ({"enforce-eager": True}, False),
    ],
)
def test_flags_cost_or_save_what_they_are_for(even, flags, is_faster):
    made_of = even("h100")
    step = decode(64, 500)
    assert (pace(made_of, flags).step_s(step) < pace(made_of).step_s(step)) is is_faster
    assert pace(made_of, flags).step_s(step) != pace(made_of).step_s(step)
