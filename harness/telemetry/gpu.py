"""The cards that engines use, as NVML tells of them; the one file that knows NVML.

An engine may use several cards. Then memory, power and energy are sums over them, clocks and the PCIe link those of the
slowest, temperature and utilisation those of the highest, and reasons for low clocks those of any. What one of the
cards does not tell is not known of all.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any, Final, TypeVar

import pynvml

from harness.records import PowerCap, Record

Number = TypeVar("Number", int, float)

THROTTLE_REASONS: Final = {
    0x002: "applications clocks setting",
    0x004: PowerCap.UNKNOWN.value,
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake slowdown",
    0x100: "display clock setting",
    0x200: "board limit",
    0x400: "reliability",
}
"""nvmlClocksEventReason… in nvml.h, by bit. 0x001, an idle card, is left out: it holds nothing back."""
IDLE: Final = 0x001


LOWERED_SHARE: Final = 0.99
"""A limit under this share of the usual one was set so; NVML rounds to milliwatts."""


class CardReading(Record, frozen=True, kw_only=True):
    """One card at one moment; None: it does not tell."""

    memory_bytes: int | None = None
    power_w: float | None = None
    energy_j: float | None = None
    temperature_c: float | None = None
    clock_hz: float | None = None
    memory_clock_hz: float | None = None
    utilization_ratio: float | None = None
    throttle: tuple[str, ...] = ()
    pcie: tuple[int, int] | None = None
    """Generation and lanes of the link as it is now; an idle card lowers the generation."""


class Card:
    """One card, or one MIG slice of a card."""

    def __init__(self, nvml: ModuleType, handle: object) -> None:
        self._nvml, self._handle = nvml, handle

    def ask(self, question: Callable[..., Any], *details: object) -> Any:
        """NVML's answer. None: this card or its driver does not tell, or the card is lost."""
        try:
            return question(self._handle, *details)
        except self._nvml.NVMLError:
            return None

    def memory_used_bytes(self) -> int | None:
        """Of all programs on it, without what the driver keeps for itself.

        The question's second version tells the two apart; drivers before 510 know the first one only, in which 0.6 GiB
        of an idle H200 are used.
        """
        memory = self.ask(self._nvml.nvmlDeviceGetMemoryInfo, self._nvml.nvmlMemory_v2)
        memory = self.ask(self._nvml.nvmlDeviceGetMemoryInfo) if memory is None else memory
        return None if memory is None else int(memory.used)

    def reading(self) -> CardReading:
        """All that can be read now."""
        nvml = self._nvml
        utilization = self.ask(nvml.nvmlDeviceGetUtilizationRates)
        generation = self.ask(nvml.nvmlDeviceGetCurrPcieLinkGeneration)
        lanes = self.ask(nvml.nvmlDeviceGetCurrPcieLinkWidth)
        return CardReading(
            memory_bytes=self.memory_used_bytes(),
            power_w=scaled(self.ask(nvml.nvmlDeviceGetPowerUsage), 1e-3),
            energy_j=scaled(self.ask(nvml.nvmlDeviceGetTotalEnergyConsumption), 1e-3),
            temperature_c=scaled(self.ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU), 1.0),
            clock_hz=scaled(self.ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM), 1e6),
            memory_clock_hz=scaled(self.ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM), 1e6),
            utilization_ratio=None if utilization is None else utilization.gpu / 100,
            throttle=tuple(
                self.power_cap().value if word == PowerCap.UNKNOWN else word
                for word in throttle_words(self._clock_reasons())
            ),
            pcie=None if generation is None or lanes is None else (int(generation), int(lanes)),
        )

    def _clock_reasons(self) -> int:
        """Bits; 0 where the driver knows none. Drivers before 535 have the question under its older name only."""
        reasons = self.ask(self._nvml.nvmlDeviceGetCurrentClocksEventReasons)
        older = getattr(self._nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None)
        if reasons is None and older is not None:
            reasons = self.ask(older)
        return int(reasons or 0)

    def power_limit_w(self) -> float | None:
        """What the driver lets it draw, by all limits together."""
        return scaled(self.ask(self._nvml.nvmlDeviceGetEnforcedPowerLimit), 1e-3)

    def default_power_limit_w(self) -> float | None:
        """What its maker set."""
        return scaled(self.ask(self._nvml.nvmlDeviceGetPowerManagementDefaultLimit), 1e-3)

    def power_cap(self) -> PowerCap:
        """Whether a card that draws all it may is held to its usual limit or to a lower one."""
        limit_w, usual_w = self.power_limit_w(), self.default_power_limit_w()
        if limit_w is None or usual_w is None:
            return PowerCap.UNKNOWN
        return PowerCap.LOWERED if limit_w < LOWERED_SHARE * usual_w else PowerCap.USUAL

    def computing_pids(self) -> set[int] | None:
        """Programs that compute on it. None: it does not tell."""
        programs = self.ask(self._nvml.nvmlDeviceGetComputeRunningProcesses)
        return None if programs is None else {int(program.pid) for program in programs}

    def pids(self) -> set[int] | None:
        """Programs that compute or draw on it. None: it does not tell of those that compute."""
        computing = self.computing_pids()
        drawing = self.ask(self._nvml.nvmlDeviceGetGraphicsRunningProcesses) or ()
        return None if computing is None else computing | {int(program.pid) for program in drawing}


class Gpu:
    """The cards that an engine may use; a context manager, because NVML must be shut down.

    Raises: NVMLError: there is no driver, or it shows no card that CUDA_VISIBLE_DEVICES allows.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, *, nvml: ModuleType = pynvml) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._cards = [Card(nvml, handle) for handle in visible(environ.get("CUDA_VISIBLE_DEVICES"), nvml=nvml)]
        if not self._cards:
            nvml.nvmlShutdown()
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)

    def __enter__(self) -> "Gpu":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(self._nvml.NVMLError):  # a driver that was lost has nothing to shut down
            self._nvml.nvmlShutdown()

    @property
    def name(self) -> str:
        """Of the first card, as the driver names it, for example "NVIDIA GeForce RTX 4090"."""
        return str(self._cards[0].ask(self._nvml.nvmlDeviceGetName) or "a card that the driver does not name")

    @property
    def names(self) -> dict[str, str]:
        """Of each card by what CUDA_VISIBLE_DEVICES calls it. Empty strings where the driver does not tell."""
        return {
            str(card.ask(self._nvml.nvmlDeviceGetUUID) or ""): str(card.ask(self._nvml.nvmlDeviceGetName) or "")
            for card in self._cards
        }

    @property
    def id(self) -> str:
        """Which card the first one is: a hash of its serial id, which stays private. Empty: it does not tell."""
        uuid = self._cards[0].ask(self._nvml.nvmlDeviceGetUUID)
        return hashlib.sha256(str(uuid).encode()).hexdigest()[:12] if uuid else ""

    @property
    def driver(self) -> str:
        """Version of the driver."""
        return str(self._nvml.nvmlSystemGetDriverVersion())

    @property
    def power_limit_w(self) -> float | None:
        """What the driver lets the first card draw, by all limits together."""
        return self._cards[0].power_limit_w()

    @property
    def default_power_limit_w(self) -> float | None:
        """What the maker of the first card set."""
        return self._cards[0].default_power_limit_w()

    @property
    def memory_bytes(self) -> int | None:
        """Size of the first card's memory. None: it has none of its own, as where CPU and GPU share one."""
        memory = self._cards[0].ask(self._nvml.nvmlDeviceGetMemoryInfo)
        return None if memory is None else int(memory.total)

    def memory_used_bytes(self) -> int | None:
        """Of all programs on the cards. None: they do not tell."""
        return total(card.memory_used_bytes() for card in self._cards)

    def process_ids(self) -> tuple[int, ...]:
        """Programs that compute on the cards, as far as these tell: in a container NVML may show none."""
        return tuple(sorted(set().union(*(card.computing_pids() or () for card in self._cards))))

    def keep_cards_of(self, own: Collection[int]) -> None:
        """From now on only the cards that these processes are on count; all of them where none is seen on any.

        Without this, a second card that merely lies idle in the machine would count into power and energy.
        """
        self._cards = [card for card in self._cards if (card.pids() or set()) & set(own)] or self._cards

    def foreign_pids(self, own: Collection[int]) -> tuple[int, ...] | None:
        """Programs on the cards besides `own`. None: it cannot be told.

        It can be told only if one of `own` is seen there: in a container NVML may show no process at all, or the ids of
        another namespace, under which the engine itself would pass for a stranger. A program that NVML shows without an
        id is 0.
        """
        lists = [card.pids() for card in self._cards]
        pids: set[int] = set().union(*(one for one in lists if one is not None))
        return tuple(sorted(pids.difference(own))) if None not in lists and pids.intersection(own) else None

    def reading(self) -> dict[str, Any]:
        """The fields of a TelemetrySample that tell of the cards, without `gpu_foreign_pids`."""
        return sample_fields([card.reading() for card in self._cards])


def open_gpu(environ: Mapping[str, str] = os.environ) -> Gpu | None:
    """The cards that a program with this environment may use. None: NVML sees none of them."""
    try:
        return Gpu(environ)
    except pynvml.NVMLError:
        return None


def visible(cuda_visible_devices: str | None, *, nvml: ModuleType) -> list[object]:
    """Handles of the cards that CUDA_VISIBLE_DEVICES allows; None: it is not set, and allows all.

    Numbers count in PCI order, which is CUDA's too where the cards are alike or CUDA_DEVICE_ORDER=PCI_BUS_ID. Names
    may be cut short, as CUDA allows. As in CUDA, the first entry that is no card ends the list.
    """
    cards: dict[int, object] = {}
    with contextlib.suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # a lost card: the others may well work
                cards[index] = nvml.nvmlDeviceGetHandleByIndex(index)
    if cuda_visible_devices is None:
        return list(cards.values())
    chosen = []
    for entry in map(str.strip, cuda_visible_devices.split(",")):
        handle = _chosen(entry, cards, nvml=nvml)
        if handle is None:
            break
        chosen.append(handle)
    return chosen


def _chosen(entry: str, cards: Mapping[int, object], *, nvml: ModuleType) -> object | None:
    if entry.isdecimal():
        return cards.get(int(entry))
    try:
        if entry.startswith("MIG-"):
            slice_of_card: object = nvml.nvmlDeviceGetHandleByUUID(entry)
            return slice_of_card
        matching = [card for card in cards.values() if entry and str(nvml.nvmlDeviceGetUUID(card)).startswith(entry)]
    except nvml.NVMLError:
        return None
    return matching[0] if matching else None


def sample_fields(cards: Sequence[CardReading]) -> dict[str, Any]:
    """One reading of all cards, by the rules at the head of this file."""
    links = [card.pcie for card in cards if card.pcie is not None]
    generation, lanes = min(links, key=lambda link: 2 ** link[0] * link[1]) if len(links) == len(cards) else (0, 0)
    return {
        "gpu_memory_bytes": total(card.memory_bytes for card in cards),
        "gpu_power_w": total(card.power_w for card in cards),
        "gpu_energy_j": total(card.energy_j for card in cards),
        "gpu_temperature_c": of_all(max, (card.temperature_c for card in cards)),
        "gpu_clock_hz": of_all(min, (card.clock_hz for card in cards)),
        "gpu_memory_clock_hz": of_all(min, (card.memory_clock_hz for card in cards)),
        "gpu_utilization_ratio": of_all(max, (card.utilization_ratio for card in cards)),
        "gpu_throttle": tuple(dict.fromkeys(reason for card in cards for reason in card.throttle)),
        "gpu_pcie": f"gen{generation} x{lanes}" if lanes else None,
    }


def throttle_words(reasons: int) -> tuple[str, ...]:
    """Why clocks are held down, from NVML's bits; a bit that has no name here keeps its number."""
    bits = [1 << position for position in range(reasons.bit_length()) if reasons >> position & 1]
    return tuple(THROTTLE_REASONS.get(bit, f"reason {bit:#x}") for bit in bits if bit != IDLE)


def scaled(value: float | None, factor: float) -> float | None:
    """The value in our unit. None stays None."""
    return None if value is None else value * factor


def of_all(choose: Callable[[list[float]], float], values: Iterable[float | None]) -> float | None:
    """One value out of all. None: one of them is not known."""
    known = list(values)
    return None if None in known else choose([value for value in known if value is not None])


def total(values: Iterable[Number | None]) -> Number | None:
    """Their sum. None: one of them is not known."""
    parts = list(values)
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
