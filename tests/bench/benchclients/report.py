"""The tables, and what each bar's interval supports."""

from dataclasses import dataclass

from benchproxy.figures import Estimate, added, over_rounds, paired, ratio, verdict
from benchproxy.report import FEWEST_ROUNDS, NOISY_CORES, PERCENT, Bar, scaled, shown, table

from benchclients.rounds import Row

OURS = "harness"
JUDGED_USERS = 100
MOST_TTFT_BIAS_MS, MOST_ITL_BIAS_MS = 2.0, 0.2
ALIKE_MS = 0.02
"""Two biases of the ITL nearer to one another than a thousandth of it are the same."""
LEAST_SHARE, MOST_CPU = 0.99, 0.8


def column(rows: list[Row], tool: str, users: int, name: str) -> list[float | None]:
    """One figure of one client at one load, a value a round; None where it failed."""
    chosen = {row["round"]: row[name] for row in rows if row["tool"] == tool and row["users"] == users}
    count = 1 + max((row["round"] for row in rows if row["users"] == users), default=-1)
    return [chosen.get(number) for number in range(count)]


def _without_sign(values: list[float | None]) -> list[float | None]:
    return [None if value is None else abs(value) for value in values]


def load_text(rows: list[Row], users: int) -> str:
    """Every client at one load."""
    names = list(dict.fromkeys(row["tool"] for row in rows if row["users"] == users))
    head = [
        f"{users} users",
        "TTFT p50",
        "- did",
        "ITL p50",
        "- did",
        "CPU us/token",
        "CPU s in all",
        "tok/s",
        "n",
        "wall s",
    ]
    lines = []
    for name in names:
        of = {
            figure: over_rounds(column(rows, name, users, figure))
            for figure in (
                *("ttft_ms", "ttft_bias_ms", "itl_ms", "itl_bias_ms", "cpu_us_per_token", "cpu_whole_s", "tok_s"),
                *("requests_seen", "wall_s"),
            )
        }
        lines.append(
            [
                name,
                *(shown(of[figure]) for figure in ("ttft_ms", "ttft_bias_ms")),
                *(shown(of[figure], 3) for figure in ("itl_ms", "itl_bias_ms")),
                shown(of["cpu_us_per_token"], 0),
                shown(of["cpu_whole_s"], 1),
                shown(of["tok_s"], 0),
                f"{of['requests_seen'].n} x {of['requests_seen'].value:.0f}",
                f"{of['wall_s'].value:.0f}",
            ]
        )
    return table(head, lines)


def rate_text(rates: list[Row]) -> str:
    """The runs of the rate test."""
    head = [
        "rate test",
        "offered",
        "sent by the server",
        "seen",
        "share %",
        "CPU of each process",
        "lag p50/p99 ms",
        "server CPU",
    ]
    return table(
        head,
        [
            [
                f"run {row['round'] + 1}",
                *(f"{row[name]:.0f}" for name in ("offered_tok_s", "sent_tok_s", "seen_tok_s")),
                f"{row['share'] * PERCENT:.2f}",
                " ".join(f"{used:.2f}" for used in row["cpu_ratios"]),
                f"{row['lag_p50_ms']:.2f}/{row['lag_p99_ms']:.2f}",
                f"{row['server_cpu_ratio']:.2f}",
            ]
            for row in rates
        ],
    )


@dataclass(frozen=True)
class Judge:
    """Our client at the judged load, beside the peers."""

    rows: list[Row]
    users: int = JUDGED_USERS

    def bias(self, name: str, figure: str, limit_ms: float) -> Bar:
        """How far our median is off."""
        found = over_rounds(_without_sign(column(self.rows, OURS, self.users, figure)))
        return self._bar(name, limit_ms, found, "ms", digits=3)

    def smallest(self, name: str, figure: str, alike_ms: float) -> Bar:
        """Our bias less that of the best peer."""
        ours = _without_sign(column(self.rows, OURS, self.users, figure))
        best, others = self._best(lambda tool: _without_sign(column(self.rows, tool, self.users, figure)))
        return self._bar(name, alike_ms, paired(ours, others, added), "ms", note=f"best peer: {best}", digits=3)

    def cost(self) -> Bar:
        """Our processor time per token over that of the best peer."""
        best, others = self._best(lambda tool: column(self.rows, tool, self.users, "cpu_us_per_token"))
        found = paired(column(self.rows, OURS, self.users, "cpu_us_per_token"), others, ratio)
        return self._bar("CPU per token / best peer's", 1.0, found, "", note=f"best peer: {best}", digits=2)

    def _best(self, values_of) -> tuple[str, list[float | None]]:
        peers = dict.fromkeys(row["tool"] for row in self.rows if row["tool"] != OURS and row["users"] == self.users)
        known = {tool: found.value for tool in peers if (found := over_rounds(values_of(tool)))}
        best = min(known, key=lambda tool: known[tool], default="")
        return (best, values_of(best)) if best else ("none was measured", [])

    def _bar(self, name: str, limit: float, found: Estimate | None, unit: str, *, digits: int, note: str = "") -> Bar:
        told = f"<= {limit:g} {unit}".rstrip()
        if found is None:
            return Bar(name, told, "-", 0, "UNDECIDED", note or "not measured")
        result = verdict(found, limit)
        others = over_rounds([row["foreign_cores"] for row in self.rows if row["users"] == self.users])
        if found.n < FEWEST_ROUNDS:
            result, note = "UNDECIDED", f"fewer than {FEWEST_ROUNDS} rounds have no 95 % interval"
        elif result == "MISSED" and others and others.value > NOISY_CORES:
            result, note = "UNDECIDED", f"{note}; other programs took {others.value:.2f} cores".strip("; ")
        return Bar(name, told, f"{shown(found, digits)} {unit}".rstrip(), found.n, result, note)


def bars(rows: list[Row], rates: list[Row]) -> list[Bar]:
    """Every bar, those that were not measured included."""
    judge = Judge(rows)
    at = f"at {JUDGED_USERS} users"
    return [
        judge.bias(f"TTFT p50 bias {at}", "ttft_bias_ms", MOST_TTFT_BIAS_MS),
        judge.bias(f"ITL p50 bias {at}", "itl_bias_ms", MOST_ITL_BIAS_MS),
        judge.smallest("TTFT p50 bias less the best peer's", "ttft_bias_ms", 0.0),
        judge.smallest("ITL p50 bias less the best peer's", "itl_bias_ms", ALIKE_MS),
        judge.cost(),
        *_rate_bars(rates),
    ]


def _rate_bars(rates: list[Row]) -> list[Bar]:
    name, limit = "share of 15,000 tok/s that 4 processes take in", f">= {LEAST_SHARE:.0%}"
    reached, of_sent, used, others = (
        over_rounds([row[figure] for row in rates])
        for figure in ("share", "share_of_sent", "cpu_ratio", "foreign_cores")
    )
    if reached is None or of_sent is None or used is None:
        return [Bar(name, limit, "-", 0, "UNDECIDED", "not measured")]
    short = Estimate(1 - reached.value, 1 - reached.high, 1 - reached.low, reached.n)
    told = [f"{shown(scaled(of_sent, PERCENT))} % of what the server sent"]
    result = verdict(short, 1 - LEAST_SHARE)
    if result == "MISSED" and others and others.value > NOISY_CORES:
        result = "UNDECIDED"
        told.append(f"other programs took {others.value:.2f} cores")
    found = f"{shown(scaled(reached, PERCENT))} %"
    return [
        Bar(name, limit, found, reached.n, result, "; ".join(told)),
        Bar("CPU of the busiest of them", f"<= {MOST_CPU:g} cores", shown(used), used.n, verdict(used, MOST_CPU)),
    ]
