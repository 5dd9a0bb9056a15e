import socket

import pytest

from harness import doctor
from harness.config import gpu_profile
from harness.doctor import State
from harness.engines.reference.sent import Sent
from harness.records import RequestRecord


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


# ---------------------------------------------------------------- the client's own error


def seen_and_done(*, ttft_late_s=0.0, token_late_s=0.0, end_late_s=0.0, requests=20):
    """What client and server say of the same answers of five tokens; no answer is as long as the next."""
    seen, did = [], []
    for number in range(requests):
        received_s = 100.0 + number
        itl_s = 0.02 + 0.0001 * number
        done = [received_s + 0.2 + itl_s * n for n in range(5)]
        did.append(Sent(prompt_start="", received_s=received_s, prompt_tokens=1, chunks_s=done, end_s=done[-1]))
        chunks = [at + ttft_late_s + token_late_s * n for n, at in enumerate(done)]
        record = RequestRecord(
            user=0,
            index=number,
            is_warmup=False,
            sent_s=received_s,
            end_s=done[-1] + end_late_s,
            chunks_s=tuple(chunks),
        )
        seen.append(record)
    return seen, did


def calibrated(users=100, **late):
    return doctor.bias(*seen_and_done(**late), users=users, cpu_ratio=0.1, host="a machine")


def test_a_client_that_sees_what_was_done_has_no_bias():
    found = calibrated()
    assert (found.ttft_bias_s, found.itl_bias_s, found.e2e_bias_s) == (0, 0, 0)
    assert (found.users, found.requests, found.host, found.cpu_ratio) == (100, 20, "a machine", 0.1)


def test_the_bias_is_what_was_seen_less_what_was_done():
    found = calibrated(ttft_late_s=0.005, token_late_s=0.0004, end_late_s=0.003)
    assert found.ttft_bias_s == pytest.approx(0.005)
    assert found.itl_bias_s == pytest.approx(0.0004)
    assert found.e2e_bias_s == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("late", "state"),
    [
        ({"ttft_late_s": 0.0019, "token_late_s": 0.00019}, State.OK),
        ({"ttft_late_s": 0.0021}, State.WARNING),
        ({"token_late_s": -0.00021}, State.WARNING),
        ({"ttft_late_s": 0.009, "token_late_s": 0.0009}, State.WARNING),
        ({"ttft_late_s": 0.011}, State.FAILED),
        ({"ttft_late_s": -0.011}, State.FAILED),
        ({"token_late_s": 0.0011}, State.FAILED),
    ],
)
def test_a_client_that_is_off_by_too_much_is_not_to_be_measured_with(late, state):
    finding = doctor.judged([calibrated(users=10), calibrated(users=100, **late)])
    assert finding.state == state
    assert finding.exit_code == (4 if state == State.FAILED else 0)
    assert "at 100 users" in finding.text
    assert "n = 20" in finding.text


def test_few_users_alone_condemn_no_machine():
    assert doctor.judged([calibrated(users=10, ttft_late_s=0.02), calibrated(users=100)]).exit_code == 0


def test_a_client_beyond_the_bars_is_warned_of_with_what_it_means_for_figures():
    finding = doctor.judged([calibrated(users=10), calibrated(users=100, ttft_late_s=0.003, token_late_s=0.0004)])
    assert "Beyond the bars of 2 ms in TTFT and 0.2 ms in ITL at 100 users" in finding.text
    assert "TTFT under 30 ms is off by over 10% and ITL under 4 ms is off by over 10%" in finding.text
    assert finding.hint
