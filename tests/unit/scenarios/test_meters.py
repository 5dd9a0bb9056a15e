"""What a process knows of itself."""

import socket
import time

import pytest

from scenarios import meters


@pytest.mark.parametrize(("q", "value"), [(0.0, 1.0), (0.5, 5.0), (0.9, 9.0), (0.91, 10.0), (0.99, 10.0), (1.0, 10.0)])
def test_a_quantile_is_a_value_that_was_seen(q, value):
    assert meters.quantile([float(n) for n in range(10, 0, -1)], q) == value


def test_there_is_no_quantile_of_nothing():
    assert meters.quantile([], 0.5) is None


def test_a_set_wall_clock_is_found(monkeypatch):
    watch = meters.ClockWatch()
    assert abs(watch.wall_step_s) < 0.05
    real_s = time.time
    monkeypatch.setattr(time, "time", lambda: real_s() - 3600)
    assert watch.wall_step_s == pytest.approx(-3600, abs=0.05)
    assert watch.suspended_s == pytest.approx(0, abs=0.05)


def test_a_sleeping_machine_is_found_and_is_no_set_clock(monkeypatch):
    """While a machine sleeps its wall clock and CLOCK_BOOTTIME go on, and CLOCK_MONOTONIC stands."""
    watch = meters.ClockWatch()
    real_s, real_clock_s = time.time, time.clock_gettime
    monkeypatch.setattr(time, "time", lambda: real_s() + 60)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real_clock_s(clock) + 60 * (clock == time.CLOCK_BOOTTIME))
    assert watch.suspended_s == pytest.approx(60, abs=0.05)
    assert watch.wall_step_s == pytest.approx(0, abs=0.05)


def test_a_round_trip_is_a_connect_and_none_where_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        found_s = meters.round_trip_s(url)
    assert found_s is not None
    assert 0 < found_s < 10
    assert meters.round_trip_s(url) is None
    assert meters.round_trip_s("http://no-such-host.invalid:1") is None
