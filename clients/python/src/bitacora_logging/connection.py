"""The socket of one numbered client: lines go out, and are kept until their receipt has come.

``docs/protocol.md`` of bitacora describes what is said here. Only the client's worker calls these
functions; none of them waits longer than it is told to.
"""

from __future__ import annotations

import json
import select
import socket
import uuid
from collections import deque

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_ANSWER_BYTES_MAX = 65_536


class Broken(Exception):  # noqa: N818
    """The connection is of no use any more; its words say why."""


class Connection:
    """Sends numbered lines, and sends them again after a new connection, until acknowledged."""

    def __init__(self, path: str, window_records: int, window_bytes: int) -> None:
        self.path = path
        self.window_records = window_records
        self.window_bytes = window_bytes
        #: What has no receipt: position in the queue, and line.
        self.in_flight: deque[tuple[int, bytes]] = deque()
        self.sent = 0
        self.acked = 0
        self.connects = 0
        self.errors = 0
        self.last_error = ""
        #: The daemon has answered the first line; lines may follow.
        self.ready = False
        self._client = uuid.uuid4()
        self._first = 1  # the number of in_flight[0], or of the next line
        self._in_flight_bytes = 0
        self._socket: socket.socket | None = None
        self._out: deque[memoryview] = deque()
        self._resend: list[bytes] = []
        self._answers = b""

    @property
    def is_open(self) -> bool:
        """There is a socket, though perhaps not yet an answer."""
        return self._socket is not None

    @property
    def is_writing(self) -> bool:
        """Something waits for the socket to take it."""
        return bool(self._out)

    def room(self) -> int:
        """So many lines may be added."""
        if not self.ready or self._out or self._in_flight_bytes >= self.window_bytes:
            return 0
        return max(self.window_records - len(self.in_flight), 0)

    def connect(self) -> None:
        """Connects and says who this is. Raises OSError."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.connect(self.path)
        except BaseException:
            made.close()
            raise
        self._socket = made
        hello = {"bitacora": 1, "ack": True, "client": str(self._client), "next": self._first}
        self._out.append(memoryview(json.dumps(hello).encode() + b"\n"))
        # All from number `next` on are sent again, also those that turn out to be stored.
        self._resend = [line for _, line in self.in_flight]

    def disconnect(self) -> None:
        """Closes this process's end; what had no receipt is kept."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self.ready = False
        self._out.clear()
        self._resend = []
        self._answers = b""

    def add(self, lines: list[tuple[int, bytes]]) -> None:
        """Numbers lines and begins to send them. Raises OSError."""
        self.in_flight.extend(lines)
        joined = b"".join([line for _, line in lines])
        self._in_flight_bytes += len(joined)
        self.sent += len(lines)
        self._out.append(memoryview(joined))
        self._write()

    def pump(self, timeout: float) -> None:
        """Waits for the socket at most so many seconds, then reads and writes what it can.

        Raises OSError and Broken.
        """
        assert self._socket is not None
        readable, writable = _wait(self._socket, bool(self._out), timeout)
        if readable:
            self._read()
        if writable and self._socket is not None:
            self._write()

    def _write(self) -> None:
        assert self._socket is not None
        while self._out:
            try:
                written = self._socket.send(self._out[0], _NO_SIGNAL)
            except BlockingIOError:
                return
            if written == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][written:]

    def _read(self) -> None:
        assert self._socket is not None
        try:
            got = self._socket.recv(_ANSWER_BYTES_MAX)
        except BlockingIOError:
            return
        if not got:
            raise Broken("the daemon has closed the connection")
        *answers, self._answers = (self._answers + got).split(b"\n")
        if len(self._answers) > _ANSWER_BYTES_MAX:
            raise Broken("the peer does not speak bitacora's protocol")
        for answer in answers:
            self._answer(answer)

    def _answer(self, text: bytes) -> None:
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        acked = answer.get("acked") if isinstance(answer, dict) else None
        error = answer.get("error") if isinstance(answer, dict) else None
        if error is not None and "record" in answer:  # stored, but not understood
            self.errors += 1
            self.last_error = str(error)
        elif error is not None:
            raise Broken(f"the daemon refuses: {error}")
        elif not isinstance(acked, int) or not (self.ready or answer.get("bitacora") == 1):
            raise Broken("the peer does not speak bitacora's protocol")
        else:
            self._receipt(acked)
            if not self.ready:
                self.ready = True
                self.connects += 1
                if self._resend:
                    self._out.append(memoryview(b"".join(self._resend)))
                    self._resend = []
                    self._write()

    def _receipt(self, upto: int) -> None:
        if upto >= self._first + len(self.in_flight):
            # Numbers of another life: only a client that begins anew is understood.
            self._client, self._first = uuid.uuid4(), 1
            raise Broken("the daemon acknowledges records that were never sent")
        while self._first <= upto:
            _, line = self.in_flight.popleft()
            self._in_flight_bytes -= len(line)
            self._first += 1
            self.acked += 1


def _wait(what: socket.socket, also_write: bool, timeout: float) -> tuple[bool, bool]:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(what, select.POLLIN | (select.POLLOUT if also_write else 0))
        events = poll.poll(timeout * 1000)
        mask = events[0][1] if events else 0
        return bool(mask & ~select.POLLOUT), bool(mask & select.POLLOUT)
    readable, writable, _ = select.select([what], [what] if also_write else [], [], timeout)
    return bool(readable), bool(writable)
