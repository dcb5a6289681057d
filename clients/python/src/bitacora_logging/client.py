"""The bounded queue that callers fill, and the worker thread that empties it.

Callers take one lock for a few bytecodes and make no system call, so that they never hand the
interpreter's own lock to the worker in the middle of a log call. The worker wakes by a *bell* (a
lock that is released to ring), waits a moment for company, and sends up to ``batch_records``
records in one write.

A forked child begins anew: its own client id, queue, thread and counters. What the parent has
queued is the parent's to send.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from . import exits, lines
from .connection import Broken, Connection
from .records import Item, note_dropped

_NEVER = sys.maxsize
#: While something is urgent the daemon is tried again this often, in seconds.
_URGENT_RETRY = 0.1
#: The longest wait for the socket; a caller that flushes or closes is noticed after it.
_LOOK_UP = 0.05
#: After a thread could not be started, it is tried again so many seconds later.
_START_AGAIN = 1.0
#: While records are dropped, a record says so this often.
_TELL_AGAIN = 1.0


@dataclass(frozen=True)
class Options:
    """How much a client keeps, and how long it waits."""

    queue_records: int = 10_000
    queue_bytes: int = 64 * 1024 * 1024
    #: ``"drop_oldest"`` or ``"block"``: what a caller does when the queue is full.
    when_full: str = "drop_oldest"
    batch_records: int = 100
    window_records: int = 1_000
    window_bytes: int = 4 * 1024 * 1024
    #: Seconds that a record waits for company.
    linger: float = 0.01
    backoff_first: float = 0.05
    backoff_max: float = 5.0

    def __post_init__(self) -> None:
        if self.when_full not in ("drop_oldest", "block"):
            raise ValueError(f"when_full is {self.when_full!r}: say 'drop_oldest' or 'block'")
        for name in ("queue_records", "queue_bytes", "batch_records", "window_records"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: at least 1 is needed")


class Stats(TypedDict):
    """What a client has done."""

    #: Records that wait in memory.
    queued: int
    #: Records that were sent and have no receipt yet.
    in_flight: int
    #: Records that were written to the socket; sending one again does not count.
    sent: int
    #: Records that the daemon has on its disk.
    acked: int
    #: Records that were given up because the queue was full, or the handler closed.
    dropped: int
    #: Connections after the first.
    reconnects: int
    #: Records that could not be formatted, or that the daemon did not understand.
    errors: int
    #: The last fault of a record or of the connection.
    last_error: str


class Client:
    """Takes items from any thread and sends them in order."""

    def __init__(
        self, path: str, source: str | None, options: Options, end: Callable[[], None]
    ) -> None:
        self.path = path
        self.options = options
        self._source = source
        # Closes the handler at the process's end, which thereby lives while there is a worker.
        self._end = end
        self._closing = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        options = self.options
        self._lock = threading.RLock()  # reentrant: a __del__ or a signal may log in the middle
        self._changed = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._bell = threading.Lock()
        self._bell.acquire()
        self._ring_at = _NEVER
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._head = 0  # positions up to this one have left the queue, sent or dropped
        self._settled = 0  # and up to this one nothing waits for a receipt either
        self._in_hand = 0  # left the queue, and have no line yet
        self._urgent = False
        self._abandoned = self._finished = self._closing  # closed before a fork stays closed
        self._blocked = 0
        self._thread: threading.Thread | None = None
        self._start_after = 0.0
        self._has_stand_in = False  # somebody starts the worker, or does its work
        self._connection = Connection(self.path, options.window_records, options.window_bytes)
        self._wait = 0.0
        self._retry_at = 0.0
        self._taken_at = 0.0
        self._acked_before = 0
        self._dropped_told = 0
        self._told_at = 0.0
        self.dropped = 0
        self.errors = 0
        self.last_error = ""

    # What callers do.

    def put(self, item: Item) -> None:
        """Queues an item, or counts it as dropped."""
        if os.getpid() != self._pid:  # a fork that Python was not told of
            self._begin_in_child()
        with self._lock:
            queue, options = self._queue, self.options
            if (
                len(queue) >= options.queue_records
                or self._bytes + item[0] > options.queue_bytes
                or self._closing
            ):
                self._make_room(item[0])
                if self._closing:
                    self.dropped += 1
                    return
            queue.append(item)
            self._bytes += item[0]
            if len(queue) >= self._ring_at:
                self._ring()
        if self._thread is None:
            self._start()

    def _make_room(self, size: int) -> None:
        options = self.options
        while not self._closing and self._queue:
            if (
                len(self._queue) < options.queue_records
                and self._bytes + size <= options.queue_bytes
            ):
                return
            worker = self._thread
            if options.when_full == "block" and worker not in (None, threading.current_thread()):
                self._blocked += 1
                try:
                    self._room.wait()
                finally:
                    self._blocked -= 1
            else:
                self._bytes -= self._queue.popleft()[0]
                self._head += 1
                self.dropped += 1

    def _ring(self) -> None:
        self._ring_at = _NEVER
        try:
            self._bell.release()
        except RuntimeError:  # it rings already
            pass

    def flush(self, timeout: float) -> bool:
        """Waits until all that was queued before has its receipt or was dropped."""
        if os.getpid() != self._pid:
            self._begin_in_child()
        deadline = time.monotonic() + timeout
        with self._lock:
            target = self._head + len(self._queue)
            if self._settled >= target:
                return True
            if self._thread is threading.current_thread():
                return False
            self._hurry()
        if self._worker_lives():
            with self._lock:
                return self._changed.wait_for(
                    lambda: self._settled >= target, max(deadline - time.monotonic(), 0)
                )
        self._work_here(deadline, lambda: self._settled >= target)
        return self._settled >= target

    def _hurry(self) -> None:
        self._urgent = True
        self._retry_at = 0.0
        self._ring()

    def close(self, timeout: float) -> int:
        """Flushes, ends the worker, and says how many records are lost.

        Those without a receipt count as lost, though the daemon may have stored some.
        """
        if os.getpid() != self._pid:
            self._begin_in_child()
        deadline = time.monotonic() + timeout
        with self._lock:
            if self._finished:
                return 0
            self._closing = True
            self._hurry()
            self._room.notify_all()
        if self._thread is threading.current_thread():
            deadline = 0.0
        elif self._worker_lives():
            with self._lock:
                self._changed.wait_for(lambda: self._finished, max(deadline - time.monotonic(), 0))
        else:
            self._work_here(deadline, lambda: False)
        with self._lock:
            self._abandoned = self._finished = True
            lost = len(self._queue) + self._in_hand + len(self._connection.in_flight)
            self._queue.clear()
            _open.discard(self)
        worker = self._thread
        if worker is not None and worker is not threading.current_thread():
            worker.join(2 * _LOOK_UP)
        self._connection.disconnect()
        return lost

    def _worker_lives(self) -> bool:
        if self._thread is None and self._queue:
            self._start()
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._thread is not None or self._has_stand_in or now < self._start_after:
                return
            self._has_stand_in = True  # a signal handler may log in the middle of this
            _open.add(self)
            worker = threading.Thread(target=self._run, name="bitacora-logging", daemon=True)
            try:
                worker.start()
                self._thread = worker
            except RuntimeError:  # too many threads, or the interpreter ends: close() sends then
                self._start_after = now + _START_AGAIN
            finally:
                self._has_stand_in = False
        exits.call_at_end_of_child(end_all)

    def stats(self) -> Stats:
        """Counters since the process began, or was forked."""
        connection = self._connection
        return Stats(
            queued=len(self._queue),
            in_flight=len(connection.in_flight),
            sent=connection.sent,
            acked=connection.acked,
            dropped=self.dropped,
            reconnects=max(connection.connects - 1, 0),
            errors=self.errors + connection.errors,
            last_error=self.last_error or connection.last_error,
        )

    # What the worker does.

    def _run(self) -> None:
        while True:
            try:
                if self._step():
                    break
            except Exception as error:  # a fault of ours costs a connection, not the thread
                self._failed(error)
        with self._lock:
            self._finished = True
            self._changed.notify_all()

    def _work_here(self, deadline: float, done: Callable[[], bool]) -> None:
        """Does the worker's work where no thread can be started: as the interpreter ends."""
        with self._lock:
            if self._has_stand_in:
                return
            self._has_stand_in = True
        try:
            while not done() and time.monotonic() < deadline:
                try:
                    if self._step():
                        return
                except Exception as error:
                    self._failed(error)
        finally:
            self._has_stand_in = False

    def _step(self) -> bool:
        """One turn; true when there is nothing left to do for ever."""
        if self._abandoned:
            return True
        connection = self._connection
        idle = self._settle()
        if idle and self._closing:
            return True
        if not connection.is_open:
            if idle:
                self._sleep(1, None)
            elif (wait := self._retry_at - time.monotonic()) > 0:
                self._sleep(_NEVER, wait)
            else:
                self._connect()
            return False
        room = connection.room()
        waited = time.monotonic() - self._taken_at
        wait = self.options.linger - waited
        if room and self._queue:
            if wait <= 0 or self._urgent or len(self._queue) >= self.options.batch_records:
                self._send(min(room, self.options.batch_records))
                return False
        else:
            wait = _LOOK_UP if not room or waited > 1 else self.options.linger
        if idle:
            self._sleep(1, None)
            self._taken_at = time.monotonic()  # the first record waits for company
        elif connection.in_flight or not connection.ready or connection.is_writing:
            self._pump(wait)
        else:
            self._sleep(self.options.batch_records, wait)
        return False

    def _settle(self) -> bool:
        """Tells those who wait what has its receipt; true if nothing is left."""
        with self._lock:
            in_flight = self._connection.in_flight
            settled = in_flight[0][0] - 1 if in_flight else self._head
            if settled > self._settled:
                self._settled = settled
                self._changed.notify_all()
            idle = not in_flight and not self._queue
            if idle:
                self._urgent = False
                self._bytes = 0
            return idle

    def _sleep(self, ring_at: int, seconds: float | None) -> None:
        with self._lock:
            if len(self._queue) >= ring_at or (self._urgent and self._retry_at == 0.0):
                return
            if self._closing and seconds is None:
                return
            self._ring_at = ring_at
        self._bell.acquire(timeout=-1 if seconds is None else seconds)
        self._ring_at = _NEVER

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except OSError as error:
            self._failed(error)

    def _pump(self, seconds: float) -> None:
        try:
            self._connection.pump(min(max(seconds, 0.0), _LOOK_UP))
        except (OSError, Broken) as error:
            self._failed(error)
        if self._connection.acked != self._acked_before:
            self._acked_before = self._connection.acked
            self._wait = 0.0

    def _send(self, most: int) -> None:
        batch: list[tuple[int, bytes]] = []
        with self._lock:
            items = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
            self._bytes -= sum(item[0] for item in items)
            position = self._head
            self._head += len(items)
            self._in_hand = len(items)
            dropped = self._dropped_untold()
            if self._blocked:
                self._room.notify_all()
        self._taken_at = time.monotonic()
        if dropped:
            batch.append((position, lines.line(note_dropped(dropped, self._pid), self._source)))
        for item in items:
            position += 1
            try:
                batch.append((position, lines.line(item, self._source)))
            except Exception as error:
                self.errors += 1
                self.last_error = f"{type(error).__name__}: {error}"
                batch.append((position, lines.line_of_fault(item, error)))
        try:
            self._connection.add(batch)
        except OSError as error:
            self._failed(error)
        finally:
            self._in_hand = 0

    def _dropped_untold(self) -> int:
        """How many dropped records the daemon is told of now: once a second, and at the end."""
        dropped = self.dropped - self._dropped_told
        now = time.monotonic()
        if not dropped or (self._queue and now - self._told_at < _TELL_AGAIN):
            return 0
        self._told_at = now
        self._dropped_told = self.dropped
        return dropped

    def _failed(self, error: Exception) -> None:
        """Gives the connection up, and says when the next is tried."""
        self._connection.disconnect()
        if not isinstance(error, (OSError, Broken)):
            self.errors += 1
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.last_error = words or type(error).__name__
        options = self.options
        self._wait = min(max(2 * self._wait, options.backoff_first), options.backoff_max)
        wait = self._wait * random.uniform(0.5, 1.0)  # noqa: S311
        if self._urgent:
            wait = min(wait, _URGENT_RETRY)
        self._retry_at = time.monotonic() + wait

    def _begin_in_child(self) -> None:
        # Only this process's descriptor is closed; the parent's connection goes on.
        self._connection.disconnect()
        self._begin()


#: Clients with a worker, so that a fork finds them.
_open: set[Client] = set()


def end_all() -> None:
    """Closes every handler that may have something to send."""
    for client in list(_open):
        client._end()


def _after_fork_in_child() -> None:
    clients = list(_open)
    _open.clear()
    for client in clients:
        client._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
