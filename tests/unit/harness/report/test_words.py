"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import Estimate
from harness.report import words


def made(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, confidence=0.95, n=9, unit="")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.37249, "0.372"),
        (3.4249, "3.42"),
        (9.996, "10.0"),
        (34.25, "34.2"),
        (999.6, "1,000"),
        (17_873.0, "17,900"),
        (2_345_678.0, "2,350,000"),
        (0.00004567, "0.0000457"),
        (-3.456, "−3.46"),
    ],
)
def test_a_number_has_three_significant_digits(value, text):
    assert words.number(value) == text


def test_bounds_have_the_decimals_of_their_value():
    assert str(words.ratio(made(3.4249, 3.1, 3.8149))) == "3.42× (3.10–3.81)"
    assert str(words.ratio(made(0.3721, 0.3611, 1.2))) == "0.372× (0.361–1.200)"
    assert str(words.estimate("output_tok_s", made(17_873, 17_449, 18_251))) == "17,900 tok/s (17,400–18,300)"


def test_bounds_have_the_unit_of_their_value():
    assert str(words.estimate("e2e_s.p50", made(0.9, 0.8, 1.2))) == "900 ms (800–1,200)"
    assert str(words.estimate("e2e_s.p50", made(1.1, 0.8, 1.2))) == "1.10 s (0.80–1.20)"


def test_a_bound_that_is_not_zero_is_not_printed_as_zero():
    assert str(words.ratio(made(2.5, 0.001, 900))) == "2.50× (<0.01–900.00)"
    assert words.fixed(-0.0001, 2) == ">−0.01"
    assert str(words.ratio(made(2.5, 0.0, 5.0))) == "2.50× (0.00–5.00)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.0004567, "0.457 ms"),
        (0.0125, "12.5 ms"),
        (0.412, "412 ms"),
        (0.9996, "1.00 s"),
        (7.57, "7.57 s"),
    ],
)
def test_times_are_in_ms_below_a_second_and_in_s_above(value, text):
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.412, "412 ms"),
        (9.5, "9.50 s"),
        (45.2, "45 s"),
        (59.7, "1 min"),
        (725, "12 min 5 s"),
        (10_920, "3 h 2 min"),
        (7200, "2 h"),
    ],
)
def test_a_duration_is_told_in_two_units_at_most(value, text):
    assert words.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (17_873, "17.9k tok/s"),
        (557.1, "557 tok/s"),
        (999.7, "1.00k tok/s"),
        (1_543_714_304, "1.54G tok/s"),
        (0, "0 tok/s"),
    ],
)
def test_a_large_number_gets_a_prefix(value, text):
    assert words.si(value, "tok/s") == text


def test_memory_is_in_binary_units():
    assert words.gib(24 * 2**30) == "24.0 GiB"
    assert words.gib(300 * 2**20) == "300 MiB"


def test_what_is_not_finite_is_said_and_not_printed_as_a_number():
    assert words.number(math.inf) == "not finite"
    assert words.number(math.nan) == "not finite"


def test_a_missing_estimate_is_a_dash_with_a_footnote_and_never_zero():
    shown = words.estimate("ttft_s.p95", None)
    assert (shown.text, shown.mark) == ("–", words.TOO_FEW)
    assert words.footnotes([shown.mark]) == ("–† too few values for an interval",)
    assert words.measure("output_tok_s", None) == "–"
    assert words.ratio(None) == words.Shown(text="–")


def test_a_ratio_that_was_chosen_is_printed_as_it_was_written():
    assert (words.times(2.0), words.times(1.5), words.times(None)) == ("2×", "1.5×", "–")


def test_metrics_have_a_short_and_a_long_name_and_unknown_ones_keep_theirs():
    assert words.short_metric("ttft_s.p50") == "TTFT p50"
    assert words.long_metric("e2e_s.p50") == "Whole answer, median"
    assert words.long_metric("e2e_s.p95") == "Whole answer, p95"
    assert words.short_metric("output_tok_s") == "tok/s"
    assert words.short_metric("joules.p50") == words.long_metric("joules.p50") == "joules.p50"


def test_the_geometric_mean_of_a_doubling_and_a_halving_is_one():
    assert words.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert words.geometric_mean([0.0, 5.0]) == 0.0


def test_confidence_is_taken_from_the_estimates():
    assert words.confidence([made(1, 1, 1), None]) == " with 95% confidence"
    assert words.confidence([None]) == ""


@pytest.mark.parametrize(
    ("given_words", "shown"),
    [
        (["--api-key", "hunter2", "--port", "1"], ["--api-key", "[hidden]", "--port", "1"]),
        (["--hf-token=abc"], ["--hf-token=[hidden]"]),
        (["HF_TOKEN=abc", "vllm"], ["HF_TOKEN=[hidden]", "vllm"]),
        (["--max-num-batched-tokens", "16384"], ["--max-num-batched-tokens", "16384"]),
        (["--api-key-file", "F"], ["--api-key-file", "F"]),
    ],
)
def test_secrets_of_a_command_line_are_hidden(given_words, shown):
    assert words.without_secrets(given_words) == shown


def test_flags_become_the_words_that_vllm_takes():
    flags = {"max-num-seqs": 128, "enforce-eager": True, "enable-prefix-caching": False, "hf-token": "abc"}
    assert words.flag_words(flags) == [
        *("--max-num-seqs", "128"),
        "--enforce-eager",
        "--no-enable-prefix-caching",
        *("--hf-token", "[hidden]"),
    ]


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_three_digits_are_never_more_than_half_a_percent_off(value):
    printed = float(words.number(value).replace(",", ""))
    assert printed == pytest.approx(value, rel=0.005)


@given(st.floats(min_value=1e-6, max_value=1e6), st.floats(min_value=0, max_value=0.9))
def test_printed_bounds_keep_the_order_low_value_high(value, spread):
    shown = words.ratio(made(value, value * (1 - spread), value * (1 + spread)))
    low, _, high = shown.interval.replace(",", "").replace("<", "").partition("–")
    assert float(low) <= float(shown.text.replace(",", "").rstrip("×")) <= float(high)
