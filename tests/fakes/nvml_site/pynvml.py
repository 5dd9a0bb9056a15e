"""pynvml for a whole process, with FAKE_CARDS cards of our making in place of a driver's; errors are the real ones."""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
spec = importlib.machinery.PathFinder.find_spec("pynvml", [one for one in sys.path if Path(one).absolute() != HERE])
assert spec is not None
assert spec.loader is not None
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
globals().update({name: value for name, value in vars(real).items() if not name.startswith("__")})

from tests.fakes.nvml import Card, FakeNvml  # noqa: E402 - it takes the constants from here

driver = FakeNvml([Card(uuid=f"GPU-{number}") for number in range(int(os.environ["FAKE_CARDS"]))])
questions = [name for name in vars(real) if name.startswith(("nvmlDeviceGet", "nvmlSystemGet", "nvmlInit", "nvmlShut"))]
globals().update({name: getattr(driver, name) for name in questions if hasattr(driver, name)})
