"""The simulation's error on what was recorded of real engines."""

import pytest

from harness import bench
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    EngineFacts,
    Estimate,
    Host,
    Run,
    RunState,
    Scenario,
    Workload,
)
from harness.simulation.calibrate import (
    Accuracy,
    Point,
    PointError,
    accuracy,
    points_of_run,
    points_of_runs,
    recorded_points,
)
from harness.store import RESULTS_VERSION, RunFolder

GPU = "NVIDIA H100 80GB HBM3"
WORK = Workload(prompt_words=50, output_tokens=20, is_streamed=True)


def point(**more):
    return Point(
        **{
            "gpu": "h100",
            "model": "qwen2.5-1.5b",
            "precision": "bf16",
            "flags": {},
            "workload": WORK,
            "users": 1,
            "output_tok_s": 100.0,
            "source": "a run",
            **more,
        }
    )


def test_the_recorded_grid_is_the_one_that_was_measured():
    found = list(recorded_points())
    assert len(found) == 15
    assert {one.gpu for one in found} == {"h100"}
    tuned = [one.output_tok_s for one in found if one.flags.get("max-num-seqs") == 128]
    assert tuned == [358, 1523, 3462, 12237, 17873]


def test_the_simulation_is_as_near_to_the_recorded_grid_as_is_said_of_it():
    """What the README promises; a constant that spoils it must be seen."""
    found = accuracy(recorded_points(), shape_of=bench.shape_of)
    assert len(found.errors) == 15
    assert found.left_out == 0
    assert found.median_ratio < 0.07
    assert abs(found.worst.error_ratio) < 0.18


def test_the_simulation_ranks_the_recorded_settings_as_they_were_measured_at_a_hundred_users():
    found = accuracy((one for one in recorded_points() if one.users == 100), shape_of=bench.shape_of)
    ranked = sorted(found.errors, key=lambda one: one.simulated_tok_s)
    assert ranked == sorted(found.errors, key=lambda one: one.point.output_tok_s)


def test_the_error_is_told_with_its_median_and_its_worst():
    errors = tuple(
        PointError(point=point(users=users, flags={"max-num-seqs": users}), simulated_tok_s=tok_s)
        for users, tok_s in ((1, 101.0), (5, 97.0), (10, 80.0))
    )
    found = Accuracy(errors=errors)
    assert found.median_ratio == pytest.approx(0.03)
    assert found.worst.point.users == 10
    assert "on 3 recorded points" in found.text
    assert "within 3% (median)" in found.text
    assert "worst -20% (at 10 users with max-num-seqs 10)" in found.text
    assert "fitted" not in found.text
    fitted = PointError(point=point(is_fitted=True), simulated_tok_s=100.0)
    assert "four constants were fitted to them" in Accuracy(errors=(fitted,)).text
    assert "no recorded run" in Accuracy(errors=()).text


def test_points_that_cannot_be_simulated_are_counted_not_guessed():
    strange = [
        point(gpu="cpu"),
        point(model="not-in-the-registry"),
        point(flags={"speculative-config": "{}"}),
        point(gpu="no-such-card"),
    ]
    found = accuracy([*strange, point()], shape_of=bench.shape_of)
    assert (len(found.errors), found.left_out) == (1, 4)


# ---------------------------------------------------------------- runs


def measured_run(**more):
    load = ClosedLoop(users=(1, 5), requests_per_user=3, min_s=2.0, max_s=9.0)
    host = Host(cpu="a CPU", cores=2, memory_bytes=2**30, os="Linux", python="3.11", gpu=GPU)
    return Run(
        **{
            "version": RESULTS_VERSION,
            "id": "a-run",
            "command": "harness bench",
            "kind": "bench",
            "state": RunState.DONE,
            "started_utc": "2026-11-22T00:00:00+00:00",
            "harness_version": "0.1.0",
            "host": host,
            "gpu": "h100",
            "model": "qwen2.5-1.5b",
            "seed": 1,
            "scenarios": (Scenario(name="short", title="Short", workload=WORK, load=load),),
            "engines": (facts(),),
            **more,
        }
    )


def facts(engine="vllm", **more):
    return EngineFacts(
        role="bench", engine=engine, title=engine, version="1", precision="bf16", flags={"max-num-seqs": 64}, **more
    )


def cell(users, tok_s, *, repeat=1, state=CellState.MEASURED):
    rate = Estimate(value=tok_s, low=tok_s, high=tok_s, confidence=0.95, n=9, unit="tok/s")
    return Cell(
        engine="vllm",
        title="vLLM",
        role="bench",
        model="qwen2.5-1.5b",
        scenario="short",
        users=users,
        repeat=repeat,
        state=state,
        output_tok_s=rate,
    )


def test_a_measured_run_gives_a_point_for_each_load_with_the_mean_of_its_valid_repeats():
    cells = [cell(1, 100), cell(1, 110, repeat=2), cell(5, 400), cell(5, 9999, repeat=2, state=CellState.INVALID)]
    found = list(points_of_run(measured_run(), cells))
    assert [(one.users, one.output_tok_s, one.flags) for one in found] == [
        (1, 105.0, {"max-num-seqs": 64}),
        (5, 400.0, {"max-num-seqs": 64}),
    ]


@pytest.mark.parametrize(
    "run", [measured_run(engines=(facts("ollama"),)), measured_run(engines=(facts(is_simulated=True),))]
)
def test_other_engines_and_simulated_ones_are_no_points(run):
    assert list(points_of_run(run, [cell(1, 100)])) == []


def test_runs_are_read_from_a_results_folder_but_not_those_of_a_cpu_of_a_simulation_or_damaged(tmp_path):
    good = measured_run()
    no_card = measured_run(host=Host(cpu="a CPU", cores=2, memory_bytes=2**30, os="Linux", python="3.11"))
    for name, run in (("good", good), ("cpu", no_card), ("simulated", measured_run(is_simulated=True))):
        folder = RunFolder(tmp_path / name).create()
        folder.write_run(run)
        folder.append_cell(cell(1, 100))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    assert [one.source for one in points_of_runs(tmp_path)] == ["run a-run"]
