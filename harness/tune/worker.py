"""One of several workers of a search: the program that `workers.Team` starts."""

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from harness.errors import HarnessError
from harness.recording import Recording
from harness.store import RunFolder, on_disk
from harness.tune.study import Study
from harness.tune.workers import Job, Word
from harness.tune.world import world_of

PATIENCE_S: Final = 45.0
"""To stop the engine in order, when the tuner is gone."""
INTERRUPTED: Final = 130


def main() -> int:
    """Searches until there is nothing left to do. Returns: the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        line = sys.stdin.buffer.readline()
        if not line:
            return INTERRUPTED
        threading.Thread(target=end_with_the_tuner, daemon=True).start()
        work(msgspec.json.decode(line, type=Job))
    except HarnessError as error:
        tell(Word(kind="error", text=error.message, error=type(error).__name__, hint=error.hint))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the last resort, as of the command line
        traceback.print_exc()
        tell(Word(kind="error", text=f"a bug of harness: {error!r}", hint="please report it with its worker-*.log"))
        return HarnessError.exit_code
    return 0


def work(job: Job) -> None:
    """Candidates, one after another. Raises: HarnessError."""
    folder = RunFolder(Path(job.run))
    recording = Recording(folder, folder.run(), is_shared=True)
    world = world_of(job.plan, folder, storage=job.storage, worker=job.worker)
    study = Study(job.plan, recording, say=says, world=world, worker=job.worker, spent_s=job.spent_s)
    with on_disk(folder.path):
        study.search_as_worker(Path(job.results))
    recording.settle()


def says(text: str) -> None:
    """To the tuner, which tells who said it."""
    tell(Word(kind="says", text=text))


def tell(word: Word) -> None:
    """One line, whole."""
    try:
        os.write(sys.stdout.fileno(), msgspec.json.encode(word) + b"\n")
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGINT)  # the tuner is gone


def end_with_the_tuner() -> None:
    """Interrupts this process when the tuner closes our stdin, or has died; ends it where that takes too long."""
    while os.read(0, 4096):  # not by sys.stdin, whose lock would still be held when Python ends
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE_S)
    os._exit(INTERRUPTED)


def interrupt(*_: object) -> NoReturn:
    """The answer to all signals: the engine is stopped and the candidate given back on the way."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
