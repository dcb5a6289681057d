"""What a log call costs the calling thread, with the daemon up, down and stopped.

    BITACORA_BINARY=target/release/bitacora python bench/emit.py [--strict] [--calls N]

The limits are for the handler's share of a log call (its filters and ``emit``); *call* is the
median of the whole ``logger.info("...", argument)``. *Tight* is call upon call; *paced* leaves
some work and a pause between two calls, so that the worker runs in between and caches are cold,
as in an application. Beside it in the same run: ``logging.handlers.SysLogHandler`` to a Unix
datagram socket that is read.
With ``--strict`` the exit status is 1 if a figure of the handler is over its limit.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent / "tests")]

from bitacora_logging import Handler
from conftest import Daemon, binary

MEDIAN_MAX = 20.0
P99_MAX = 100.0


class Timed(logging.Logger):
    """Notes how long its handlers take, in nanoseconds."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__("bench")
        self.addHandler(handler)
        self.took: list[int] = []

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Asks the handlers, by the clock."""
        began = time.perf_counter_ns()
        super().callHandlers(record)
        self.took.append(time.perf_counter_ns() - began)


def measure(handler: logging.Handler, calls: int, paced: bool) -> tuple[float, ...]:
    """Median, p99 and the longest share of the handler, and the median call, in microseconds."""
    logger = Timed(handler)
    clock = time.perf_counter_ns
    whole: list[int] = []
    for number in range(calls):
        began = clock()
        logger.info("order %d of customer %s was sent", number, "ana")
        whole.append(clock() - began)
        if paced:
            sum(range(20_000))
            time.sleep(0.0002)
    took = sorted(logger.took)
    whole.sort()
    parts = (took[calls // 2], took[calls * 99 // 100], took[-1], whole[calls // 2])
    return tuple(part / 1e3 for part in parts)


class SyslogPeer:
    """Reads datagrams and forgets them, in a process of its own as the daemon is."""

    def __init__(self, path: str) -> None:
        self.path = path
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bound.bind(path)
        self.pid = os.fork()
        if self.pid == 0:
            while True:
                bound.recv(65_536)
        bound.close()

    def end(self) -> None:
        """Ends the process."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def rows(daemon: Daemon, directory: Path) -> list[tuple[str, Callable[[], logging.Handler]]]:
    """What is measured: its name, and what makes its handler."""

    def up() -> logging.Handler:
        return Handler(daemon.socket, exit_timeout=5)

    def down() -> logging.Handler:
        daemon.kill()
        return Handler(str(directory / "nobody.sock"), exit_timeout=0)

    def stopped() -> logging.Handler:
        daemon.start()
        handler = Handler(daemon.socket, exit_timeout=0)
        handler.emit(logging.makeLogRecord({"msg": "connect"}))
        handler.flush(5)
        daemon.signal(signal.SIGSTOP)
        return handler

    return [("bitacora, daemon up", up), ("daemon down", down), ("daemon stopped", stopped)]


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--calls", type=int, default=50_000)
    options = parser.parse_args()
    program = binary()
    if program is None:
        print("bench: no daemon: set BITACORA_BINARY, or build target/release/bitacora")
        return 2
    over = 0
    heads = ("median µs", "p99 µs", "max µs", "call µs", "dropped")
    print(" " * 28 + "".join(f"{head:>11}" for head in heads))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        peer = SyslogPeer(str(directory / "syslog"))
        daemon = Daemon(program, directory)
        daemon.start()
        try:
            kinds = rows(daemon, directory)
            kinds.append(
                ("SysLogHandler", lambda: logging.handlers.SysLogHandler(address=peer.path))
            )
            for kind, make in kinds:
                handler = make()
                for way, calls in (("tight", options.calls), ("paced", options.calls // 10)):
                    before = getattr(handler, "dropped", 0)
                    median, p99, longest, call = measure(handler, calls, way == "paced")
                    dropped = handler.dropped - before if isinstance(handler, Handler) else 0
                    bad = isinstance(handler, Handler) and (median > MEDIAN_MAX or p99 > P99_MAX)
                    over += bad
                    figures = f"{median:11.1f}{p99:11.1f}{longest:11.0f}{call:11.1f}{dropped:11}"
                    print(f"{kind}, {way}".ljust(28) + figures + ("  over" if bad else ""))
                with contextlib.redirect_stderr(None):  # lost records are no news here
                    handler.close()
        finally:
            if daemon.process is not None:
                daemon.signal(signal.SIGCONT)
            daemon.kill()
            peer.end()
    print(f"limits: median {MEDIAN_MAX:.0f} µs, p99 {P99_MAX:.0f} µs; {over} over")
    return 1 if over and options.strict else 0


if __name__ == "__main__":
    assert threading.active_count() == 1  # forks come first
    sys.exit(main())
