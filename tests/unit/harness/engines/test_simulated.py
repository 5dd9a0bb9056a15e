"""The simulated engine fails as vLLM does, and a whole `bench` of it makes valid cells without a GPU."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from harness import bench, config, engines, models, report, specs
from harness.cli import cli
from harness.engines.running import HANG_S
from harness.errors import EngineBadFlag, EngineContextTooLong, EngineHung, EngineOutOfMemory, UsageError
from harness.records import CellState, ClosedLoop, CrashRegion, LaunchSpec, LoadJob, Scenario, Workload
from harness.report import text
from harness.simulation import Machine
from harness.store import RunFolder


def spec(gpu="rtx4090", model="qwen2.5-1.5b", **flags):
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    return specs.simulated_spec(models.entry(model), config.gpu_profile(gpu), flags=given, seed=1)


def scenario(users=(1, 8), **more):
    return Scenario(
        name="short",
        title="Short",
        workload=Workload(prompt_words=50, output_tokens=20, is_streamed=True),
        load=ClosedLoop(users=users, requests_per_user=3, min_s=3.0, max_s=30.0, **more),
    )


def job(one, *, users, folder):
    return LoadJob(
        url="",
        api="openai",
        dialect="vllm",
        model="m",
        workload=one.workload,
        load=one.load,
        users=users,
        repeat=1,
        seed=1,
        requests_path=str(folder / "requests.jsonl"),
        client_path=str(folder / "client.json"),
    )


def run(tmp_path, one=None, **more):
    said = []
    arguments = {"repeats": 2, "results": tmp_path, "gpu": "rtx4090", "seed": 1, "say": said.append, **more}
    folder, cells = bench.run(one or spec(), scenario(), **arguments)
    return folder, cells, "\n".join(said)


# ---------------------------------------------------------------- a whole run


def test_a_whole_bench_gives_valid_cells_that_are_marked(tmp_path):
    folder, cells, said = run(tmp_path)
    assert [(cell.users, cell.repeat) for cell in cells] == [(1, 1), (1, 2), (8, 1), (8, 2)]
    assert {cell.state for cell in cells} == {CellState.MEASURED}, [cell.reasons for cell in cells]
    assert all(cell.is_simulated and cell.telemetry is None for cell in cells)
    assert all(cell.ceilings["output_tok_s"] > cell.output_tok_s.value for cell in cells)
    found = folder.run()
    assert found.is_simulated
    assert [facts.is_simulated for facts in found.engines] == [True]
    assert found.engines[0].title == "simulated vLLM"
    assert found.engines[0].launch_s > 20
    assert any(note.startswith("Simulated: no engine ran") for note in found.notes)
    assert any("recorded points" in note and "median" in note for note in found.notes)
    assert "simulated" in said
    assert all((folder.path / cell.requests_file).exists() for cell in cells)
    assert not list((folder.path / "telemetry").glob("*"))


def test_the_page_and_the_console_say_that_it_was_simulated(tmp_path):
    folder, cells, said = run(tmp_path)
    page = report.render(folder.run(), folder.cells(), folder.trials(), out=tmp_path / "reports").read_text()
    assert "Simulated, not measured: " in page
    assert "recorded points its tok/s are within" in page
    assert "a simulated rtx4090" in page
    table = text.cells_table(cells)
    assert table.count("simulated") >= len(cells)
    assert "measured" not in table
    assert "simulated  bench  short  1 user" in said


def test_a_measured_run_says_nothing_of_a_simulation(tmp_path):
    folder, cells, _ = run(tmp_path)
    real = [msgspec.structs.replace(cell, is_simulated=False) for cell in cells]
    facts = msgspec.structs.replace(folder.run().engines[0], title="vLLM 0.32", is_simulated=False)
    as_real = msgspec.structs.replace(folder.run(), is_simulated=False, notes=(), engines=(facts,), command="harness")
    page = report.render(as_real, real, (), out=tmp_path / "reports").read_text()
    assert "imulated" not in page
    assert "4 measured" in text.validity_line(real)


def test_tables_that_no_engine_gave_say_so_above_their_figures(tmp_path):
    folder, _, _ = run(tmp_path)
    assert text.simulated_lines(folder.run()) == ["SIMULATED: no engine ran; nothing here is a measurement."]
    assert text.simulated_lines(msgspec.structs.replace(folder.run(), is_simulated=False)) == []


def test_no_other_machine_sends_load_to_it(tmp_path):
    words = ["bench", "--engine", "simulated", "--gpu", "rtx4090", "--workers", "host", "--results", str(tmp_path)]
    answer = CliRunner().invoke(cli, words)
    assert isinstance(answer.exception, UsageError)
    assert "--workers" in answer.exception.hint


def test_the_same_seed_measures_the_same_and_another_one_does_not(tmp_path):
    values = [[cell.output_tok_s.value for cell in run(tmp_path / str(at), spec())[1]] for at in range(2)]
    other = msgspec.structs.replace(spec(), simulation=msgspec.structs.replace(spec().simulation, seed=2))
    assert values[0] == values[1]
    assert values[0] != [cell.output_tok_s.value for cell in run(tmp_path / "other", other)[1]]


def test_the_command_needs_no_gpu_and_no_vllm(tmp_path):
    words = ["bench", "--engine", "simulated", "--gpu", "rtx4090", "--users", "2", "--repeats", "1", "--json"]
    answer = CliRunner().invoke(cli, [*words, "--model", "qwen2.5:1.5b", "--results", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert [cell["is_simulated"] for cell in document["cells"]] == [True]
    assert [cell["model"] for cell in document["cells"]] == ["qwen2.5-1.5b"]
    assert RunFolder(tmp_path / document["run"]).run().is_simulated


@pytest.mark.parametrize("gpu", [[], ["--gpu", "cpu"], ["--gpu", "m3max"]])
def test_the_command_wants_a_card_that_can_be_simulated(tmp_path, gpu):
    answer = CliRunner().invoke(cli, ["bench", "--engine", "simulated", *gpu, "--results", str(tmp_path)])
    assert isinstance(answer.exception, UsageError)
    assert "rtx4090" in answer.exception.hint


# ---------------------------------------------------------------- failures


def failed(tmp_path, one: LaunchSpec, kind, machine=None):
    with pytest.raises(kind) as caught, engines.launched(one, log=tmp_path / "engine.log", machine=machine):
        pass
    return caught.value


def test_out_of_memory_at_the_start_tells_its_margin(tmp_path):
    error = failed(tmp_path, spec("rtx4060", "llama-3.1-8b"), EngineOutOfMemory)
    assert error.short_bytes > 2**30
    assert not error.is_environmental
    assert "CUDA out of memory" in (tmp_path / "engine.log").read_text()


def test_a_context_that_does_not_fit_tells_the_one_that_does(tmp_path):
    error = failed(tmp_path, spec("rtx4090", "llama-3.1-8b"), EngineContextTooLong)
    assert 16_000 < error.fits < 64_000
    with engines.launched(spec("rtx4090", "llama-3.1-8b", max_model_len=error.fits), log=tmp_path / "log") as engine:
        assert engine.resolved["max-model-len"] == error.fits


def test_a_context_beyond_the_model_is_told_with_the_models(tmp_path):
    assert "40000" in failed(tmp_path, spec(max_model_len=40_000), EngineBadFlag).message


@pytest.mark.parametrize("flags", [{"no_such_flag": 1}, {"max_num_seqs": 512, "max_num_batched_tokens": 64}])
def test_flags_that_vllm_refuses_are_refused(tmp_path, flags):
    failed(tmp_path, spec(**flags), EngineBadFlag)


def test_memory_that_ends_under_load_ends_the_cell_and_the_engine(tmp_path):
    near = spec(gpu_memory_utilization=0.975, max_num_batched_tokens=8192)
    long = Scenario(
        name="long",
        title="Long",
        workload=Workload(prompt_words=900, output_tokens=20, is_streamed=True),
        load=ClosedLoop(users=(1, 60), requests_per_user=2, min_s=1.0, max_s=30.0),
    )
    folder, cells = bench.run(near, long, repeats=1, results=tmp_path, gpu="rtx4090", seed=1, say=lambda _: None)
    assert [cell.state for cell in cells] == [CellState.MEASURED, CellState.FAILED]
    assert "simulated vLLM ran out of memory: it asked for" in cells[1].reasons[0]
    assert "CUDA out of memory" in (folder.path / "engine-bench-simulated.log").read_text()
    with engines.launched(near, log=tmp_path / "log") as engine, pytest.raises(EngineOutOfMemory) as caught:
        engine.drive(job(long, users=60, folder=tmp_path))
    assert caught.value.short_bytes > 0


def test_failed_launches_take_time_on_the_machines_clock(tmp_path):
    one = spec("rtx4090", "llama-3.1-8b")
    machine = Machine(one.simulation)
    failed(tmp_path, one, EngineContextTooLong, machine)
    assert machine.clock() > 20


def test_an_engine_of_nothing_is_refused(tmp_path):
    failed(tmp_path, LaunchSpec(engine="simulated", model="x"), UsageError)


def test_a_place_where_it_stands_still_is_a_hang_that_takes_its_time(tmp_path):
    one = spec()
    stall = CrashRegion(flags={}, users=4, is_hang=True)
    one = msgspec.structs.replace(one, simulation=msgspec.structs.replace(one.simulation, crashes=(stall,)))
    machine = Machine(one.simulation)
    with engines.launched(one, log=tmp_path / "log", machine=machine) as engine:
        engine.drive(job(scenario(), users=1, folder=tmp_path))
        before_s = machine.now_s
        with pytest.raises(EngineHung, match="given no token"):
            engine.drive(job(scenario(), users=8, folder=tmp_path))
    assert machine.now_s >= before_s + HANG_S
