"""`harness capacity` against a server whose capacity is known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SLOTS = 3
SCENARIO = """
name = "short"
title = "short streams"
[workload]
prompt_words = 8
output_tokens = 20
is_streamed = true
[load]
users = [1]
requests_per_user = 3
min_s = 1
max_s = 60
warmup_max_s = 10
"""


def harness(*words: str, folder: Path) -> tuple[int, dict, str]:
    (folder / "short.toml").write_text(SCENARIO)
    argv = [sys.executable, "-m", "harness", "capacity", "--json", "--gpu", "cpu", "--results", str(folder / "results")]
    argv += ["--out", str(folder / "reports"), "--scenario", str(folder / "short.toml"), *words]
    done = subprocess.run(
        argv, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_server_of_three_slots_keeps_its_wait_up_to_three_users(tmp_path: Path) -> None:
    """One answer takes 0.45 s; with a fourth user one request in three, or each of them, waits for another's answer."""
    code, said, errors = harness(
        "--engine", "reference", "--flag", f"capacity={SLOTS}", "--flag", "ttft-s=0.15", "--flag", "itl-s=0.015",
        "--slo", "ttft:p90<260ms", "--to", "16", folder=tmp_path,
    )  # fmt: skip
    assert code == 0, errors
    found = said["capacity"]
    assert (found["level"], found["above"], found["is_resolved"]) == (SLOTS, SLOTS + 1, True)
    shares = [step["kept"] for step in found["steps"] if step["kept"]]  # a cell that does not count has none
    assert len(shares) >= 3
    assert all(share["low"] <= share["value"] <= share["high"] for share in shares)
    page = Path(said["report"]).read_text(encoding="utf-8")
    assert "3 users" in page
    assert "260 ms" in page


def test_a_limit_that_nothing_keeps_is_a_target_missed(tmp_path: Path) -> None:
    code, said, _ = harness(
        "--engine", "reference", "--flag", "ttft-s=0.2", "--slo", "ttft:p50<100ms", "--to", "4", folder=tmp_path
    )
    assert code == 10
    assert said["capacity"]["level"] is None
    assert said["capacity"]["above"] == 1
    assert "ttft:p50<100ms" in said["capacity"]["reason"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slo", "ttft:p95<0ms"], "needed"),
        (["--slo", "ttft:p95<1s", "--from", "4", "--to", "2"], "levels are over 0"),
        (["--slo", "ttft:p95<1s", "--from", "1.5"], "whole numbers"),
        (["--slo", "ttft:p95<1s", "--unit", "rate"], "is no load of requests per second"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    code, answer, _ = harness("--engine", "reference", *words, folder=tmp_path)
    assert code == 2
    assert said in answer["error"]["message"]
