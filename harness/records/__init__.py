"""The types that flow from a TOML file to a report: frozen, units in the names, unknown keys refused.

One way through them: `Scenario` + `LaunchSpec` → `LoadJob` → `RequestRecord`s → `Cell` →
`Comparison`, and for a search `Trial`; `Run` says where all of them come from.
"""

from harness.records.base import Flags, FlagValue, Record
from harness.records.catalog import (
    CrashRegion,
    GpuProfile,
    KnownFlag,
    LaunchSpec,
    ModelEntry,
    ModelFiles,
    ModelShape,
    SearchSpace,
    Simulation,
    Target,
)
from harness.records.cells import Cell, CellState, Estimate, Metric
from harness.records.comparisons import Comparison, Manifest, SideManifest, Tier, Verdict
from harness.records.loads import (
    ClosedLoop,
    Fleet,
    Level,
    Load,
    LoadJob,
    LoadShare,
    OpenLoop,
    Replay,
    Sampling,
    Scenario,
    TraceLine,
    Workload,
)
from harness.records.requests import ClientHealth, LoadResult, RequestRecord
from harness.records.runs import Calibration, EngineFacts, Host, Run, RunState
from harness.records.search import (
    Asked,
    Defence,
    DefenceLaunch,
    Judged,
    Ladder,
    Outcome,
    Preset,
    PresetFigure,
    Trial,
)
from harness.records.service import Capacity, CapacityStep, Slo
from harness.records.telemetry import EngineMetric, PowerCap, ProcessReading, TelemetrySample, TelemetrySummary

__all__ = [
    "Asked",
    "Calibration",
    "Capacity",
    "CapacityStep",
    "Cell",
    "CellState",
    "ClientHealth",
    "ClosedLoop",
    "Comparison",
    "CrashRegion",
    "Defence",
    "DefenceLaunch",
    "EngineFacts",
    "EngineMetric",
    "Estimate",
    "FlagValue",
    "Flags",
    "Fleet",
    "GpuProfile",
    "Host",
    "Judged",
    "KnownFlag",
    "Ladder",
    "LaunchSpec",
    "Level",
    "Load",
    "LoadJob",
    "LoadResult",
    "LoadShare",
    "Manifest",
    "Metric",
    "ModelEntry",
    "ModelFiles",
    "ModelShape",
    "OpenLoop",
    "Outcome",
    "PowerCap",
    "Preset",
    "PresetFigure",
    "ProcessReading",
    "Record",
    "Replay",
    "RequestRecord",
    "Run",
    "RunState",
    "Sampling",
    "Scenario",
    "SearchSpace",
    "SideManifest",
    "Simulation",
    "Slo",
    "Target",
    "TelemetrySample",
    "TelemetrySummary",
    "Tier",
    "TraceLine",
    "Trial",
    "Verdict",
    "Workload",
]
