"""What all tests share: markers by folder, golden files."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anybody imports NumPy. Tests run beside each other, and threads of its BLAS that wait for each other keep the
# cores busy: on two cores that others wanted too, a forward pass of the small model took 3 to 6 s, alone 0.3 to 0.8.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup: what tests start must not inherit that
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files anew from what the code gives now"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder is the marker: accuracy, e2e, gpu."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if marker := {"clients": "e2e"}.get(folder, folder if folder in {"accuracy", "e2e", "gpu"} else None):
            item.add_marker(marker)


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with tests/golden/<name>, or writes it there with --update-golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: pytest --update-golden writes it"
        expected = path.read_text(encoding="utf-8")
        assert text.splitlines() == expected.splitlines(), f"{name} differs: look, then pytest --update-golden"

    return check
