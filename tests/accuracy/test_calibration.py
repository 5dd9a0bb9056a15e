"""`harness doctor` finds the client's own error and keeps it; where answers are lost it finds none."""

from pathlib import Path

import msgspec
import pytest

from harness import doctor, engines, store
from harness.doctor import State
from harness.errors import MeasurementInvalid
from harness.records import LaunchSpec


def test_the_client_is_calibrated_and_the_calibration_is_kept(tmp_path: Path) -> None:
    finding = doctor.client_bias(tmp_path)
    assert finding.state == State.OK, finding.text
    kept = msgspec.json.decode((tmp_path / store.CALIBRATION).read_bytes())
    assert [one["users"] for one in kept] == [10, 100]
    for one in kept:
        assert 0 < one["ttft_bias_s"] < 0.010
        assert abs(one["itl_bias_s"]) < 0.001
        assert one["requests"] >= 2 * one["users"]
        assert 0 < one["cpu_ratio"] < 1


def test_answers_that_are_lost_are_no_calibration(tmp_path: Path) -> None:
    spec = LaunchSpec(engine="reference", model="reference", flags={"ttft-s": 0.01, "itl-s": 0.001, "drop": 0.2})
    with (
        engines.launched(spec, log=tmp_path / "engine.log") as engine,
        pytest.raises(MeasurementInvalid, match="the client saw"),
    ):
        doctor.calibration(engine, users=10, folder=tmp_path)
