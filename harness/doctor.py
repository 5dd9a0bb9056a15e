"""`harness doctor`: is this machine fit to measure, and how far the measuring client is off."""

import itertools
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from statistics import median

from harness import __version__, config, engines, load, store, telemetry
from harness.engines import Engine
from harness.engines.reference.sent import Sent, times
from harness.errors import EngineNotFound, HarnessError, MeasurementInvalid, UsageError
from harness.progress import Say
from harness.recording import utc_now
from harness.records import (
    Calibration,
    ClosedLoop,
    GpuProfile,
    LaunchSpec,
    LoadJob,
    Record,
    RequestRecord,
    Workload,
)

MAX_BUSY_CPU_RATIO = 0.2
MIN_FREE_BYTES = 10 * 2**30
MAX_STRANGER_BYTES = 1 * 2**30
MAX_TTFT_BIAS_S, MAX_ITL_BIAS_S = 0.010, 0.001
"""Beyond these no figure is worth taking."""
TTFT_BAR_S, ITL_BAR_S = 0.002, 0.0002
"""Beyond these short times are the client's as much as the engine's."""
FAITHFUL_SHARE = 0.1
"""Of a time, so much of the client's own error is borne."""
USUAL_PORTS = {11434: "Ollama", 8000: "vLLM"}
CLIENT = "client"
CALIBRATION_USERS = (10, 100)
CALIBRATION_TOKENS, CALIBRATION_REQUESTS = 40, 2
REFERENCE_TTFT_S, REFERENCE_ITL_S = 0.200, 0.020


class State(StrEnum):
    """What a finding means for figures taken here."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(Record, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    state: State
    text: str
    hint: str = ""
    exit_code: int = 0


def findings(
    *, profile: GpuProfile | None, vllm_python: str | None, ollama_bin: str | None, results: Path, say: Say
) -> list[Finding]:
    """All checks, in the order in which they matter. Each is said as it is made."""
    checks: list[Callable[[], Finding]] = [
        lambda: card(profile),
        strangers,
        busy,
        ports,
        lambda: disk(results),
        lambda: vllm(vllm_python),
        lambda: baseline(ollama_bin),
        lambda: client_bias(results),
    ]
    out = []
    for check in checks:
        finding = check()
        out.append(finding)
        say(f"{finding.state:8} {finding.name}: {finding.text}")
        if finding.hint and finding.state != State.OK:
            say(f"         hint: {finding.hint}")
    return out


def card(profile: GpuProfile | None) -> Finding:
    """The GPU, and whether there is a profile for it."""
    gpu = telemetry.open_gpu()
    if gpu is None:
        is_wanted = profile is not None and not profile.is_cpu
        return Finding(
            name="GPU",
            state=State.FAILED if is_wanted else State.WARNING,
            text="NVML sees none: measurements here are of the CPU",
            hint="install the NVIDIA driver; figures of a CPU say nothing about a GPU",
            exit_code=4 if is_wanted else 0,
        )
    with gpu:
        text = f"{gpu.name}, driver {gpu.driver}"
        try:
            found = config.profile_of_card(gpu.name)
        except UsageError as error:
            return Finding(name="GPU", state=State.WARNING, text=text, hint=error.hint)
    if profile is not None and profile.name != found.name:
        return Finding(
            name="GPU",
            state=State.FAILED,
            text=f"{text}, which is {found.name}, not {profile.name}",
            hint=f"leave --gpu out, or say --gpu {found.name}",
            exit_code=4,
        )
    return Finding(name="GPU", state=State.OK, text=f"{text}, profile {found.name}")


def strangers() -> Finding:
    """Other programs on the card."""
    gpu = telemetry.open_gpu()
    if gpu is None:
        return Finding(name="strangers on the card", state=State.OK, text="no card")
    with gpu:
        used, programs = gpu.memory_used_bytes(), gpu.process_ids()
    memory = "memory that the card does not tell" if used is None else f"{used / 2**30:.1f} GiB"
    text = f"{memory} in use by {len(programs)} computing programs and the desktop"
    if programs or (used is not None and used > MAX_STRANGER_BYTES):
        return Finding(
            name="strangers on the card",
            state=State.FAILED,
            text=text,
            hint=f"stop them (process ids: {', '.join(map(str, programs)) or 'see nvidia-smi'})",
            exit_code=4,
        )
    return Finding(name="strangers on the card", state=State.OK, text=text)


def busy() -> Finding:
    """How much of the CPU others use."""
    ratio = telemetry.busy_cpu_ratio()
    text = f"{ratio:.0%} of all cores in use before we start"
    if ratio > MAX_BUSY_CPU_RATIO:
        return Finding(
            name="CPU", state=State.WARNING, text=text, hint="stop what runs beside (top), or figures will scatter"
        )
    return Finding(name="CPU", state=State.OK, text=text)


def ports() -> Finding:
    """Servers that people leave running: they hold the card or the CPU while we measure."""
    found = []
    for port, name in USUAL_PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(f"{port} (usually {name})")
    if found:
        return Finding(
            name="ports",
            state=State.WARNING,
            text=f"something listens on {' and '.join(found)}",
            hint="we take ports of our own, but stop that server: what it does while we measure is in the figures",
        )
    return Finding(name="ports", state=State.OK, text="no server on the usual ports of Ollama and vLLM")


def disk(results: Path) -> Finding:
    """Room for results; models lie in the user's cache, mostly on the same disk."""
    folder = results if results.is_dir() else Path.cwd()
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.0f} GiB free in {folder}"
    if free < MIN_FREE_BYTES:
        return Finding(name="disk", state=State.WARNING, text=text, hint="models and results need about 10 GiB")
    return Finding(name="disk", state=State.OK, text=text)


def vllm(python: str | None) -> Finding:
    """Whether there is a vLLM to tune."""
    try:
        install = engines.find_vllm(python)
    except EngineNotFound as error:
        return Finding(name="vLLM", state=State.FAILED, text=error.message, hint=error.hint, exit_code=3)
    return Finding(name="vLLM", state=State.OK, text=f"{install.version} in {install.python}")


def baseline(ollama_bin: str | None) -> Finding:
    """Whether there is something to compare with."""
    try:
        return Finding(name="Ollama", state=State.OK, text=str(engines.find_ollama(ollama_bin)))
    except EngineNotFound as error:
        return Finding(name="Ollama", state=State.WARNING, text=error.message, hint=error.hint)


# ---------------------------------------------------------------- how far the client is off


def client_bias(results: Path) -> Finding:
    """Locust and our client against the reference engine, whose timing is known; kept for the runs to come."""
    try:
        found = calibrations()
        store.write_calibrations(results, found)
    except HarnessError as error:
        return Finding(
            name=CLIENT, state=State.FAILED, text=error.message, hint=error.hint, exit_code=error.exit_code or 4
        )
    return judged(found)


def judged(found: Sequence[Calibration]) -> Finding:
    """Whether figures can be taken with this client on this machine; the most users decide."""
    told = [
        f"at {one.users} users {one.ttft_bias_s * 1e3:+.2f} ms on a TTFT of 200 ms, {one.itl_bias_s * 1e3:+.3f} ms "
        f"on an ITL of 20 ms, {one.cpu_ratio:.0%} of a core (n = {one.requests})"
        for one in found
    ]
    text = f"seen less done, medians: {'; '.join(told)}"
    most = max(found, key=lambda one: one.users)
    if abs(most.ttft_bias_s) > MAX_TTFT_BIAS_S or abs(most.itl_bias_s) > MAX_ITL_BIAS_S:
        return Finding(
            name=CLIENT,
            state=State.FAILED,
            text=text,
            hint="this machine is too slow or too busy to measure from",
            exit_code=4,
        )
    warnings = [warning for one in found if (warning := bias_warning(one))]
    if warnings:
        return Finding(
            name=CLIENT,
            state=State.WARNING,
            text=f"{text}. {' '.join(warnings)}",
            hint="stop what runs beside, or measure from a faster machine; ratios of longer times are not touched",
        )
    return Finding(name=CLIENT, state=State.OK, text=text)


def bias_warning(found: Calibration) -> str:
    """What a bias beyond its bar means for figures; empty where it is within."""
    parts = [
        f"{name} under {abs(bias_s) / FAITHFUL_SHARE * 1e3:.3g} ms is off by over {FAITHFUL_SHARE:.0%}"
        for name, bias_s, bar_s in (("TTFT", found.ttft_bias_s, TTFT_BAR_S), ("ITL", found.itl_bias_s, ITL_BAR_S))
        if abs(bias_s) > bar_s
    ]
    if not parts:
        return ""
    return (
        f"Beyond the bars of {TTFT_BAR_S * 1e3:g} ms in TTFT and {ITL_BAR_S * 1e3:g} ms in ITL at {found.users} users: "
        f"{' and '.join(parts)} by the client alone."
    )


def calibrations() -> list[Calibration]:
    """The client's error at each of CALIBRATION_USERS, in about ten seconds. Raises: HarnessError."""
    spec = LaunchSpec(
        engine="reference", model="reference", flags={"ttft-s": REFERENCE_TTFT_S, "itl-s": REFERENCE_ITL_S}
    )
    with tempfile.TemporaryDirectory() as folder, engines.launched(spec, log=Path(folder, "engine.log")) as engine:
        return [calibration(engine, users=users, folder=Path(folder)) for users in CALIBRATION_USERS]


def calibration(engine: Engine, *, users: int, folder: Path) -> Calibration:
    """One load on the reference engine, and what both sides say of it.

    Raises: MeasurementInvalid where they do not even agree on how many answers there were.
    """
    began_s = time.perf_counter()
    result = load.drive(_calibration_job(engine, users=users, folder=folder), work=folder, log=folder / "load.log")
    did = [sent for sent in times(engine.url) if sent.received_s >= began_s]
    if result.health is None:
        raise MeasurementInvalid(result.trouble, hint="this machine is too slow or too busy to measure from")
    whole = [record for record in result.records if record.error is None]
    if not whole or not len(whole) == len(result.records) == len(did):
        raise MeasurementInvalid(
            f"of {len(did)} answers that the reference engine gave to {users} users the client saw {len(whole)} whole",
            hint="this machine is too slow or too busy to measure from",
        )
    return bias(whole, did, users=users, cpu_ratio=result.health.cpu_ratio, host=store.host_title(telemetry.host()))


def bias(seen: Sequence[RequestRecord], did: Sequence[Sent], *, users: int, cpu_ratio: float, host: str) -> Calibration:
    """Medians of what the client saw less those of what the server did, over the same requests."""
    done = [sent for sent in did if sent.end_s is not None]
    ttft_s = median(record.chunks_s[0] - record.began_s for record in seen)
    e2e_s = median(record.e2e_s for record in seen)
    return Calibration(
        users=users,
        requests=len(seen),
        ttft_bias_s=ttft_s - median(sent.chunks_s[0] - sent.received_s for sent in done),
        itl_bias_s=median(_gaps(one.chunks_s for one in seen)) - median(_gaps(one.chunks_s for one in done)),
        e2e_bias_s=e2e_s - median(sent.end_s - sent.received_s for sent in done if sent.end_s is not None),
        cpu_ratio=cpu_ratio,
        measured_utc=utc_now(),
        harness_version=__version__,
        host=host,
    )


def _gaps(streams: Iterable[Iterable[float]]) -> list[float]:
    return [later - sooner for moments in streams for sooner, later in itertools.pairwise(moments)]


def _calibration_job(engine: Engine, *, users: int, folder: Path) -> LoadJob:
    return LoadJob(
        url=engine.url,
        api=engine.api,
        dialect=engine.dialect,
        model=engine.model,
        workload=Workload(prompt_words=8, output_tokens=CALIBRATION_TOKENS, is_streamed=True),
        load=ClosedLoop(
            users=(users,), requests_per_user=CALIBRATION_REQUESTS, min_s=0.0, max_s=20.0, request_timeout_s=20.0
        ),
        users=users,
        repeat=1,
        seed=0,
        is_first=False,
        requests_path=str(folder / f"requests-{users}.jsonl"),
        client_path=str(folder / f"client-{users}.json"),
    )
