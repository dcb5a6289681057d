"""Records and user events: noted in the caller's thread, made into lines by the worker.

An *item* is what stands in the queue: ``(bytes, fields, noted)``. ``bytes`` is about its memory,
``noted`` a tuple of values that do not change any more, ``fields`` the function that makes the
record's JSON object of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from . import context, tracebacks
from .freeze import TEXT_CHARS_MAX, freeze

Fields = dict[str, Any]
Item = tuple[int, Callable[[Any], Fields], tuple[Any, ...]]

#: Memory of an item besides its texts, about.
_ITEM_BYTES = 700

#: What every LogRecord has; all else came by ``extra=``.
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
#: These columns may be given by ``extra=``; the first three are else those of the context.
_COLUMNS = frozenset({"request_id", "user_id", "session_id", "duration_ms"})
#: Names of the record itself, or of the daemon: as ``extra=`` they would change what the row is.
_TAKEN = frozenset(
    "timestamp level message logger source traceback event_type"
    " peer_pid peer_uid partial truncated line_bytes".split()
)
_LEVELS = frozenset({"TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_LEVEL_BELOW = ((10, "TRACE"), (20, "DEBUG"), (30, "INFO"), (40, "WARNING"), (50, "ERROR"))

_format_exception = logging.Formatter.formatException


def note(
    record: logging.LogRecord, message: str, fault: str | None, formatter: logging.Formatter | None
) -> Item:
    """Makes an item of a record whose message is formatted. Runs in the calling thread."""
    raw = record.__dict__
    size = _ITEM_BYTES + message.__sizeof__()
    extras: list[Any] = []
    if len(message) > TEXT_CHARS_MAX:
        extras += "cut", f"message: {len(message)} characters"
        message = message[:TEXT_CHARS_MAX]
        size = _ITEM_BYTES + message.__sizeof__()
    if fault is not None:
        extras += "format_error", fault
    for name in raw:
        if name not in _OWN:
            value = freeze(raw[name])
            size += 100 + 4 * _weight(value)
            extras += name, value
    trace: tracebacks.Noted = ""
    if raw["exc_info"] or raw["exc_text"]:
        trace = _trace(record, formatter)
        size += len(trace) if isinstance(trace, str) else 200 * sum(len(link[1]) for link in trace)
    stack = raw["stack_info"]
    if stack:
        stack = str(stack)
        size += len(stack)
    request_id = context.request_id.get()
    if request_id is None and "request" in raw:  # Django says some things after the middleware
        request_id = getattr(raw["request"], "request_id", None)
    user_id = context.user_id.get()
    session_id = context.session_id.get()
    noted = (
        raw["created"],
        raw["levelno"],
        raw["levelname"],
        raw["name"],
        message,
        raw["pathname"],
        raw["lineno"],
        raw["funcName"],
        raw["process"],
        raw["processName"],
        raw["threadName"],
        raw.get("taskName"),
        request_id if request_id is None else freeze(request_id),
        user_id if user_id is None else freeze(user_id),
        session_id if session_id is None else freeze(session_id),
        trace,
        stack,
        tuple(extras),
    )
    return size, fields_of_record, noted


def _trace(record: logging.LogRecord, formatter: logging.Formatter | None) -> tracebacks.Noted:
    if record.exc_text:  # another handler has made it, or it came from another process
        return str(record.exc_text)[:TEXT_CHARS_MAX]
    if formatter is not None and type(formatter).formatException is not _format_exception:
        return formatter.formatException(record.exc_info)  # type: ignore[arg-type]
    return tracebacks.note(record.exc_info)


def _weight(value: Any) -> int:
    """About how many characters a frozen value has."""
    if type(value) is str:
        return len(value) + 50
    if type(value) is dict:
        return sum(len(key) + _weight(inner) for key, inner in value.items()) + 100
    if type(value) is list:
        return sum(map(_weight, value)) + 50
    return 10


def fields_of_record(noted: tuple[Any, ...]) -> Fields:
    """The JSON object of a record. Runs in the worker, as :func:`fields_of_event` does."""
    (
        created, levelno, levelname, logger, message, file, line, function, process, process_name,
        thread, task, request_id, user_id, session_id, trace, stack, extras,
    ) = noted  # fmt: skip
    known = levelname in _LEVELS
    fields: Fields = {
        "timestamp": timestamp(created),
        "level": levelname if known else _level(levelno),
        "message": message,
        "logger": logger,
        "request_id": request_id,
        "user_id": user_id,
        "session_id": session_id,
    }
    if trace or stack:
        fields["traceback"] = "\n\n".join(filter(None, (tracebacks.text(trace), stack)))
    pairs = iter(extras)
    for name in pairs:
        value = next(pairs)
        if name in _COLUMNS:
            if value is not None:
                fields[name] = value
        else:
            fields[f"extra_{name}" if name in _TAKEN else str(name)] = value
    for name, value in (
        ("level_name", None if known else levelname),
        ("file", file),
        ("line", line),
        ("function", function),
        ("process", process),
        ("process_name", None if process_name == "MainProcess" else process_name),
        ("thread", thread),
        ("task", task),
    ):
        if value is not None:
            fields.setdefault(name, value)
    return fields


def note_event(event_type: str, columns: Fields, data: Fields) -> Item:
    """Makes an item of a user event. Runs in the calling thread."""
    kept = {name: freeze(value) for name, value in columns.items() if value is not None}
    frozen = {name: freeze(value) for name, value in data.items()}
    return (
        _ITEM_BYTES + 4 * _weight(frozen),
        fields_of_event,
        (time.time(), event_type, kept, frozen),
    )


def fields_of_event(noted: tuple[Any, ...]) -> Fields:
    """The JSON object of a user event."""
    created, event_type, columns, data = noted
    fields: Fields = {"event_type": event_type, "timestamp": timestamp(created), **columns}
    if data:
        fields["event_data"] = data
    return fields


def note_dropped(count: int, process: int) -> Item:
    """What the client itself says where records are missing."""
    noted = (time.time(), count, process)
    return _ITEM_BYTES, _fields_of_dropped, noted


def _fields_of_dropped(noted: tuple[Any, ...]) -> Fields:
    created, count, process = noted
    return {
        "timestamp": timestamp(created),
        "level": "WARNING",
        "message": f"{count} records were dropped here: the queue to the daemon was full",
        "logger": "bitacora_logging",
        "dropped": count,
        "process": process,
    }


def _level(number: object) -> str:
    if not isinstance(number, int):  # makeLogRecord asks for nothing
        return "INFO"
    for below, name in _LEVEL_BELOW:
        if number < below:
            return name
    return "CRITICAL"


#: The last second and its text; one name, as several workers may read it.
_second = (0, "1970-01-01T00:00:00")


def timestamp(created: float) -> str | None:
    """RFC 3339 with microseconds. Most records share their second with the one before."""
    global _second
    try:
        seconds, micros = divmod(round(created * 1_000_000), 1_000_000)
        known, text = _second
        if seconds != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            _second = (seconds, text)
        return f"{text}.{micros:06}Z"
    except (ValueError, OverflowError, OSError, TypeError):
        return None  # no time: the daemon takes that of its coming
