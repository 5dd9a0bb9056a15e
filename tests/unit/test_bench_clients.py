"""The client benchmark's arithmetic and its bars; expected values are worked out by hand."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(autouse=True)
def bench_folder(monkeypatch):
    """The benchmark is a script: its folder is in the path only while it runs."""
    monkeypatch.syspath_prepend(str(BENCH))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("benchclients", "benchproxy")]:
        del sys.modules[name]


def module(name):
    return importlib.import_module(f"benchclients.{name}")


# ---------------------------------------------------------------- what the server did


def did(*streams):
    make = module("rounds").Did
    return [make(received_s=0.0, chunks_s=list(times), tokens=len(times), end_s=times[-1]) for times in streams]


@pytest.mark.parametrize(
    ("kind", "expected_ms"),
    [("each gap", 1000.0), ("mean gap of an answer", 1500.0), ("mean gap of an answer, by tokens", 1000.0)],
)
def test_the_servers_itl_is_taken_as_the_client_takes_its_own(kind, expected_ms):
    """A long answer with gaps of 1 s and a short one with gaps of 2 s."""
    assert module("rounds").gaps_ms(did([1, 2, 3, 4], [1, 3]), kind) == expected_ms


def meter(*readings):
    rounds = module("rounds")
    found = rounds.Meter.__new__(rounds.Meter)
    found._readings = [(at_s, used_s, rounds.machine.Busy(at_s, 2 * at_s, at_s)) for at_s, used_s in readings]
    return found


def test_the_cost_of_a_stretch_lies_between_readings():
    used = meter((0.0, 1.0), (2.0, 2.0), (4.0, 6.0))
    assert used.cpu_s(1.0, 3.0) == pytest.approx(2.5)
    assert used.cpu_s(-9.0, 99.0) == pytest.approx(5.0)


def test_others_took_what_is_not_ours():
    assert meter((0.0, 0.0), (2.0, 0.0), (4.0, 0.0)).foreign_cores(1.0, 5.0) == pytest.approx(1.0)


def test_a_bias_is_what_was_seen_less_what_was_done():
    tools, rounds = module("tools"), module("rounds")
    tool = tools.Tool("any", "1", "each gap", None, None, {})
    answers = did([0.2, 0.22, 0.24], [0.21, 0.23, 0.25])
    row = rounds.figures(tool, tools.Seen(ttft_ms=207.0, itl_ms=20.5, requests=2), answers, meter((0, 0), (1, 0.6)))
    assert row["ttft_bias_ms"] == pytest.approx(2.0)
    assert row["itl_bias_ms"] == pytest.approx(0.5)
    assert row["tokens"] == 6
    assert row["cpu_us_per_token"] == pytest.approx(0.25 * 0.6 / 6 * 1e6)


# ---------------------------------------------------------------- what clients are told, and tell


def test_every_client_is_given_the_same_load(tmp_path):
    tools = module("tools")
    load = tools.Load(users=50, requests=250, tokens=150, prompt_tokens=64)
    command = tools.ours().command(load, "http://127.0.0.1:1", tmp_path)
    text = (tmp_path / "scenario.toml").read_text()
    assert "users = [50]" in text
    assert "requests_per_user = 5" in text
    assert "output_tokens = 150" in text
    assert "warmup_max_s = 0" in text
    assert command[command.index("--url") + 1] == "http://127.0.0.1:1"


def test_a_client_that_is_not_installed_is_named_with_the_reason(tmp_path):
    (tmp_path / "aiperf").mkdir()
    (tmp_path / "aiperf" / "why-not.txt").write_text("cannot be installed: no network\n")
    found, missing = module("tools").tools(tmp_path, None)
    assert [tool.name for tool in found] == ["harness"]
    assert missing["aiperf"] == "cannot be installed: no network"
    assert "not installed in" in missing["guidellm"]
    assert "no interpreter with vLLM" in missing["vllm bench"]


def test_a_cell_of_ours_that_is_not_measured_has_no_figures(tmp_path):
    cell = {"state": "INVALID", "reasons": ["it was late"]}
    (tmp_path / "stdout").write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(ValueError, match="INVALID: it was late"):
        module("tools").ours().seen(tmp_path)


def test_the_tokenizer_is_one_that_transformers_can_read(tmp_path):
    folder = module("tools").tokenizer(tmp_path / "tokenizer")
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["<unk>"] == 0


# ---------------------------------------------------------------- bars


def rows(tool, *, ttft, itl, cpu, rounds=5, foreign=0.0):
    base = {"tool": tool, "users": 100, "foreign_cores": foreign}
    return [
        {**base, "round": number, "ttft_bias_ms": ttft, "itl_bias_ms": itl, "cpu_us_per_token": cpu}
        for number in range(rounds)
    ]


def judged(measured, rates=()):
    return {bar.name: bar for bar in module("report").bars(measured, list(rates))}


PEERS = [
    ("guidellm", {"ttft": 30.0, "itl": 0.05, "cpu": 200.0}),
    ("vllm bench", {"ttft": 2.5, "itl": -0.01, "cpu": 60.0}),
]


def beside_peers(foreign=0.0, **ours):
    return [
        *rows("harness", foreign=foreign, **ours),
        *(row for name, figures in PEERS for row in rows(name, foreign=foreign, **figures)),
    ]


def test_a_client_that_is_near_and_cheap_meets_every_bar():
    found = judged(beside_peers(ttft=0.7, itl=0.005, cpu=30.0))
    assert {bar.verdict for name, bar in found.items() if "15,000" not in name} == {"MET"}
    assert "best peer: vllm bench" in found["CPU per token / best peer's"].note


@pytest.mark.parametrize(
    ("ours", "bar"),
    [
        ({"ttft": -2.1, "itl": 0.0, "cpu": 30.0}, "TTFT p50 bias at 100 users"),
        ({"ttft": 0.7, "itl": -0.21, "cpu": 30.0}, "ITL p50 bias at 100 users"),
        ({"ttft": 2.6, "itl": 0.0, "cpu": 30.0}, "TTFT p50 bias less the best peer's"),
        ({"ttft": 0.7, "itl": 0.04, "cpu": 30.0}, "ITL p50 bias less the best peer's"),
        ({"ttft": 0.7, "itl": 0.0, "cpu": 61.0}, "CPU per token / best peer's"),
    ],
)
def test_each_bar_can_be_missed(ours, bar):
    assert judged(beside_peers(**ours))[bar].verdict == "MISSED"
    assert judged(beside_peers(foreign=0.5, **ours))[bar].verdict == "UNDECIDED"


def test_a_round_that_failed_counts_for_nobody():
    measured = [
        row for row in beside_peers(ttft=0.7, itl=0.0, cpu=30.0) if (row["tool"], row["round"]) != ("guidellm", 2)
    ]
    assert judged(measured)["CPU per token / best peer's"].verdict == "MET"


def test_without_peers_and_with_few_rounds_nothing_is_decided():
    alone = judged(rows("harness", ttft=0.7, itl=0.0, cpu=30.0))
    assert alone["TTFT p50 bias less the best peer's"].verdict == "UNDECIDED"
    few = judged(rows("harness", ttft=0.7, itl=0.0, cpu=30.0, rounds=3))
    assert few["TTFT p50 bias at 100 users"].verdict == "UNDECIDED"


def rates(share, *, cpu=0.4, foreign=0.0, runs=5):
    row = {"share": share, "share_of_sent": 1.0, "cpu_ratio": cpu, "foreign_cores": foreign}
    return [row for _ in range(runs)]


@pytest.mark.parametrize(("share", "verdict"), [(0.999, "MET"), (0.985, "MISSED")])
def test_the_share_of_the_rate_has_a_floor(share, verdict):
    found = judged([], rates(share))
    assert found["share of 15,000 tok/s that 4 processes take in"].verdict == verdict
    assert found["share of 15,000 tok/s that 4 processes take in"].found.startswith(f"{share * 100:.2f}")


def test_on_a_busy_machine_a_rate_that_is_missed_decides_nothing():
    assert judged([], rates(0.9, foreign=0.5))["share of 15,000 tok/s that 4 processes take in"].verdict == "UNDECIDED"


def test_a_process_near_a_full_core_is_the_limit():
    assert judged([], rates(1.0, cpu=0.9))["CPU of the busiest of them"].verdict == "MISSED"
