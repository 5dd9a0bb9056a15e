"""The signals that end us in order: Ctrl-C, a polite end, a closed terminal."""

import signal


def heeded() -> tuple[signal.Signals, ...]:
    """All three, SIGINT also where a script's `&` has it ignored; but no SIGHUP that `nohup` has us ignore."""
    is_kept = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if is_kept else ()))
