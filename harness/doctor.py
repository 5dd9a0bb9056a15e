"""`harness doctor`: is this machine fit to measure, and how far the measuring client is off."""

import shutil
import socket
import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from harness import bench, config, engines, telemetry
from harness.errors import EngineNotFound, HarnessError, UsageError
from harness.progress import Say
from harness.records import CellState, ClosedLoop, GpuProfile, LaunchSpec, Record, Scenario, Workload

MAX_BUSY_CPU_RATIO = 0.2
MIN_FREE_BYTES = 10 * 2**30
MAX_STRANGER_BYTES = 1 * 2**30
MAX_BIAS_S = 0.010
USUAL_PORTS = {11434: "Ollama", 8000: "vLLM"}
CALIBRATION_USERS = 10
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
        client_bias,
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
    text = f"{used / 2**30:.1f} GiB in use by {len(programs)} computing programs and the desktop"
    if programs or used > MAX_STRANGER_BYTES:
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


def client_bias() -> Finding:
    """Locust and our client against the reference engine, whose timing is known."""
    tokens = 40
    scenario = Scenario(
        name="calibration",
        title="known timing",
        workload=Workload(prompt_words=8, output_tokens=tokens, is_streamed=True),
        load=ClosedLoop(users=(CALIBRATION_USERS,), requests_per_user=2, min_s=2.0, max_s=20.0),
    )
    spec = LaunchSpec(
        engine="reference", model="reference", flags={"ttft-s": REFERENCE_TTFT_S, "itl-s": REFERENCE_ITL_S}
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            _, cells = bench.run(
                spec,
                scenario,
                users=scenario.load.users,
                repeats=1,
                results=Path(folder),
                gpu="none",
                seed=0,
                say=lambda _: None,
            )
        except HarnessError as error:
            return Finding(name="client", state=State.FAILED, text=error.message, hint=error.hint, exit_code=4)
    cell = cells[0]
    ttft, itl = cell.ttft_s.get("p50"), cell.itl_s.get("p50")
    if cell.state != CellState.MEASURED or ttft is None or itl is None:
        return Finding(
            name="client",
            state=State.FAILED,
            text="; ".join(cell.reasons) or "too few requests ended",
            hint="this machine is too slow or too busy to measure from",
            exit_code=4,
        )
    ttft_bias_s, itl_bias_s = ttft.value - REFERENCE_TTFT_S, itl.value - REFERENCE_ITL_S
    text = (
        f"at {CALIBRATION_USERS} users {ttft_bias_s * 1e3:+.1f} ms on a TTFT of 200 ms and {itl_bias_s * 1e3:+.2f} ms "
        "on an ITL of 20 ms (medians; the reference server's own lateness is in them)"
    )
    if abs(ttft_bias_s) > MAX_BIAS_S or abs(itl_bias_s) > MAX_BIAS_S / 10:
        return Finding(
            name="client",
            state=State.FAILED,
            text=text,
            hint="this machine is too slow or too busy to measure from",
            exit_code=4,
        )
    return Finding(name="client", state=State.OK, text=text)
