"""How many launches a search needs: ours beside chance, vLLM's auto_tune and plain TPE, on surfaces that are known.

    python tests/bench/tuner_bench.py [--quick] [--of GROUP]... [--seeds 20] [--json FILE] [--page FILE] [--bars]

No GPU is needed: all surfaces but the recorded one are simulated, and so is every minute below. Their true optimum is
known by exhaustion of the simulation without noise, which takes some minutes the first time and is then kept. Surfaces
were written down by hand, or drawn by a rule: one draw to develop the search on, one held out (benchtuner/draws.py).

Definitions. A launch: one candidate, whatever comes of it; the baseline, which every search is given, is none. Found
setting: the best by what was told so far, each value with its noise; the baseline until something is better. Launches
and minutes: until the found setting is truly within 2 % of the true optimum; a search that never is counts with all the
launches that it made, and the figure is marked with a plus sign. Every figure: the median over the seeds [95 % interval
by order statistics]. Ratios: of medians, over surfaces by their geometric mean [95 % interval, bootstrap over seeds].
"""

import argparse
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benchtuner import report, surfaces
from benchtuner.draws import DRAWS, drawn
from benchtuner.racers import RACERS, Race, race, within_log

MISSED_BAR = 10
NOISE = 0.02
WITHIN = 0.02
LEAST, MOST = 24, 150
QUICK_SURFACES, QUICK_SEEDS = 2, 5
GROUPS = ("written", "recorded", *(draw.group for draw in DRAWS))
"""Surfaces that were written down by hand, recorded grids, and the draws."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="How many launches a search needs, on surfaces whose optimum is known.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SURFACES} surfaces, {QUICK_SEEDS} seeds")
    parser.add_argument("--seeds", type=int, default=20, help="of each search on each surface")
    parser.add_argument("--only", default="", metavar="TEXT", help="surfaces whose name has this")
    parser.add_argument(
        "--of", choices=GROUPS, action="append", help="only these surfaces; may be given twice (default: all)"
    )
    parser.add_argument("--first-seed", type=int, default=1, help="searches are seeded from here on")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "harness-surfaces", help="where surfaces are kept"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page with the regret curves there")
    parser.add_argument("--bars", action="store_true", help=f"exit with {MISSED_BAR} if a bar is missed")
    chosen = parser.parse_args(given)
    if chosen.seeds < 1 or chosen.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    chosen.of = chosen.of or list(GROUPS)
    if chosen.quick:
        chosen.seeds, chosen.of = min(chosen.seeds, QUICK_SEEDS), ["written"]
    return chosen


def prepared(chosen: argparse.Namespace) -> list[surfaces.Surface]:
    """All surfaces that were asked for, from the cache or made now."""
    found = []
    written = surfaces.SETUPS[:QUICK_SURFACES] if chosen.quick else (*surfaces.SETUPS, *surfaces.SEEN)
    if "written" in chosen.of:
        wanted = [setup for setup in written if chosen.only in setup.name]
        found += [surfaces.simulated(setup, cache=chosen.cache, jobs=chosen.jobs) for setup in wanted]
    for draw in DRAWS:
        if draw.group in chosen.of:
            found += drawn(draw, within=within_log(WITHIN), cache=chosen.cache, jobs=chosen.jobs, say=say)
    if "recorded" in chosen.of:
        found += surfaces.recorded()
    found = [surface for surface in found if chosen.only in surface.name]
    for surface in found:
        say(report.surface_line(surface, within=within_log(WITHIN)))
    return found


def raced(work: tuple[str, str, int, Path]) -> Race:
    """One search, in a process of its own; the surfaces are the module's, which a fork brings along."""
    name, racer, seed, folder = work
    surface = next(one for one in SURFACES if one.name == name)
    own = folder / f"{SURFACES.index(surface)}"
    own.mkdir(exist_ok=True)
    return race(surface, racer, seed=seed, folder=own, noise=NOISE, within=within_log(WITHIN), least=LEAST, most=MOST)


SURFACES: list[surfaces.Surface] = []


def main(given: list[str] | None = None) -> int:
    chosen = arguments(given)
    SURFACES.extend(prepared(chosen))
    if not SURFACES:
        say(f"no surface has {chosen.only!r} in its name")
        return 2
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(chosen.jobs) as pool:
        work = [(surface.name, racer, seed, Path(folder)) for surface in SURFACES for racer in RACERS for seed in seeds]
        races = list(pool.map(raced, work, chunksize=2))
    found = report.summary(races, surfaces=SURFACES, within=WITHIN, noise=NOISE)
    print(report.text(found))
    if chosen.json:
        chosen.json.write_text(json.dumps({**found, "races": [asdict(one) for one in races]}, indent=1) + "\n")
    if chosen.page:
        chosen.page.write_text(report.page(found, races, surfaces=SURFACES))
    return MISSED_BAR if chosen.bars and not all(bar["met"] for bar in found["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
