"""NVML with cards of our making: what is put into a `Card` is what the driver tells, a `Refusal` is raised."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error of NVML."""

    code: int


NOT_SUPPORTED = Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
LOST = Refusal(pynvml.NVML_ERROR_GPU_IS_LOST)
UNKNOWN_QUESTION = Refusal(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


@dataclass
class Card:
    """In the units of NVML: bytes, milliwatts, millijoules, MHz, percent."""

    uuid: str = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
    name: object = "NVIDIA GeForce RTX 4090"
    memory_total: object = 24 * 2**30
    memory_used: object = 9 * 2**30
    memory_reserved: object = 0
    """By the driver; NVML's older answer counts it as used. A refusal: a driver that knows the older answer only."""
    power_mw: object = 312_500
    power_limit_mw: object = 450_000
    usual_limit_mw: object = 450_000
    energy_mj: object = 7_000_000_000
    temperature_c: object = 61
    sm_mhz: object = 2520
    memory_mhz: object = 10501
    busy_percent: object = 97
    reasons: object = 0
    older_reasons: object = UNKNOWN_QUESTION
    generation: object = 4
    lanes: object = 16
    computing: object = ()
    drawing: object = ()


@dataclass
class FakeNvml:
    """Stands in for the module pynvml."""

    cards: list[Card]
    slices: dict[str, Card] = field(default_factory=dict)
    """MIG slices by UUID."""
    open_times: int = 0
    NVMLError: type[Exception] = pynvml.NVMLError
    NVML_ERROR_NOT_FOUND: int = pynvml.NVML_ERROR_NOT_FOUND
    NVML_TEMPERATURE_GPU: int = pynvml.NVML_TEMPERATURE_GPU
    NVML_CLOCK_SM: int = pynvml.NVML_CLOCK_SM
    nvmlMemory_v2: int = pynvml.nvmlMemory_v2  # noqa: N815
    NVML_CLOCK_MEM: int = pynvml.NVML_CLOCK_MEM

    def lose(self) -> None:
        """From now on every card answers that it is lost."""
        for card in [*self.cards, *self.slices.values()]:
            for name in set(vars(card)) - {"uuid"}:
                setattr(card, name, LOST)

    def nvmlInit(self) -> None:  # noqa: N802
        self.open_times += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        if self.open_times == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        self.open_times -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        if self.cards[index].name == LOST:
            raise pynvml.NVMLError(LOST.code)
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:  # noqa: N802
        if uuid not in self.slices:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.slices[uuid]

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.159.04"

    def nvmlDeviceGetMemoryInfo(self, card: Card, version: int | None = None) -> SimpleNamespace:  # noqa: N802
        used, reserved = told(card.memory_used), card.memory_reserved
        if version == self.nvmlMemory_v2:
            return SimpleNamespace(used=used, reserved=told(reserved), total=told(card.memory_total))
        hidden = reserved if isinstance(reserved, int) else 0
        return SimpleNamespace(used=used + hidden, total=told(card.memory_total))

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=told(card.busy_percent), memory=0)

    def nvmlDeviceGetClockInfo(self, card: Card, kind: int) -> Any:  # noqa: N802
        return told({pynvml.NVML_CLOCK_SM: card.sm_mhz, pynvml.NVML_CLOCK_MEM: card.memory_mhz}[kind])

    def nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> Any:  # noqa: N802
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return told(card.temperature_c)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in told(card.computing)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: Card) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in told(card.drawing)]

    def __getattr__(self, question: str) -> Any:
        """The questions that have one answer and no details."""
        name = {
            "nvmlDeviceGetUUID": "uuid",
            "nvmlDeviceGetName": "name",
            "nvmlDeviceGetPowerUsage": "power_mw",
            "nvmlDeviceGetEnforcedPowerLimit": "power_limit_mw",
            "nvmlDeviceGetPowerManagementDefaultLimit": "usual_limit_mw",
            "nvmlDeviceGetTotalEnergyConsumption": "energy_mj",
            "nvmlDeviceGetCurrentClocksEventReasons": "reasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons": "older_reasons",
            "nvmlDeviceGetCurrPcieLinkGeneration": "generation",
            "nvmlDeviceGetCurrPcieLinkWidth": "lanes",
        }.get(question)
        if name is None:
            raise AttributeError(question)
        return lambda card: told(getattr(card, name))


def told(answer: Any) -> Any:
    """The answer. Raises: NVMLError: it is a refusal."""
    if isinstance(answer, Refusal):
        raise pynvml.NVMLError(answer.code)
    return answer
