import socket

from harness import doctor
from harness.config import gpu_profile
from harness.doctor import State


def test_a_server_on_a_usual_port_is_told(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setitem(doctor.USUAL_PORTS, port, "a stranger")
        finding = doctor.ports()
    assert finding.state == State.WARNING
    assert f"{port} (usually a stranger)" in finding.text


def test_a_card_that_was_named_and_is_not_there_makes_the_machine_unfit():
    if doctor.telemetry.open_gpu() is None:
        finding = doctor.card(gpu_profile("rtx4090"))
        assert (finding.state, finding.exit_code) == (State.FAILED, 4)
    assert doctor.card(None).exit_code == 0


def test_results_that_do_not_exist_yet_are_looked_for_where_they_would_be(tmp_path):
    assert "GiB free in" in doctor.disk(tmp_path / "results").text
    assert str(tmp_path) in doctor.disk(tmp_path).text


def test_a_missing_vllm_fails_with_the_exit_code_of_engines():
    finding = doctor.vllm("/nowhere/python")
    assert (finding.state, finding.exit_code) == (State.FAILED, 3)
    assert "pip install vllm" in finding.hint
