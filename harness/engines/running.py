"""A running engine, as the rest of the harness sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.engines.failures import failure
from harness.engines.process import ProcessGroup
from harness.errors import EngineError, EngineHung
from harness.records import EngineFacts, Flags, LoadJob, LoadResult
from harness.simulation import build


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A server that answers, with what it takes to speak to it and to say what it is."""

    name: str
    """"vllm", "proxied", "ollama", "llamacpp", "reference" or "simulated"."""
    title: str
    """For people: "vLLM 0.32.0"."""
    version: str
    url: str
    api: str
    """"openai" or "ollama"."""
    dialect: str
    """Which extra request fields it takes: see `records.LoadJob`."""
    model: str
    """The id to send in requests."""
    launch_s: float
    """From the start of the program until it could answer a request."""
    process: ProcessGroup | None = None
    """None: it ran before we came, and will run after."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Only what bears on the engine: what we set, and what it took over from us by its own name."""
    resolved: Flags = field(default_factory=dict)
    """What the engine itself says that it took, by flag name; empty where it says nothing."""
    slots: int | None = None
    """Requests that it works on at a time. None: not a thing this engine has, or not known."""
    weights_bytes: int | None = None
    """Size of the weights' files. None: they are not files that we can see."""
    drive: Callable[[LoadJob], LoadResult] | None = None
    """Puts a cell's load on it, in virtual time. None: it is a server, and Locust does that."""
    clock: Callable[[], float] | None = None
    """The virtual clock, in seconds. None: its time is everybody's."""
    proxy: ProcessGroup | None = None
    """Our proxy, which stands before it and answers at `url`. None: requests go to the engine itself."""
    proxy_died: Callable[[], EngineError] | None = None
    """Why the proxy has ended. None: there is none."""
    metrics_url: str | None = None
    """Where the engine tells its own figures. None: at `url`."""
    metrics_dialect: str | None = None
    """Whose figures these are. None: those of `dialect`."""

    @property
    def is_simulated(self) -> bool:
        """No engine runs: its figures come from a simulation, in virtual time or behind a server that says so."""
        return self.drive is not None or build.is_simulated(self.version)

    @property
    def pid(self) -> int | None:
        """First process of the engine. None: not ours."""
        return None if self.process is None else self.process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """First processes of the engine and of a proxy before it; none of one that is not ours."""
        return tuple(one.pid for one in (self.process, self.proxy) if one is not None)

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that started it; empty for one that is not ours."""
        return () if self.process is None else self.process.argv

    @property
    def log(self) -> Path | None:
        """The engine's own output. None: not ours."""
        return None if self.process is None else self.process.log

    def check(self) -> None:
        """Nothing, while its processes live; one that is not ours is not looked at.

        Raises: EngineCrashed with the telling last lines of the log, or a better name for it
                (EngineOutOfMemory…) where the log gives one.
        """
        if self.process is not None and self.process.returncode is not None:
            raise death(self.title, self.process)
        if self.proxy is not None and self.proxy_died is not None and self.proxy.returncode is not None:
            raise self.proxy_died()

    def facts(self, *, role: str, precision: str, flags: Flags) -> EngineFacts:
        """This engine as a run remembers it."""
        return EngineFacts(
            role=role,
            engine=self.name,
            title=self.title,
            version=self.version,
            precision=precision,
            flags=flags,
            resolved=self.resolved,
            argv=self.argv,
            env=dict(self.env),
            slots=self.slots,
            weights_bytes=self.weights_bytes,
            log=self.log.name if self.log is not None else "",
            launch_s=self.launch_s if self.process is not None or self.is_simulated else None,
            is_simulated=self.is_simulated,
        )


HANG_S: Final = 120.0
"""An engine that has work and gives no token for so long hangs: its steps take seconds, also on two slow cores."""


def hung(title: str, standing_s: float, *, log: Path | None) -> EngineHung:
    """The error of an engine that stands still."""
    return EngineHung(
        f"{title} has had requests for {standing_s:.0f} s and given no token",
        hint="see the end of its log for what it was doing",
        log=log,
    )


def size_of_weights(source: str) -> int | None:
    """Bytes of a GGUF file, or of all safetensors in a folder. None: `source` is neither, as an id of a hub."""
    if not source:
        return None
    path = Path(source)
    files = [path] if path.suffix == ".gguf" else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files if file.is_file()) or None


def death(title: str, process: ProcessGroup, *, model: str = "") -> EngineError:
    """Why the engine's process has ended, by its log; `model` is what it was to load."""
    return failure(
        title,
        process.output(),
        returncode=process.returncode,
        oom_kills=process.oom_kills(),
        log=process.log,
        model=model,
    )
