"""The end of the process: one deadline for all handlers, and children that skip ``atexit``.

``logging.shutdown`` flushes and closes every handler as the last of the ``atexit`` functions.
Children of ``multiprocessing`` (and of billiard, Celery's copy of it) end by ``os._exit`` after
their own finalizers, so a finalizer is left with them.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_exiting = False
_deadline: float | None = None
_finalizer_of = 0


def _begin() -> None:
    global _exiting
    _exiting = True


atexit.register(_begin)


def remaining(timeout: float) -> float:
    """``timeout``, or what is left of it where the process ends and time has begun to run."""
    global _deadline
    if not _exiting:
        return timeout
    if _deadline is None:
        _deadline = time.monotonic() + timeout
    return max(_deadline - time.monotonic(), 0.0)


def call_at_end_of_child(function: Callable[[], None]) -> None:
    """Has a child of multiprocessing or billiard call this before it ends; elsewhere nothing."""
    global _finalizer_of
    if _finalizer_of == os.getpid():
        return
    _finalizer_of = os.getpid()

    def end() -> None:
        _begin()
        function()

    for package in ("multiprocessing", "billiard"):
        util: Any = sys.modules.get(f"{package}.util")
        process: Any = sys.modules.get(f"{package}.process")
        if util is None or process is None:
            continue
        if getattr(process.current_process(), "_parent_pid", None) is not None:
            util.Finalize(None, end, exitpriority=-1_000)


def say(text: str) -> None:
    """One line to stderr, if there is one."""
    if sys.stderr is None:  # print() would take stdout
        return
    try:
        print(f"bitacora-logging: {text}", file=sys.stderr)
    except Exception:
        pass
