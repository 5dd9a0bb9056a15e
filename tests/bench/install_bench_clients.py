"""Install the clients that ours is measured beside, each into an environment of its own; they take about 8 GB.

    python tests/bench/install_bench_clients.py [--into .venv-bench-clients] [--python python3.12]

What cannot be installed leaves its reason in `why-not.txt`, which the benchmark prints; the exit code is 0 even then.
"""

import argparse
import shutil
import sys
from pathlib import Path

from install_peers import installed

CLIENTS = ("guidellm", "aiperf")


def main() -> None:
    parser = argparse.ArgumentParser(description="Install the peers of the client benchmark.")
    parser.add_argument("--into", type=Path, default=Path(".venv-bench-clients"))
    parser.add_argument("--python", default=sys.executable)
    chosen = parser.parse_args()
    for name in CLIENTS:
        folder = chosen.into / name
        why = installed(folder, [[name]], chosen.python)
        if why:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "why-not.txt").write_text(why + "\n")
        print(f"{name}: {why or 'installed'}", flush=True)


if __name__ == "__main__":
    main()
