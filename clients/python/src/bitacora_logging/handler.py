"""The handler for Python's ``logging``."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Any

from . import exits, records
from .client import Client, Options, Stats

DEFAULT_PATH = "/run/bitacora/log.sock"


class Handler(logging.Handler):
    """Sends records to the daemon; logging never waits for it (unless ``when_full="block"``).

    ``path`` is the daemon's stream socket; by default the environment's ``BITACORA_SOCKET``, else
    ``/run/bitacora/log.sock``. ``source`` is what the rows' column ``source`` says; the daemon's
    word without it is ``app``. The further options are those of
    :class:`bitacora_logging.Options`, above all ``when_full`` and ``queue_records``.

    ``flush`` and ``close`` wait at most ``exit_timeout`` seconds for receipts; so does the end of
    the process, for all handlers together. A formatter is not used, but for a ``formatException``
    of its own.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        source: str | None = None,
        level: int | str = logging.NOTSET,
        exit_timeout: float = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(level)
        path = path or os.environ.get("BITACORA_SOCKET") or DEFAULT_PATH
        self.exit_timeout = exit_timeout
        self._failing = threading.local()
        self._closed_already = False
        self._client = Client(os.fspath(path), source, Options(**options), self.close)
        _handlers.append(weakref.ref(self))

    def handle(self, record: logging.LogRecord) -> Any:
        """Filters and emits, without the lock of ``logging.Handler``: the queue has its own."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Notes the record in the queue. Never raises."""
        try:
            fault = None
            try:
                message = record.getMessage()
                if type(message) is not str:
                    message = str(message)
            except RecursionError:
                raise
            except Exception as error:
                message, fault = _unformatted(record), f"{type(error).__name__}: {error}"
                self._fault(record)
            self._client.put(records.note(record, message, fault, self.formatter))
        except RecursionError:
            # There is no stack left to say more: whoever recurses finds out by himself.
            self._client.errors += 1
        except Exception:
            self._fault(record)

    def _fault(self, record: logging.LogRecord) -> None:
        """Counts and shows the error at hand. ``sys.stderr`` may be a logger that leads here."""
        self._client.errors += 1
        if getattr(self._failing, "now", False):
            return
        self._failing.now = True
        try:
            self.handleError(record)
        except Exception:
            pass
        finally:
            self._failing.now = False

    def count_error(self) -> None:
        """Counts an event that could not be sent."""
        self._client.errors += 1

    def emit_event(self, item: records.Item) -> None:
        """Queues a user event; see :func:`bitacora_logging.event`."""
        self._client.put(item)

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Waits until what was logged so far is on the daemon's disk; false if it took too long."""
        if self._closed_already:
            return True
        timeout = exits.remaining(self.exit_timeout) if timeout is None else timeout
        return self._client.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flushes, ends the worker, and says on stderr how many records are lost, if any."""
        if not self._closed_already:
            self._closed_already = True
            timeout = exits.remaining(self.exit_timeout) if timeout is None else timeout
            lost = self._client.close(timeout)
            stats = self._client.stats()
            if lost or stats["dropped"]:
                exits.say(
                    f"{lost + stats['dropped']} records lost"
                    f" ({lost} without a receipt from {self._client.path},"
                    f" {stats['dropped']} dropped as the queue was full)"
                    + (f"; last error: {stats['last_error']}" if stats["last_error"] else "")
                )
        super().close()

    def stats(self) -> Stats:
        """Counters since the process began, or was forked."""
        return self._client.stats()

    @property
    def is_closed(self) -> bool:
        """Nothing is taken any more."""
        return self._closed_already

    @property
    def sent(self) -> int:
        """Records written to the socket."""
        return self.stats()["sent"]

    @property
    def acked(self) -> int:
        """Records that are on the daemon's disk."""
        return self.stats()["acked"]

    @property
    def dropped(self) -> int:
        """Records given up because the queue was full, or the handler closed."""
        return self.stats()["dropped"]

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return self.stats()["reconnects"]

    @property
    def errors(self) -> int:
        """Records that could not be formatted, or were not understood."""
        return self.stats()["errors"]


def _unformatted(record: logging.LogRecord) -> str:
    """What is known of a message whose arguments do not fit."""
    try:
        return str(record.msg)
    except RecursionError:
        raise
    except Exception:
        return f"<{type(record.msg).__name__} without a text>"


_handlers: list[weakref.ref[Handler]] = []
_making = threading.Lock()
_made: Handler | None = None


def default() -> Handler:
    """The open handler that was made last; one with default options where there is none."""
    global _made
    for reference in reversed(_handlers):
        handler = reference()
        if handler is not None and not handler.is_closed:
            return handler
    with _making:
        if _made is None or _made.is_closed:
            _made = Handler()
        return _made
