"""The proxy benchmark's arithmetic, its cores and its bars; expected values are worked out by hand."""

import importlib
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(autouse=True)
def bench_folder(monkeypatch):
    """The benchmark is a script: its folder is in the path only while it runs."""
    monkeypatch.syspath_prepend(str(BENCH))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("benchproxy", "proxy_bench")]:
        del sys.modules[name]


def module(name):
    return importlib.import_module(name)


def rows(target, scenario="steady", **columns):
    """A row a round."""
    rounds = len(next(iter(columns.values())))
    base = {"scenario": scenario, "target": target, "failures": {}, "client_busy": 0.1, "mock_busy": 0.1}
    return [
        {**base, "foreign_cores": 0.0, "round": i, **{name: values[i] for name, values in columns.items()}}
        for i in range(rounds)
    ]


def quiet(target, *, cpu, late, first, rate, rounds=5):
    names = ("cpu_us_per_token", "token_p50_ms", "token_p95_ms", "ttft_p50_ms", "tok_s")
    values = (cpu, late, late, first, rate)
    return rows(target, **{name: [value] * rounds for name, value in zip(names, values, strict=True)})


def judged(measured, memory=(), *, peers=(), cores=4):
    found = module("benchproxy.report").bars(
        measured, list(memory), peers=list(peers), cores=cores, workers=None, offered_tok_s=5000
    )
    return {bar.name: bar for bar in found}


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 3), (1, 5), (0.95, 4.8)])
def test_a_quantile_lies_between_neighbours(share, expected):
    assert module("benchproxy.figures").quantile([5, 1, 4, 2, 3], share) == pytest.approx(expected)


def test_one_value_is_every_quantile():
    assert module("benchproxy.figures").quantile([7.0], 0.99) == 7.0


def test_rounds_without_a_value_are_left_out():
    found = module("benchproxy.figures").over_rounds([1.0, None, 3.0])
    assert (found.value, found.n) == (2.0, 2)


def test_no_value_at_all_is_no_estimate():
    assert module("benchproxy.figures").over_rounds([None, None]) is None


def test_the_interval_of_five_rounds_reaches_from_the_lowest_to_the_highest():
    found = module("benchproxy.figures").over_rounds([1.0, 2.0, 3.0, 4.0, 50.0])
    assert (found.low, found.value, found.high) == (1.0, 3.0, 50.0)


def test_differences_are_taken_within_a_round_so_that_drift_cancels():
    figures = module("benchproxy.figures")
    found = figures.paired([11.0, 21.0, 31.0], [10.0, 20.0, 30.0], figures.added)
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


def test_a_round_that_one_side_lacks_is_no_pair():
    figures = module("benchproxy.figures")
    assert figures.paired([2.0, 9.0], [1.0, None], figures.ratio).n == 1


def test_loss_is_the_share_that_did_not_arrive():
    assert module("benchproxy.figures").loss(4950.0, 5000.0) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1, 2, "MET"), (1, 3, "MET"), (2, 4, "UNDECIDED"), (3, 4, "UNDECIDED"), (4, 5, "MISSED")],
)
def test_an_interval_that_holds_the_limit_decides_nothing(low, high, expected):
    figures = module("benchproxy.figures")
    assert figures.verdict(figures.Estimate((low + high) / 2, low, high, 5), 3) == expected


def test_without_a_value_nothing_is_decided():
    assert module("benchproxy.figures").verdict(None, 3) == "UNDECIDED"


def test_the_slope_of_a_line_is_its_slope_whatever_one_outlier_says():
    points = [(float(x), 2.0 * x + 5) for x in range(20)]
    points[7] = (7.0, 1000.0)
    assert module("benchproxy.figures").slope(points).value == pytest.approx(2.0)


def test_a_flat_line_has_an_interval_that_holds_zero():
    found = module("benchproxy.figures").slope([(float(x), x % 3) for x in range(20)])
    assert found.low <= 0 <= found.high


def test_few_points_have_no_slope():
    assert module("benchproxy.figures").slope([(0.0, 1.0), (1.0, 2.0)]) is None


def test_each_target_is_first_once_in_as_many_rounds_as_there_are_targets():
    rotated = module("benchproxy.figures").rotated
    assert {rotated("abc", number)[0] for number in range(3)} == {"a", "b", "c"}
    assert sorted(rotated("abc", 2)) == ["a", "b", "c"]


# ---------------------------------------------------------------- cores


@pytest.mark.parametrize(("count", "workers"), [(4, 0), (5, 0), (6, 3), (7, 4), (16, 4)])
def test_from_four_cores_on_proxy_mock_and_client_have_one_each(count, workers):
    cores = module("benchproxy.machine").shared_out(list(range(count)))
    assert len({*cores.proxy, *cores.mock, *cores.client, *cores.rest}) == 4
    assert len(cores.workers) == workers
    assert not {*cores.workers} & {*cores.mock, *cores.client, *cores.rest}


def test_of_two_cores_the_proxy_has_one():
    cores = module("benchproxy.machine").shared_out([0, 1])
    assert cores.mock == cores.client != cores.proxy
    assert "share" in cores.note


# ---------------------------------------------------------------- bars


def test_bars_that_are_kept_are_met():
    measured = [
        *quiet("direct", cpu=None, late=0.1, first=20, rate=4700),
        *quiet("ours", cpu=30, late=0.2, first=21, rate=4699),
        *quiet("peer", cpu=90, late=5, first=60, rate=3000),
    ]
    found = judged(measured, peers=["peer"])
    assert found["CPU per token"].verdict == "MET"
    assert (found["CPU per token / best peer's"].verdict, found["CPU per token / best peer's"].note) == (
        "MET",
        "best: peer",
    )
    assert found["added token latency p50"].verdict == "MET"
    assert found["added TTFT p50"].verdict == "MET"
    assert found["throughput loss at 5,000 tok/s"].verdict == "MET"
    assert found["throughput loss at 15,000 tok/s, workers"].verdict == "UNDECIDED"


def test_bars_that_are_broken_on_a_quiet_machine_are_missed():
    measured = [
        *quiet("direct", cpu=None, late=0.1, first=20, rate=4700),
        *quiet("ours", cpu=80, late=9, first=90, rate=4000),
        *quiet("peer", cpu=90, late=5, first=60, rate=3000),
    ]
    verdicts = {name: bar.verdict for name, bar in judged(measured, peers=["peer"]).items()}
    assert list(verdicts.values()).count("MISSED") == 6


def test_what_a_bare_relay_breaks_too_is_not_held_against_us():
    measured = [
        *quiet("direct", cpu=None, late=0.1, first=20, rate=4700),
        *quiet("ours", cpu=30, late=9, first=21, rate=4700),
        *quiet("floor", cpu=20, late=8, first=20, rate=4700),
    ]
    bar = judged(measured)["added token latency p95"]
    assert bar.verdict == "UNDECIDED"
    assert "bare relay" in bar.note


def test_a_latency_among_busy_neighbours_is_not_held_against_us():
    measured = [
        *quiet("direct", cpu=None, late=0.1, first=20, rate=4700),
        *[{**row, "foreign_cores": 0.8} for row in quiet("ours", cpu=30, late=9, first=21, rate=4700)],
    ]
    bar = judged(measured)["added token latency p95"]
    assert (bar.verdict, bar.note) == ("UNDECIDED", "other programs took 0.80 cores")


def test_cheap_tokens_of_a_proxy_that_lagged_prove_nothing():
    measured = [
        *quiet("direct", cpu=None, late=0.1, first=20, rate=4700),
        *quiet("ours", cpu=20, late=0.1, first=20, rate=2000),
    ]
    bar = judged(measured)["CPU per token"]
    assert bar.verdict == "UNDECIDED"
    assert "57% of the load was not carried" in bar.note


def test_four_rounds_decide_nothing():
    measured = [
        *quiet("direct", cpu=None, late=0.1, first=20, rate=4700, rounds=4),
        *quiet("ours", cpu=20, late=0.1, first=20, rate=4700, rounds=4),
    ]
    assert {bar.verdict for bar in judged(measured).values()} == {"UNDECIDED"}


def test_without_peers_nobody_is_beaten():
    measured = [
        *quiet("direct", cpu=None, late=0.1, first=20, rate=4700),
        *quiet("ours", cpu=30, late=0.1, first=20, rate=4700),
    ]
    assert judged(measured)["CPU per token / best peer's"].verdict == "UNDECIDED"


def readings(sizes, failures=None):
    return [
        {"target": "ours", "requests": 500 * (i + 1), "rss_mib": size, "failures": failures or {}}
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([50 + min(i, 8) for i in range(20)], "MET"),  # grows to its working size, then not any more
        ([50 + 0.5 * i for i in range(20)], "MISSED"),
        ([50.0] * 3, "UNDECIDED"),
    ],
)
def test_memory_is_flat_where_its_last_half_is(sizes, expected):
    bars = judged([], readings(sizes))
    assert next(bar.verdict for name, bar in bars.items() if name.startswith("memory")) == expected


def test_growth_of_a_straight_line_is_what_it_grew_over_the_last_half():
    grown = module("benchproxy.report").growth_mib(readings([float(i) for i in range(20)]))
    assert grown == pytest.approx(10.0)


def test_memory_of_requests_that_failed_says_nothing():
    bars = judged([], readings([50.0] * 20, {"status 500": 3}))
    assert next(bar.verdict for name, bar in bars.items() if name.startswith("memory")) == "UNDECIDED"


# ---------------------------------------------------------------- mock and command line


def test_an_event_is_one_http_chunk_of_the_length_it_names():
    size, _, rest = module("benchproxy.mock").events(b'{"a":1}').partition(b"\r\n")
    assert rest == b'data: {"a":1}\n\n\r\n'
    assert int(size, 16) == len(rest) - 2


def test_an_unknown_scenario_is_refused_with_the_list(capsys):
    with pytest.raises(SystemExit):
        module("proxy_bench").arguments(["--only", "stedy"])
    assert "unknown scenario: stedy; there are steady, burst" in capsys.readouterr().err
