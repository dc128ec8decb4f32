"""Ctrl-C that ends a run between two steps, so that what it recorded is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], None]]:
    """Hold back the first Ctrl-C until the function that this yields is called; it then raises.

    A second Ctrl-C acts at once. Outside the main thread, where Python lets nobody handle
    signals, and where SIGINT is ignored or handled by somebody else, nothing changes.

    Raises:
        KeyboardInterrupt: From the yielded function, after Ctrl-C.
    """
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is not signal.default_int_handler:
        yield lambda: None
        return
    asked = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
