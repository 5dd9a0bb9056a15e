"""A whole cell as `harness bench --json` gives it, against what the server really did."""

import json
import subprocess
import sys
from itertools import pairwise
from statistics import median

import pytest

from tests.accuracy.truth import BOUNDS, ROOT, reference, times

SCENARIO = """
name = "cell"
title = "streams of known timing"
[workload]
prompt_words = 8
output_tokens = 25
is_streamed = true
[load]
users = [20]
requests_per_user = 4
min_s = 2
max_s = 30
warmup_max_s = 20
"""


def test_the_figures_of_a_cell_are_what_the_server_did(tmp_path):
    """Server and client agree on every latency, and the rate is the one that the timetable gives."""
    scenario = tmp_path / "cell.toml"
    scenario.write_text(SCENARIO)
    with reference() as (_, url):
        words = ["bench", "--url", url, "--api", "openai", "--model", "reference", "--scenario", str(scenario)]
        words += ["--repeats", "1"]
        done = subprocess.run(
            [sys.executable, "-m", "harness", *words, "--results", str(tmp_path / "results"), "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        did = [one for one in times(url) if one.tokens == 25]
    assert done.returncode == 0, done.stderr
    [cell] = json.loads(done.stdout)["cells"]
    assert cell["state"] == "MEASURED", cell["reasons"]
    assert cell["output_tokens_mean"] == 25
    e2e_s = [one.end_s - one.received_s for one in did]
    truth_s = {
        "ttft_s": median(one.chunks_s[0] - one.received_s for one in did),
        "itl_s": median(later - sooner for one in did for sooner, later in pairwise(one.chunks_s)),
        "tpot_s": median((one.end_s - one.chunks_s[0]) / 24 for one in did),
        "e2e_s": median(e2e_s),
    }
    near_s = dict.fromkeys(truth_s, BOUNDS.gap_median_s) | dict.fromkeys(("ttft_s", "e2e_s"), BOUNDS.median_s)
    for name, expected_s in truth_s.items():
        estimate = cell["metrics"][name]["p50"]
        assert estimate["value"] == pytest.approx(expected_s, abs=near_s[name]), name
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    # Users are always at work but for the moment between an answer and the next question.
    assert cell["metrics"]["output_tok_s"]["value"] == pytest.approx(20 * 25 / median(e2e_s), rel=0.05)
    assert cell["in_flight_mean"] == pytest.approx(20, rel=0.05)
