"""The tables, and what each bar's interval supports."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from benchproxy.figures import Estimate, Verdict, added, loss, over_rounds, paired, ratio, slope, verdict

Rows = list[dict]
PERCENT = 100
FLAT_MIB = 1.0
TOO_BUSY = 0.85
NOISY_CORES = 0.25
NOT_CARRIED = 0.05
FEWEST_ROUNDS = 5


def column(rows: Rows, scenario: str, target: str, name: str) -> list[float | None]:
    """One figure of one target, a value a round."""
    chosen = [row for row in rows if row["scenario"] == scenario and row["target"] == target]
    return [row[name] for row in sorted(chosen, key=lambda row: row["round"])]


def over_direct(rows: Rows, scenario: str, target: str, name: str, how: Callable = added) -> Estimate | None:
    """A target's figure against direct of the same round."""
    return paired(column(rows, scenario, target, name), column(rows, scenario, "direct", name), how)


def shown(found: Estimate | None, digits: int = 2) -> str:
    """`0.21 [0.19, 0.25]`."""
    if found is None:
        return "-"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def scaled(found: Estimate | None, by: float) -> Estimate | None:
    return found and Estimate(found.value * by, found.low * by, found.high * by, found.n)


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    cells = [head, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return "\n".join(
        "  "
        + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    )


def scenario_text(rows: Rows, scenario: str, names: list[str]) -> str:
    """Latency and cost of every target, over direct in the same round."""
    proxies = [name for name in names if name != "direct"]
    times = ["token_p50_ms", "token_p95_ms", "token_p99_ms", "ttft_p50_ms", "ttft_p95_ms", "itl_p99_ms"]
    head = [time.replace("_ms", "").replace("_", " ") for time in times]
    absolute = [shown(over_rounds(column(rows, scenario, "direct", time))) for time in times]
    latency = [["direct (absolute)", *absolute]]
    latency += [["+ " + name, *(shown(over_direct(rows, scenario, name, time)) for time in times)] for name in proxies]
    ours = next((name for name in proxies if name.startswith("ours")), None)
    cost = []
    for name in names:
        cpu = column(rows, scenario, name, "cpu_us_per_token")
        against = paired(cpu, column(rows, scenario, ours, "cpu_us_per_token"), ratio) if ours else None
        lost = scaled(over_direct(rows, scenario, name, "tok_s", loss), PERCENT)
        rss = over_rounds(column(rows, scenario, name, "rss_mib"))
        cost.append(
            [
                name,
                shown(over_rounds(cpu), 1),
                shown(against),
                shown(over_rounds(column(rows, scenario, name, "tok_s")), 0),
                "" if name == "direct" else shown(lost),
                f"{rss.value:.0f}" if rss else "-",
                failures(rows, scenario, name),
            ]
        )
    heads = ["cost", "CPU us/token", "x ours", "tok/s", "loss %", "RSS MiB", "incomplete"]
    return f"{table(['ms added over direct', *head], latency)}\n\n{table(heads, cost)}"


def failures(rows: Rows, scenario: str, target: str) -> str:
    """Answers that were not whole, of all."""
    counted: dict[str, int] = {}
    for row in rows:
        if row["scenario"] == scenario and row["target"] == target:
            for why, count in row["failures"].items():
                counted[why] = counted.get(why, 0) + count
    return str(sum(counted.values()))


@dataclass(frozen=True)
class Bar:
    """One bar and what this run says of it."""

    name: str
    limit: str
    found: str
    n: int
    verdict: Verdict
    note: str = ""


def bars(
    rows: Rows, memory: Rows, *, peers: list[str], cores: int, workers: str | None, offered_tok_s: float
) -> list[Bar]:
    """Every bar of the benchmark, those that were not measured included."""
    steady = Judge(rows, "steady", "ours", cores)
    several = Judge(rows, "workers", workers or "", cores)
    return [
        steady.cost("CPU per token", 45.0),
        steady.share("CPU per token / best peer's", 0.5, peers),
        steady.latency("added token latency p50", 0.3, "token_p50_ms"),
        steady.latency("added token latency p95", 3.0, "token_p95_ms"),
        steady.latency("added TTFT p50", 5.0, "ttft_p50_ms"),
        steady.loss(f"throughput loss at {offered_tok_s:,.0f} tok/s", 1.0),
        several.loss(f"throughput loss at {3 * offered_tok_s:,.0f} tok/s, workers", 1.0),
        _memory_bar(memory),
    ]


@dataclass(frozen=True)
class Judge:
    """One target in one scenario, held against limits."""

    rows: Rows
    scenario: str
    target: str
    cores: int

    def cost(self, name: str, limit: float) -> Bar:
        """Processor time per token."""
        charged = over_rounds(column(self.rows, self.scenario, "floor", "cpu_us_per_token"))
        doubt = f"a bare relay costs {charged.value:.0f} us here" if charged and charged.low > limit else ""
        found = over_rounds(column(self.rows, self.scenario, self.target, "cpu_us_per_token"))
        bar = self._bar(name, limit, "us", found, doubt=doubt)
        lost = over_direct(self.rows, self.scenario, self.target, "tok_s", loss)
        if bar.verdict == "MET" and lost and lost.high > NOT_CARRIED:
            why = f"up to {lost.high:.0%} of the load was not carried: a proxy that lags reads several tokens at once"
            return replace(bar, verdict="UNDECIDED", note=why)
        return bar

    def share(self, name: str, limit: float, peers: list[str]) -> Bar:
        """Processor time per token over that of the cheapest peer."""
        costs = {peer: over_rounds(column(self.rows, self.scenario, peer, "cpu_us_per_token")) for peer in peers}
        known = {peer: cost.value for peer, cost in costs.items() if cost}
        if not known:
            return Bar(name, f"<= {limit:g}", "-", 0, "UNDECIDED", "no peer was measured")
        best = min(known, key=lambda peer: known[peer])
        cpu = (column(self.rows, self.scenario, who, "cpu_us_per_token") for who in (self.target, best))
        return self._bar(name, limit, "", paired(*cpu, ratio), note=f"best: {best}")

    def latency(self, name: str, limit: float, figure: str) -> Bar:
        """A quantile over direct's."""
        charged = over_direct(self.rows, self.scenario, "floor", figure)
        doubt = f"a bare relay adds {charged.value:.2f} ms here" if charged and charged.low > limit else ""
        found = over_direct(self.rows, self.scenario, self.target, figure)
        return self._bar(name, limit, "ms", found, doubt=doubt or self._doubt())

    def loss(self, name: str, limit: float) -> Bar:
        """Throughput lost, in percent of direct's."""
        found = scaled(over_direct(self.rows, self.scenario, self.target, "tok_s", loss), PERCENT)
        return self._bar(name, limit, "%", found, doubt=self._doubt())

    def _bar(
        self, name: str, limit: float, unit: str, found: Estimate | None, *, doubt: str = "", note: str = ""
    ) -> Bar:
        """`doubt` is why this machine cannot call the bar missed; a bar that is met all the same is met."""
        told = f"<= {limit:g} {unit}".rstrip()
        if found is None:
            return Bar(name, told, "-", 0, "UNDECIDED", "not measured")
        result = verdict(found, limit)
        if found.n < FEWEST_ROUNDS:
            result, note = "UNDECIDED", f"fewer than {FEWEST_ROUNDS} rounds have no 95 % interval"
        elif result != "MET" and doubt:
            result, note = "UNDECIDED", doubt
        return Bar(name, told, f"{shown(found)} {unit}".rstrip(), found.n, result, note)

    def _doubt(self) -> str:
        """Why latencies of this run cannot be held against anyone; empty where they can."""
        if self.cores < 2:
            return "one core for everything"
        for who in ("client_busy", "mock_busy"):
            load = over_rounds(column(self.rows, self.scenario, self.target, who))
            if load and load.value > TOO_BUSY:
                return f"{who.split('_')[0]} at {load.value:.0%} of its core"
        others = over_rounds(column(self.rows, self.scenario, self.target, "foreign_cores"))
        if others and others.value > NOISY_CORES:
            return f"other programs took {others.value:.2f} cores"
        return ""


def growth_mib(memory: Rows) -> float | None:
    """Growth over the last half of the requests: the median of the last quarter's readings less the third quarter's
    before it, twice, for the two lie a quarter apart."""
    half = [row["rss_mib"] for row in memory[len(memory) // 2 :]]
    if len(half) < 4:
        return None
    middle = len(half) // 2
    early, late = over_rounds(half[:middle]), over_rounds(half[middle:])
    return 2 * (late.value - early.value) if early and late else None


def _memory_bar(memory: Rows) -> Bar:
    ours = [row for row in memory if row["target"] == "ours"]
    name, limit = f"memory over {ours[-1]['requests'] if ours else 0} requests", f"flat: <= {FLAT_MIB:g} MiB"
    grown = growth_mib(ours)
    if grown is None:
        return Bar(name, limit, "-", 0, "UNDECIDED", "not measured")
    steady = slope([(row["requests"] / 1000, row["rss_mib"] * 1024) for row in ours[len(ours) // 4 :]])
    failed = sum(sum(row["failures"].values()) for row in ours)
    found = f"{grown:+.2f} MiB over the last half"
    why = f"{ours[0]['rss_mib']:.1f} to {ours[-1]['rss_mib']:.1f} MiB; {shown(steady, 1)} KiB per 1,000 requests"
    if failed:
        return Bar(name, limit, found, len(ours), "UNDECIDED", f"{failed} requests failed")
    return Bar(name, limit, found, len(ours), "MET" if grown <= FLAT_MIB else "MISSED", why)


def bars_text(found: list[Bar]) -> str:
    head = ["bar", "limit", "found [95 %]", "n", "verdict", "note"]
    lines = [[bar.name, bar.limit, bar.found, str(bar.n), bar.verdict, bar.note] for bar in found]
    cells = [head, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)
