"""The samples of the machine in one cell's window, and what of them a reader must know."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from harness.records import EngineMetric, PowerCap, TelemetrySample, TelemetrySummary
from harness.stats.window import Window

MIN_COVERED_SHARE = 0.9
"""A counter or an integral is given only where the samples reach over so much of the window."""

Reading = Callable[[TelemetrySample], float | None]


def telemetry_summary(
    samples: Sequence[TelemetrySample], window: Window, output_tokens: float | None
) -> TelemetrySummary:
    """Means and extremes over the samples in the window; counters and energy from its start to its end.

    Args:  samples: on the requests' clock, ascending; those before and after the window serve for its ends.
           output_tokens: generated in the window. None: not known.
    """
    inside = [s for s in samples if window.start_s <= s.t_s <= window.end_s]
    on_gpu = [s for s in inside if has_gpu(s)]
    energy_j = energy(samples, window)
    foreign = [s.gpu_foreign_pids for s in inside if s.gpu_foreign_pids is not None]
    links = [s.gpu_pcie for s in inside if s.gpu_pcie is not None]
    looked_up = gained(samples, window, engine_metric(EngineMetric.PREFIX_QUERIES))
    hits = gained(samples, window, engine_metric(EngineMetric.PREFIX_HITS))
    waiting = known(inside, engine_metric(EngineMetric.WAITING))
    return TelemetrySummary(
        samples=len(inside),
        has_gpu=bool(on_gpu),
        engine_rss_peak_bytes=max((s.engine_rss_bytes for s in inside if s.engine_rss_bytes is not None), default=None),
        engine_cpu_mean_ratio=mean(known(inside, lambda s: s.engine_cpu_ratio)),
        machine_cpu_mean_ratio=mean(known(inside, lambda s: s.machine_cpu_ratio)),
        gpu_memory_peak_bytes=max((s.gpu_memory_bytes for s in inside if s.gpu_memory_bytes is not None), default=None),
        gpu_power_mean_w=mean(known(inside, lambda s: s.gpu_power_w)),
        energy_j=energy_j,
        energy_per_token_j=energy_j / output_tokens if energy_j is not None and output_tokens else None,
        gpu_clock_mean_hz=mean(known(inside, lambda s: s.gpu_clock_hz)),
        gpu_clock_min_hz=min(known(inside, lambda s: s.gpu_clock_hz), default=None),
        gpu_clock_max_hz=max(known(inside, lambda s: s.gpu_clock_hz), default=None),
        gpu_temperature_max_c=max(known(inside, lambda s: s.gpu_temperature_c), default=None),
        throttle=throttle_shares(on_gpu),
        gpu_pcie=links[-1] if links else None,
        foreign_pids=tuple(sorted({pid for pids in foreign for pid in pids})) if foreign else None,
        running_mean=mean(known(inside, engine_metric(EngineMetric.RUNNING))),
        waiting_mean=mean(waiting),
        waiting_max=max(waiting, default=None),
        kv_used_max_ratio=max(known(inside, engine_metric(EngineMetric.KV_USED_RATIO)), default=None),
        preemptions=gained(samples, window, engine_metric(EngineMetric.PREEMPTIONS)),
        prefix_hit_ratio=hits / looked_up if hits is not None and looked_up else None,
    )


def flags(found: TelemetrySummary) -> tuple[str, ...]:
    """What a reader must know of a cell although its figures count: throttling, strangers on the card, preemptions."""
    out = [throttle_flag(reason, share) for reason, share in sorted(found.throttle.items()) if share > 0]
    if found.has_gpu and found.foreign_pids is None:
        out.append("whether other programs were on the card cannot be told: NVML does not show the engine's own there")
    if found.foreign_pids:
        out.append(f"other programs were on the card: process ids {', '.join(map(str, found.foreign_pids))}")
    if found.preemptions:
        out.append(
            f"the engine preempted {found.preemptions:.0f} requests for want of KV cache: some work was done twice"
        )
    return tuple(out)


def throttle_flag(reason: str, share: float) -> str:
    """One reason for low clocks; a card at its usual power limit is no fault, and is told as what it is."""
    if reason == PowerCap.USUAL:
        return f"the card drew all the power that its maker allows in {share:.0%} of the samples, as under full load"
    return f"the card's clocks were held down in {share:.0%} of the samples: {reason}"


# ---------------------------------------------------------------- of one reading


def engine_metric(name: EngineMetric) -> Reading:
    """Reads one of the engine's own metrics; None in a sample that lacks it."""
    return lambda sample: sample.engine.get(name)


def has_gpu(sample: TelemetrySample) -> bool:
    """Whether a card answered anything at all; not every card tells everything."""
    return any(
        value is not None
        for value in (
            sample.gpu_memory_bytes,
            sample.gpu_power_w,
            sample.gpu_energy_j,
            sample.gpu_temperature_c,
            sample.gpu_clock_hz,
            sample.gpu_utilization_ratio,
        )
    )


def known(samples: Sequence[TelemetrySample], reading: Reading) -> list[float]:
    """The values of the samples that have one."""
    return [value for sample in samples if (value := reading(sample)) is not None]


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return float(np.mean(values)) if values else None


def throttle_shares(on_gpu: Sequence[TelemetrySample]) -> dict[str, float]:
    """Share of the samples of a card in which each reason held."""
    reasons = sorted({reason for sample in on_gpu for reason in sample.gpu_throttle})
    return {reason: sum(reason in s.gpu_throttle for s in on_gpu) / len(on_gpu) for reason in reasons}


# ---------------------------------------------------------------- from the window's start to its end


def energy(samples: Sequence[TelemetrySample], window: Window) -> float | None:
    """Joules of the whole card: from its own counter, else from power by the trapezoid rule."""
    counted = gained(samples, window, lambda s: s.gpu_energy_j)
    if counted is not None:
        return counted
    found = series(samples, window, lambda s: s.gpu_power_w)
    if found is None:
        return None
    times, watts, covered = found
    at = np.unique([covered.start_s, *times[(times > covered.start_s) & (times < covered.end_s)], covered.end_s])
    return float(np.trapezoid(np.interp(at, times, watts), at)) * window.length_s / covered.length_s


def gained(samples: Sequence[TelemetrySample], window: Window, reading: Reading) -> float | None:
    """By how much a counter grew, between samples taken to grow evenly. None where it is unknown or fell.

    A counter that falls was begun anew: what it had counted before is lost.
    """
    found = series(samples, window, reading)
    if found is None:
        return None
    times, counts, covered = found
    if np.any(np.diff(counts) < 0):
        return None
    first, last = np.interp([covered.start_s, covered.end_s], times, counts)
    return float(last - first) * window.length_s / covered.length_s


def standing_s(samples: Sequence[TelemetrySample]) -> float:
    """For how long before the last sample the engine has had requests, and its counters of tokens have not moved.

    0 where it never told its counters. One that has told them, and does not answer any more, stands still too.
    """
    told = [sample for sample in samples if EngineMetric.OUTPUT_TOKENS in sample.engine]
    if not told:
        return 0.0
    rest = itertools.takewhile(lambda one: not is_idle(one) and tokens(one) == tokens(told[-1]), reversed(told))
    since_s = min((sample.t_s for sample in rest), default=samples[-1].t_s)
    return samples[-1].t_s - since_s


def is_idle(sample: TelemetrySample) -> bool:
    """Whether the engine had no request in hand."""
    return not sum(sample.engine.get(name, 0.0) for name in (EngineMetric.RUNNING, EngineMetric.WAITING))


def tokens(sample: TelemetrySample) -> float:
    """Of prompts and answers, since the engine was started."""
    return sum(sample.engine.get(name, 0.0) for name in (EngineMetric.PROMPT_TOKENS, EngineMetric.OUTPUT_TOKENS))


def series(
    samples: Sequence[TelemetrySample], window: Window, reading: Reading
) -> tuple[np.ndarray, np.ndarray, Window] | None:
    """(times, values, the part of the window that they reach over). None where that is under 90% of it."""
    pairs = [(s.t_s, value) for s in samples if (value := reading(s)) is not None]
    if len(pairs) < 2:
        return None
    times, values = np.array(pairs, dtype=float).T
    covered = Window(start_s=max(window.start_s, float(times[0])), end_s=min(window.end_s, float(times[-1])))
    if covered.length_s < MIN_COVERED_SHARE * window.length_s or covered.length_s <= 0:
        return None
    return times, values, covered
