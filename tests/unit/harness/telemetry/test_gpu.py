"""What NVML tells, in our units, and what it does not tell."""

import pynvml
import pytest

from harness.records import PowerCap
from harness.telemetry import Gpu
from harness.telemetry.gpu import throttle_words
from tests.fakes.nvml import LOST, NOT_SUPPORTED, UNKNOWN_QUESTION, Card, FakeNvml

FIRST = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
SECOND = "GPU-1b3e5a77-0000-4106-c12f-20bd9faed9f6"
SLICE = "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"


def gpu(*cards: Card, visible: str | None = None, slices: dict[str, Card] | None = None) -> Gpu:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return Gpu(environ, nvml=FakeNvml(cards=list(cards), slices=slices or {}))


# ---------------------------------------------------------------- one card


def test_all_that_a_card_tells_is_read_in_our_units() -> None:
    assert gpu(Card(reasons=0x08)).reading() == {
        "gpu_memory_bytes": 9 * 2**30,
        "gpu_power_w": 312.5,
        "gpu_energy_j": 7_000_000.0,
        "gpu_temperature_c": 61.0,
        "gpu_clock_hz": 2.52e9,
        "gpu_memory_clock_hz": 10.501e9,
        "gpu_utilization_ratio": 0.97,
        "gpu_throttle": ("hardware slowdown",),
        "gpu_pcie": "gen4 x16",
    }


@pytest.mark.parametrize(
    ("untold", "field"),
    [
        ("memory_used", "gpu_memory_bytes"),
        ("power_mw", "gpu_power_w"),
        ("energy_mj", "gpu_energy_j"),
        ("temperature_c", "gpu_temperature_c"),
        ("sm_mhz", "gpu_clock_hz"),
        ("memory_mhz", "gpu_memory_clock_hz"),
        ("busy_percent", "gpu_utilization_ratio"),
        ("generation", "gpu_pcie"),
        ("lanes", "gpu_pcie"),
    ],
)
def test_a_field_that_the_card_does_not_tell_is_none_and_the_others_stay(untold: str, field: str) -> None:
    whole, seen = gpu(Card()).reading(), gpu(Card(**{untold: NOT_SUPPORTED})).reading()
    assert seen == whole | {field: None}


def test_of_a_lost_card_nothing_is_known() -> None:
    nvml = FakeNvml(cards=[Card()])
    with Gpu({}, nvml=nvml) as lost:
        nvml.lose()
        assert lost.reading() == dict.fromkeys(lost.reading()) | {"gpu_throttle": ()}
        assert lost.process_ids() == ()
        assert lost.memory_used_bytes() is None
        assert lost.foreign_pids([1]) is None


def test_the_facts_of_a_card_are_read_in_our_units() -> None:
    card = gpu(Card())
    assert (card.name, card.driver) == ("NVIDIA GeForce RTX 4090", "580.159.04")
    assert card.memory_bytes == 24 * 2**30
    assert card.power_limit_w == 450.0
    assert gpu(Card(power_limit_mw=300_000)).default_power_limit_w == 450.0


def test_what_the_driver_keeps_for_itself_is_nobodys() -> None:
    """An idle H200 has 615 MiB in use by NVML's older answer, which passed for a stranger on it."""
    idle = {"memory_used": 0, "memory_reserved": 644_939_776}
    assert gpu(Card(**idle)).memory_used_bytes() == 0
    assert gpu(Card(memory_used=2**30, memory_reserved=UNKNOWN_QUESTION)).memory_used_bytes() == 2**30


def test_a_card_is_told_from_others_without_its_serial_id() -> None:
    one, other = gpu(Card(uuid="GPU-1")), gpu(Card(uuid="GPU-2"))
    assert one.id != other.id
    assert one.id == gpu(Card(uuid="GPU-1")).id
    assert "GPU" not in one.id


def test_facts_that_a_card_does_not_tell_are_none() -> None:
    card = gpu(Card(memory_total=NOT_SUPPORTED, power_limit_mw=NOT_SUPPORTED, usual_limit_mw=NOT_SUPPORTED))
    assert card.default_power_limit_w is None
    assert card.memory_bytes is None
    assert card.power_limit_w is None


# ---------------------------------------------------------------- why clocks are held down


def test_being_idle_is_no_reason() -> None:
    assert throttle_words(0x01) == ()
    assert throttle_words(0x01 | 0x20) == ("software thermal slowdown",)


def test_a_reason_that_is_new_to_us_keeps_its_number() -> None:
    assert throttle_words(0x8000) == ("reason 0x8000",)


@pytest.mark.parametrize(
    ("bit", "word"),
    [
        ("ApplicationsClocksSetting", "applications clocks setting"),
        ("SwPowerCap", "software power cap"),
        ("HwSlowdown", "hardware slowdown"),
        ("SyncBoost", "sync boost"),
        ("SwThermalSlowdown", "software thermal slowdown"),
        ("HwThermalSlowdown", "hardware thermal slowdown"),
        ("HwPowerBrakeSlowdown", "hardware power brake slowdown"),
        ("DisplayClockSetting", "display clock setting"),
    ],
)
def test_each_bit_has_the_name_that_nvml_gives_it(bit: str, word: str) -> None:
    assert throttle_words(getattr(pynvml, f"nvmlClocksEventReason{bit}")) == (word,)


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        ({}, PowerCap.USUAL),
        ({"power_limit_mw": 449_999}, PowerCap.USUAL),
        ({"power_limit_mw": 300_000}, PowerCap.LOWERED),
        ({"usual_limit_mw": NOT_SUPPORTED}, PowerCap.UNKNOWN),
        ({"power_limit_mw": NOT_SUPPORTED}, PowerCap.UNKNOWN),
    ],
)
def test_a_card_at_its_usual_power_limit_is_told_from_one_that_was_given_a_lower_one(
    limits: dict[str, object], word: PowerCap
) -> None:
    assert gpu(Card(reasons=0x04, **limits)).reading()["gpu_throttle"] == (word.value,)


def test_a_driver_that_knows_the_older_question_only_is_asked_that_one() -> None:
    card = Card(reasons=UNKNOWN_QUESTION, older_reasons=0x40)
    assert gpu(card).reading()["gpu_throttle"] == ("hardware thermal slowdown",)


# ---------------------------------------------------------------- programs on the card


def test_programs_that_compute_or_draw_besides_the_engine_are_foreign() -> None:
    card = gpu(Card(computing=(100, 101, 900), drawing=(1500,)))
    assert card.foreign_pids([99, 100, 101]) == (900, 1500)


def test_a_card_that_only_the_engine_uses_has_no_foreign_program() -> None:
    assert gpu(Card(computing=(100,))).foreign_pids([100]) == ()


def test_process_ids_of_another_namespace_call_nobody_a_stranger_and_nobody_alone() -> None:
    """In a container NVML may give the host's ids: the engine's own would be taken for a stranger's."""
    assert gpu(Card(computing=(231_977,))).foreign_pids([100]) is None


def test_where_nvml_shows_no_program_or_refuses_to_it_cannot_be_told_who_is_there() -> None:
    """In a container the list may be empty although the engine computes: that is not "nobody else"."""
    assert gpu(Card()).foreign_pids([100]) is None
    assert gpu(Card(computing=NOT_SUPPORTED)).foreign_pids([100]) is None
    assert gpu(Card(computing=(100,)), Card(computing=NOT_SUPPORTED)).foreign_pids([100]) is None


def test_a_program_without_an_id_beside_the_engine_is_told_as_zero() -> None:
    assert gpu(Card(computing=(0, 100))).foreign_pids([100]) == (0,)


def test_strangers_before_anything_is_started_are_the_computing_ones() -> None:
    assert gpu(Card(computing=(7, 3), drawing=(1500,)), Card(computing=(3,))).process_ids() == (3, 7)


# ---------------------------------------------------------------- which cards


def used(card: Gpu) -> int | None:
    """Which cards count, told by the memory in use on them: 1, 2, 4 for the three of `three`."""
    return card.memory_used_bytes()


def three() -> tuple[Card, Card, Card]:
    return (
        Card(uuid=FIRST, memory_used=1),
        Card(uuid=SECOND, memory_used=2),
        Card(uuid=SECOND.replace("1b3e", "2222"), memory_used=4),
    )


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, 7),
        ("0", 1),
        ("1", 2),
        ("1,2", 6),
        (" 2 , 0 ", 5),
        (SECOND, 2),
        ("GPU-1b3e", 2),
        (f"{SECOND},{FIRST}", 3),
        ("1,-1,0", 2),
        ("1,9,0", 2),
    ],
)
def test_cuda_visible_devices_names_the_cards_that_count(visible: str | None, expected: int) -> None:
    assert used(gpu(*three(), visible=visible)) == expected


@pytest.mark.parametrize("visible", ["", "-1", "GPU-ffff", "7", SLICE])
def test_where_it_allows_no_card_there_is_none(visible: str) -> None:
    nvml = FakeNvml(cards=list(three()))
    with pytest.raises(pynvml.NVMLError):
        Gpu({"CUDA_VISIBLE_DEVICES": visible}, nvml=nvml)
    assert nvml.open_times == 0


def test_a_mig_slice_is_a_card_of_its_own() -> None:
    part = Card(memory_used=64, power_mw=NOT_SUPPORTED)
    seen = gpu(*three(), visible=SLICE, slices={SLICE: part})
    assert used(seen) == 64
    assert seen.reading()["gpu_power_w"] is None


def test_a_lost_card_does_not_hide_the_others() -> None:
    assert used(gpu(Card(name=LOST), Card(memory_used=2))) == 2


def test_nvml_is_shut_down_as_often_as_it_was_opened() -> None:
    nvml = FakeNvml(cards=[Card()])
    with Gpu({}, nvml=nvml):
        assert nvml.open_times == 1
    assert nvml.open_times == 0


# ---------------------------------------------------------------- several cards


def test_of_several_cards_amounts_are_added_and_the_worst_of_the_rest_counts() -> None:
    near = Card(reasons=0x04)
    far = Card(
        memory_used=2**30,
        power_mw=100_000,
        energy_mj=1_000,
        temperature_c=83,
        sm_mhz=1800,
        memory_mhz=9000,
        busy_percent=40,
        reasons=0x24,
        generation=3,
        lanes=16,
    )
    assert gpu(near, far).reading() == {
        "gpu_memory_bytes": 10 * 2**30,
        "gpu_power_w": 412.5,
        "gpu_energy_j": 7_000_001.0,
        "gpu_temperature_c": 83.0,
        "gpu_clock_hz": 1.8e9,
        "gpu_memory_clock_hz": 9e9,
        "gpu_utilization_ratio": 0.97,
        "gpu_throttle": (PowerCap.USUAL.value, "software thermal slowdown"),
        "gpu_pcie": "gen3 x16",
    }


def test_the_slowest_link_is_the_one_of_fewest_bytes_per_second() -> None:
    assert gpu(Card(generation=5, lanes=4), Card(generation=4, lanes=16)).reading()["gpu_pcie"] == "gen5 x4"


def test_a_sum_without_one_of_its_parts_is_not_known() -> None:
    assert gpu(Card(), Card(energy_mj=NOT_SUPPORTED)).reading()["gpu_energy_j"] is None


def test_cards_that_the_engine_is_not_on_do_not_count() -> None:
    cards = gpu(Card(memory_used=1, computing=(100,)), Card(memory_used=2, computing=(55,)))
    cards.keep_cards_of([100])
    assert used(cards) == 1
    assert cards.foreign_pids([100]) == ()


def test_where_the_engine_is_seen_on_no_card_all_count() -> None:
    cards = gpu(Card(memory_used=1), Card(memory_used=2, computing=(55,)))
    cards.keep_cards_of([100])
    assert used(cards) == 3
