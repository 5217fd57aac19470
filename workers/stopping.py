"""When a process of ours stops: at a signal, or as soon as the process that started it is gone."""

import os
import signal
import threading


def stop_on_signals(stop: threading.Event) -> None:
    """SIGINT and SIGTERM set ``stop``. Only from the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())


def signal_when_parent_dies(parent_fd: int | None) -> None:
    """Sends this process a SIGTERM when the write end of that pipe closes: the kernel does so even after a kill -9 of
    the parent. Nothing happens for None."""
    if parent_fd is None:
        return

    def watch() -> None:
        while os.read(parent_fd, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
