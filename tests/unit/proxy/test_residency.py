"""The virtual keep-alive clock, by what the real Ollama was seen to do."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.residency import Residency
from proxy.settings import Settings, UpstreamAddress

S = 10**9
START = 1_800_000_000 * S


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.ns = START

    def __call__(self) -> int:
        return self.ns

    def pass_s(self, seconds: float) -> None:
        self.ns += round(seconds * S)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "files"])
def made(request: pytest.FixtureRequest, clock: HandClock, tmp_path: Path) -> Callable[..., Residency]:
    def residency(keep_alive_s: float = 300.0) -> Residency:
        settings = Settings(upstreams=(UpstreamAddress("http://127.0.0.1:1"),), keep_alive_s=keep_alive_s)
        return Residency(settings, directory=tmp_path / "run" if request.param == "files" else None, now_ns=clock)

    return residency


def test_a_served_model_is_loaded_before_its_first_request(made: Callable[..., Residency], clock: HandClock) -> None:
    assert made().expires_ns("m", is_alias=False) == START + 300 * S


def test_an_alias_is_not(made: Callable[..., Residency]) -> None:
    assert made().expires_ns("m", is_alias=True) is None


def test_a_request_loads_an_alias_for_the_servers_default(made: Callable[..., Residency], clock: HandClock) -> None:
    residency = made()
    residency.used("m", None)
    assert residency.expires_ns("m", is_alias=True) == START + 300 * S
    clock.pass_s(301)
    assert residency.expires_ns("m", is_alias=True) is None


def test_by_the_servers_default_a_served_model_never_expires(made: Callable[..., Residency], clock: HandClock) -> None:
    residency = made()
    residency.used("m", None)
    clock.pass_s(10_000)
    assert residency.expires_ns("m", is_alias=False) == clock() + 300 * S


def test_a_clients_own_keep_alive_ends(made: Callable[..., Residency], clock: HandClock) -> None:
    residency = made()
    residency.used("m", 3.0)
    assert residency.expires_ns("m", is_alias=False) == START + 3 * S
    clock.pass_s(3)
    assert residency.expires_ns("m", is_alias=False) is None
    residency.used("m", None)
    assert residency.expires_ns("m", is_alias=False) == clock() + 300 * S


def test_a_request_without_keep_alive_leaves_the_last_one(made: Callable[..., Residency], clock: HandClock) -> None:
    """Seen with the real one: after "1h", a request that names none moves the end, and keeps the hour."""
    residency = made()
    residency.used("m", 3600.0)
    clock.pass_s(60)
    residency.used("m", None)
    assert residency.expires_ns("m", is_alias=False) == START + 3660 * S


def test_the_last_keep_alive_wins(made: Callable[..., Residency], clock: HandClock) -> None:
    residency = made()
    residency.used("m", math.inf)
    residency.used("m", 10.0)
    assert residency.expires_ns("m", is_alias=False) == START + 10 * S


@pytest.mark.parametrize("unload", [lambda r: r.unload("m"), lambda r: r.used("m", 0.0), lambda r: r.used("m", 0)])
def test_an_unloaded_model_is_gone_until_its_next_request(
    made: Callable[..., Residency], unload: Callable[[Residency], None]
) -> None:
    residency = made()
    residency.used("m", 100.0)
    unload(residency)
    assert residency.expires_ns("m", is_alias=False) is None
    assert residency.expires_ns("m", is_alias=True) is None
    residency.used("m", None)
    assert residency.expires_ns("m", is_alias=False) == START + 300 * S


@pytest.mark.parametrize("keep_alive_s", [math.inf, -1.0, -math.inf, 1e30])
def test_for_ever_is_292_years_which_every_client_can_read(made: Callable[..., Residency], keep_alive_s: float) -> None:
    residency = made()
    residency.used("m", keep_alive_s)
    ends_ns = residency.expires_ns("m", is_alias=False)
    assert ends_ns is not None
    assert datetime.fromtimestamp(ends_ns / S, UTC).year - datetime.fromtimestamp(START / S, UTC).year in (291, 292)


def test_for_ever_as_the_servers_default(made: Callable[..., Residency]) -> None:
    ends_ns = made(-1.0).expires_ns("m", is_alias=False)
    assert ends_ns is not None
    assert ends_ns > START + 200 * 365 * 86_400 * S


def test_a_model_has_one_clock_however_its_name_is_spelled(made: Callable[..., Residency]) -> None:
    residency = made()
    residency.used("M:Latest", 7.0)
    assert residency.expires_ns("m:latest", is_alias=False) == START + 7 * S


def test_workers_share_one_clock(tmp_path: Path, clock: HandClock) -> None:
    settings = Settings(upstreams=())
    one, other = (Residency(settings, directory=tmp_path, now_ns=clock) for _ in range(2))
    one.used("m:latest", 50.0)
    assert other.expires_ns("m:latest", is_alias=False) == START + 50 * S
    other.unload("m:latest")
    assert one.expires_ns("m:latest", is_alias=False) is None


def test_a_name_is_no_file_name(tmp_path: Path) -> None:
    residency = Residency(Settings(upstreams=()), directory=tmp_path / "run")
    residency.used("../../x", 5.0)
    assert [file.suffix for file in (tmp_path / "run").iterdir()] == [".clock"]
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_request_costs_far_less_than_a_millisecond(tmp_path: Path) -> None:
    residency = Residency(Settings(upstreams=()), directory=tmp_path)
    residency.used("m", None)
    best_s = math.inf
    for _ in range(5):
        began_s = time.perf_counter()
        for _ in range(200):
            residency.used("m", None)
        best_s = min(best_s, (time.perf_counter() - began_s) / 200)
    assert best_s < 1e-3
