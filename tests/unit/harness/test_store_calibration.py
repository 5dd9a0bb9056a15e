"""The client's own error as it lies beside the runs: whose it is, and when there is none."""

from pathlib import Path

import msgspec
import pytest

from harness import __version__, telemetry
from harness.errors import UsageError
from harness.recording import recorded
from harness.records import Calibration, Host
from harness.store import CALIBRATION, calibration, calibrations, host_title, write_calibrations

HERE = Host(cpu="Fast CPU", cores=8, memory_bytes=1, os="Linux", python="3.11")


def found(users: int, *, host: Host = HERE, version: str = "1.0") -> Calibration:
    return Calibration(
        users=users,
        requests=20,
        ttft_bias_s=0.001,
        itl_bias_s=0.0,
        e2e_bias_s=0.002,
        cpu_ratio=0.1,
        measured_utc="2026-11-22T10:00:00+00:00",
        harness_version=version,
        host=host_title(host),
    )


def test_the_calibration_of_a_run_is_the_one_with_the_most_users(tmp_path: Path) -> None:
    write_calibrations(tmp_path / "results", [found(10), found(100), found(50)])
    assert calibration(tmp_path / "results", host=HERE, harness_version="1.0") == found(100)
    known = calibrations(tmp_path / "results", host=HERE, harness_version="1.0")
    assert known == (found(10), found(100), found(50))


@pytest.mark.parametrize(
    ("host", "version"),
    [
        (msgspec.structs.replace(HERE, cpu="Slow CPU"), "1.0"),
        (msgspec.structs.replace(HERE, cores=4), "1.0"),
        (HERE, "1.1"),
    ],
)
def test_a_calibration_of_another_machine_or_version_counts_for_nothing(
    tmp_path: Path, host: Host, version: str
) -> None:
    write_calibrations(tmp_path, [found(100)])
    assert calibration(tmp_path, host=host, harness_version=version) is None


def test_more_memory_is_still_the_same_machine(tmp_path: Path) -> None:
    write_calibrations(tmp_path, [found(100)])
    grown = msgspec.structs.replace(HERE, memory_bytes=2)
    assert calibration(tmp_path, host=grown, harness_version="1.0") is not None


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'[{"users": 1}]'])
def test_without_a_readable_file_nothing_is_calibrated(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / CALIBRATION).write_bytes(content)
    assert calibration(tmp_path, host=HERE, harness_version="1.0") is None


def test_a_new_calibration_replaces_the_old_one_and_leaves_no_draft(tmp_path: Path) -> None:
    write_calibrations(tmp_path, [found(10), found(100)])
    write_calibrations(tmp_path, [found(50)])
    assert calibrations(tmp_path, host=HERE, harness_version="1.0") == (found(50),)
    assert [path.name for path in tmp_path.iterdir()] == [CALIBRATION]


def test_results_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    with pytest.raises(UsageError, match="cannot write to"):
        write_calibrations(tmp_path / "results", [found(100)])


def test_a_run_takes_over_the_calibration_that_lies_beside_it(tmp_path: Path) -> None:
    here = found(100, host=telemetry.host(), version=__version__)
    for known in (None, here):
        if known is not None:
            write_calibrations(tmp_path, [known])
        with recorded(results=tmp_path, kind="bench", model="m", gpu="cpu", seed=1, scenarios=[]) as recording:
            assert recording.run.calibration == known
