"""Ctrl-C, and the signals by which schedulers and lost connections end a process."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Schedulers and lost connections send them; they end a process unless it says otherwise."""

_Handlers = dict[int, Any]


@contextmanager
def ending_as_ctrl_c() -> Iterator[None]:
    """Let the signals that would end the process raise KeyboardInterrupt, as Ctrl-C does.

    Where a signal is ignored (`nohup`) or handled by somebody else, and outside the main thread,
    where Python lets nobody handle signals, nothing changes.
    """
    with _handled(_interrupt, _that_would_end(ENDING)):
        yield


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], None]]:
    """Hold back the first signal until the function that this yields is called; it then raises.

    A second one acts at once. Where a signal is ignored or handled by somebody else, and outside
    the main thread, nothing changes.

    Raises:
        KeyboardInterrupt: From the yielded function, after Ctrl-C or one of `ENDING`.
    """
    before = _that_would_end((signal.SIGINT, *ENDING))
    asked: int | None = None

    def note(got: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = got
        for number, handler in before.items():
            signal.signal(number, handler)

    def check() -> None:
        if asked is not None:
            _interrupt(asked, None)

    with _handled(note, before):
        yield check


@contextmanager
def interrupt_never_lost() -> Iterator[Callable[[], None]]:
    """Let a signal raise at once, and again from the function that this yields.

    Python drops what is raised in a finalizer or in a callback of C code, where a signal may fall.

    Raises:
        KeyboardInterrupt: At any place, and from the yielded function.
    """
    asked: int | None = None

    def note(got: int, frame: FrameType | None) -> NoReturn:
        nonlocal asked
        asked = got
        _interrupt(got, frame)

    def check() -> None:
        if asked is not None:
            _interrupt(asked, None)

    with _handled(note, _that_would_end((signal.SIGINT, *ENDING))):
        yield check


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes made here never see the terminal's Ctrl-C, nor what it has told all of its group.

    They have it blocked, from their start on; here it comes a moment later.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_ending_alone() -> None:
    """In a process made so: ignore Ctrl-C for good, and let the others raise KeyboardInterrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _that_would_end(ENDING):
        signal.signal(number, _interrupt)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *ENDING})


def _interrupt(got: int, _frame: FrameType | None) -> NoReturn:
    """Raise it as Python does after Ctrl-C, and after another signal with its name."""
    raise KeyboardInterrupt(*([] if got == signal.SIGINT else [signal.Signals(got).name]))


def _that_would_end(numbers: tuple[int, ...]) -> _Handlers:
    """The handlers of those signals that would end this process, and may be replaced here."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in numbers}
    ends = (_interrupt, signal.default_int_handler)
    return {
        number: handler
        for number, handler in found.items()
        if handler in ends or (handler is signal.SIG_DFL and number in ENDING)
    }


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], before: _Handlers) -> Iterator[None]:
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
