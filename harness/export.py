"""A preset as a file for those who run vLLM without the harness: a script, vLLM's own --config, a unit, a composition.

Each of them says where its settings come from, and each has rules of its own for what may stand in a value:

    shell      POSIX quotes
    yaml       vLLM makes words of it again: what begins with a dash must stand behind an equals sign
    systemd    C escapes within double quotes; % and, in a command, $ are doubled
    compose    YAML, in which a $ is doubled, or it would be replaced by a variable
"""

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml
from packaging.version import InvalidVersion, Version

from harness import config, models, presets, store
from harness.engines.flags import ENTRY, words
from harness.errors import UsageError
from harness.records import Flags, FlagValue, GpuProfile, ModelEntry, Preset

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8000
PYTHON_VARIABLE: Final = "HARNESS_VLLM_PYTHON"
IMAGE: Final = "vllm/vllm-openai"
PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9_./+-]+")
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
START_S: Final = 1800
"""A large model is fetched and compiled for so long at most before a container counts as ill."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a file says."""

    preset: Preset
    profile: GpuProfile
    source: str
    """What vLLM loads: an id of Hugging Face, or a folder."""
    is_gated: bool
    port: int
    python: str | None
    """vLLM's interpreter. None: not known here."""
    image: str | None
    """None: that of the version which the settings were found with."""
    notes: tuple[str, ...] = ()
    """What does not fit, and was wanted all the same."""

    @property
    def flags(self) -> Flags:
        """All that vLLM gets, but for model and address."""
        return presets.passed_flags(self.preset, self.profile)

    @property
    def is_folder(self) -> bool:
        """Whether the model lies in a folder."""
        return self.source.startswith("/")

    @property
    def names(self) -> Flags:
        """What clients call a model that has no id."""
        return {"served-model-name": self.preset.model} if self.is_folder else {}


# ---------------------------------------------------------------- what is decided first


def model_source(wanted: str | None, *, preset: Preset) -> tuple[str, ModelEntry | None]:
    """What vLLM loads, and which model of the registry that is. None: one that the registry does not know.

    Args:     wanted: a name of the registry, an id of Hugging Face, or a folder. None: the preset's model.
    Raises:   UsageError: nothing that vLLM could load.
    """
    if wanted is None:
        entry = models.entry(preset.model)
        if not entry.hf_id:
            raise UsageError(
                f"{entry.name} has random weights, which lie in no hub", hint="name their folder with --model FOLDER"
            )
        return entry.hf_id, entry
    for entry in models.entries().values():
        if wanted.casefold() in {entry.name, entry.hf_id.casefold()}:
            return entry.hf_id, entry
    if wanted.startswith(("/", ".", "~")) or Path(wanted).is_dir():
        return os.path.abspath(at_home(wanted)), None  # noqa: PTH100  links stay as they were named
    if re.fullmatch(r"[\w.-]+/[\w.-]+", wanted):
        return wanted, None
    error = config.unknown_name("model", wanted, models.entries())
    raise UsageError(error.message, hint=f"{error.hint}; or an id of Hugging Face (owner/name), or a folder")


def at_home(folder: str) -> Path:
    """The folder, ~ and ~name written out. Raises: UsageError: nobody has that name."""
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise UsageError(f"--model {folder}: {error}", hint="write the whole path") from error


def image_of(preset: Preset) -> str:
    """vLLM's own image of the version that the settings were found with. Raises: UsageError where there is none."""
    version = version_in(f"image:{preset.vllm_version.partition('+')[0]}")
    if version is None or Version(version).is_prerelease:
        raise UsageError(
            f"there is no image of vLLM {preset.vllm_version}", hint="name one with --image, or another --format"
        )
    return f"{IMAGE}:v{version}"


def version_in(image: str) -> str | None:
    """The version that an image's tag names. None: it names none, as "latest" does."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    try:
        return Version(tag).public
    except InvalidVersion:
        return None


# ---------------------------------------------------------------- what all formats say


def origin(job: Job) -> list[str]:
    """Where the settings come from, in lines that may stand in a comment."""
    preset, defaults = job.preset, "vLLM's own defaults: nothing that was tried is surely faster"
    where = f"{preset.gpu_title or preset.gpu}{f', driver {preset.driver}' if preset.driver else ''}"
    made = f"by harness {preset.harness_version} " if preset.harness_version else ""
    lines = [
        f"vLLM for {preset.model}: settings found {made}in run {preset.run or 'unknown'}"
        f"{f' on {preset.created_utc}' if preset.created_utc else ''}",
        f"on {where}, with vLLM {preset.vllm_version}. They hold for vLLM {valid_for(preset)}.",
        f"Objective: {preset.objective}. Result: {defaults if preset.is_default else gain(preset)}.",
    ]
    if preset.is_simulated:
        lines.append("SIMULATED: no engine was ever started with these settings; the figures are a model's.")
    if preset.is_synthetic:
        lines.append("Found with random weights of this model's shape.")
    lines += [f"Note: {note}" for note in job.notes]
    if job.is_gated:
        lines.append(
            "The licence of the weights must be accepted on Hugging Face; HF_TOKEN in the environment proves it."
        )
    return [presets.one_line(line) for line in lines]


def valid_for(preset: Preset) -> str:
    """The versions of vLLM."""
    return preset.vllm_versions or presets.expiry(preset.vllm_version) or preset.vllm_version


def gain(preset: Preset) -> str:
    """The ratio to vLLM's defaults, with its interval."""
    found = preset.ratio
    if found is None:
        return "not known"
    said = f"{found.value:.3f}x vLLM's defaults ({found.low:.3f} to {found.high:.3f})"
    return f"{said}, simulated" if preset.is_simulated else said


def commented(lines: Sequence[str]) -> str:
    """Lines behind a #."""
    return "".join(f"# {line}\n" for line in lines)


def arguments(job: Job, *, source: str, host: str, port: int) -> list[list[str]]:
    """vLLM's words behind the program, one flag with its value in each list."""
    own: Flags = {"model": source, "host": host, "port": port, **job.names, **job.flags}
    return [words({name: value}) for name, value in own.items()]


def refuse_zero_bytes(job: Job) -> None:
    """Raises: UsageError for a text that no command line can hold, and no file of text either."""
    for text in (job.source, job.python or "", job.image or ""):
        if "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text):
            raise UsageError(f"{text!r} cannot be written down", hint="name it in plain text")


# ---------------------------------------------------------------- the formats


def shell(job: Job) -> str:
    """A script; more flags may be given to it, and another interpreter by a variable."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in job.profile.vllm_env.items())
    flags = [shlex.join(part) for part in arguments(job, source=job.source, host=LOOPBACK, port=job.port)]
    return (
        "#!/bin/sh\n"
        f"{commented(origin(job))}"
        f"# Another interpreter: {PYTHON_VARIABLE}=PATH. More flags: behind the script's name.\n"
        "set -eu\n"
        f"{exports}"
        f"python={shlex.quote(job.python or 'python3')}\n"
        f'exec "${{{PYTHON_VARIABLE}:-$python}}" -m {ENTRY} \\\n  ' + " \\\n  ".join([*flags, '"$@"']) + "\n"
    )


def vllm_config(job: Job) -> str:
    """A file for vLLM's own --config, which is YAML and becomes words of a command line again."""
    own: Flags = {"model": job.source, "host": LOOPBACK, "port": job.port, **job.names, **job.flags}
    env = " ".join(f"{name}={shlex.quote(value)}" for name, value in job.profile.vllm_env.items())
    start = [f"Start: {env + ' ' if env else ''}vllm serve --config FILE.yaml"]
    return commented([*origin(job), *start]) + dumped(dict(config_item(name, value) for name, value in own.items()))


def config_item(name: str, value: FlagValue) -> tuple[str, FlagValue]:
    """A flag as key and value.

    vLLM puts the value behind the flag as a word of its own, where argparse takes one with a dash for a flag; so that
    one becomes part of the key.
    """
    if isinstance(value, bool) or not str(value).startswith("-"):
        return name, value
    return f"{name}={value}", True


def systemd(job: Job) -> str:
    """A unit of the system's service manager, for a user that exists only while it runs."""
    if job.python is None or not job.python.startswith("/"):
        raise UsageError(
            "a unit names vLLM's interpreter by its whole path", hint="give it: --vllm-python /path/to/bin/python"
        )
    program = [job.python] if PLAIN_PATH.fullmatch(job.python) else ["/usr/bin/env", job.python]
    parts = [[*program, "-m", ENTRY], *arguments(job, source=job.source, host=LOOPBACK, port=job.port)]
    command = " \\\n  ".join(" ".join(map(unit_word, part)) for part in parts)
    settings = "".join(f"Environment={unit_setting(f'{key}={val}')}\n" for key, val in job.profile.vllm_env.items())
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", job.preset.model)
    return (
        f"{commented(origin(job))}"
        f"# Secrets such as HF_TOKEN=… belong in /etc/vllm/{name}.env, readable for root alone.\n"
        "# Interpreter and model folder must be readable for all, or name a User= instead of DynamicUser=.\n"
        "[Unit]\n"
        f"Description=vLLM serving {unit_text(job.preset.model)}\n"
        "Wants=network-online.target\n"
        "After=network-online.target\n"
        "StartLimitIntervalSec=600\n"
        "StartLimitBurst=5\n"
        "\n[Service]\n"
        "Type=exec\n"
        f"ExecStart={command}\n"
        f"{settings}"
        "Environment=HOME=%C/vllm HF_HOME=%C/vllm/huggingface VLLM_CACHE_ROOT=%C/vllm/vllm\n"
        f"EnvironmentFile=-/etc/vllm/{name}.env\n"
        f"{HARDENED}"
        "\n[Install]\n"
        "WantedBy=multi-user.target\n"
    )


HARDENED: Final = """\
Restart=on-failure
RestartSec=5
TimeoutStopSec=60
KillMode=mixed
LimitNOFILE=65536
LimitMEMLOCK=infinity

DynamicUser=yes
CacheDirectory=vllm
WorkingDirectory=%C/vllm
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
CapabilityBoundingSet=
# Not PrivateDevices= or ProtectClock=, which hide the card, nor MemoryDenyWriteExecute=: vLLM compiles kernels.
"""


def unit_word(word: str) -> str:
    """A word of a command in a unit: see "Command lines" in systemd.service(5)."""
    return unit_setting(word.replace("$", "$$"))


def unit_setting(word: str) -> str:
    """A word of another setting: see "Quoting" in systemd.syntax(7); % would begin a specifier."""
    if re.fullmatch(r"[A-Za-z0-9_./:=,+-]+", word):
        return word
    special = {'"': '\\"', "\\": "\\\\", "%": "%%", "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(special.get(char) or escaped(char) for char in word) + '"'


def escaped(char: str) -> str:
    """Control characters by their number, all others as they are."""
    return char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in char.encode())


def unit_text(text: str) -> str:
    """A text of one line, in which % begins nothing; no backslash may end it."""
    return presets.one_line(text).replace("%", "%%").replace("\\", "/")


CACHES: Final = ("huggingface", "vllm")
"""Weights, and what was compiled: volumes that outlive the container."""
IMAGE_CACHE: Final = PurePosixPath("/root", ".cache")
"""Inside vLLM's image, whose user is root (docs.vllm.ai, "Using Docker")."""


def compose(job: Job) -> str:
    """A composition of one container, for Docker Compose."""
    if job.image is None and job.profile.is_cpu:
        raise UsageError("vLLM's usual image is for GPUs", hint="name one for this processor with --image")
    source = "/model" if job.is_folder else job.source
    parts = arguments(job, source=source, host="0.0.0.0", port=PORT)
    volumes: list[Any] = [f"{name}:{IMAGE_CACHE}/{name}" for name in CACHES]
    if job.is_folder:
        volumes.append({"type": "bind", "source": undollared(job.source), "target": "/model", "read_only": True})
    environment = {name: undollared(value) for name, value in job.profile.vllm_env.items()}
    if job.is_gated:
        environment["HF_TOKEN"] = "${HF_TOKEN:?accept the licence on Hugging Face and set its token}"
    service: dict[str, Any] = {
        "image": undollared(job.image or image_of(job.preset)),
        "entrypoint": ["python3", "-m", ENTRY],
        "command": [undollared(word) for part in parts for word in part],
        **({"environment": environment} if environment else {}),
        "ports": [f"{LOOPBACK}:{job.port}:{PORT}"],
        "volumes": volumes,
        "shm_size": "8gb",
        "security_opt": ["no-new-privileges:true"],
        **({} if job.profile.is_cpu else {"deploy": ONE_GPU}),
        "healthcheck": {
            "test": ["CMD", "python3", "-c", HEALTHY],
            "interval": "15s",
            "timeout": "10s",
            "retries": 4,
            "start_period": f"{START_S}s",
        },
        "restart": "unless-stopped",
    }
    document = {"services": {"vllm": service}, "volumes": {name: {} for name in CACHES}}
    return commented([*origin(job), "Start: docker compose -f FILE up -d"]) + dumped(document)


ONE_GPU: Final = {
    "resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}
}
HEALTHY: Final = f"import urllib.request as r; r.urlopen('http://{LOOPBACK}:{PORT}/health', timeout=9)"


def undollared(text: str) -> str:
    """`text` as Compose takes it: one $ would begin a variable."""
    return text.replace("$", "$$")


def dumped(document: Mapping[str, Any]) -> str:
    """YAML in the order given, one line to a value, in ASCII: some other characters would be taken for line ends."""
    text: str = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=False, width=1_000_000)
    return text


FORMATS: Final[dict[str, Callable[[Job], str]]] = {
    "shell": shell,
    "yaml": vllm_config,
    "systemd": systemd,
    "compose": compose,
}


def text(job: Job, kind: str) -> str:
    """The file of one of `FORMATS`. Raises: UsageError for what cannot be written down."""
    refuse_zero_bytes(job)
    return FORMATS[kind](job)


def write(content: str, path: Path, *, is_program: bool) -> None:
    """Replaces the file at once. Raises: UsageError."""
    try:
        store.replace(path, content.encode(), mode=0o755 if is_program else 0o644)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="choose another file with --out") from error
