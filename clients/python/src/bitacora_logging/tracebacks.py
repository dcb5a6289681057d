"""Tracebacks in two steps: what must be read at once, and the text.

Formatting a traceback reads source files and costs far more than a caller may wait. Keeping the
exception instead would keep its frames alive with all their variables. So the caller's thread
notes code objects and line numbers, and the exceptions' own words; the worker makes the text,
which is the one of the module ``traceback``.
"""

from __future__ import annotations

import builtins
import itertools
import linecache
import sys
import traceback
from types import CodeType, TracebackType
from typing import Any, Union

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"
#: Links of a chain, and frames of one traceback (from both of its ends), that are kept.
_LINKS_MAX = 50
_FRAMES_MAX = 2_000

_Frame = tuple[CodeType, int, int]
#: One exception: what joins it to the one before, its frames, its last lines.
_Link = tuple[str, tuple[_Frame, ...], str]
Noted = Union[str, tuple[_Link, ...]]

_GROUP: Any = getattr(builtins, "BaseExceptionGroup", SyntaxError)
#: Exceptions whose text is more than type and words; they are rare, and formatted at once.
_WHOLE = (SyntaxError, _GROUP)


def note(exc_info: Any) -> Noted:
    """Notes what a traceback's text will need. Runs in the calling thread."""
    if not isinstance(exc_info, tuple) or len(exc_info) != 3:
        return str(exc_info)
    error: BaseException | None = exc_info[1]
    trace: TracebackType | None = exc_info[2]
    if error is None:
        return ""
    links: list[_Link] = []
    seen = {id(error)}
    while True:
        if isinstance(error, _WHOLE):
            return "".join(traceback.format_exception(*exc_info)).rstrip("\n")
        if error.__cause__ is not None:
            before, joint = error.__cause__, _CAUSE
        elif error.__context__ is not None and not error.__suppress_context__:
            before, joint = error.__context__, _CONTEXT
        else:
            before, joint = None, ""
        if before is None or id(before) in seen or len(links) + 1 == _LINKS_MAX:
            links.append(("", _frames(trace), _words(error)))
            return tuple(reversed(links))
        links.append((joint, _frames(trace), _words(error)))
        seen.add(id(before))
        error, trace = before, before.__traceback__


def _frames(trace: TracebackType | None) -> tuple[_Frame, ...]:
    frames: list[_Frame] = []
    while trace is not None:
        frames.append((trace.tb_frame.f_code, trace.tb_lineno, trace.tb_lasti))
        trace = trace.tb_next
    if len(frames) > _FRAMES_MAX:
        del frames[_FRAMES_MAX // 2 : -_FRAMES_MAX // 2]
    return tuple(frames)


def _words(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except RecursionError:
        raise
    except Exception:
        text = "<exception str() failed>"
    lines = [f"{name}: {text}" if text else name]
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, (list, tuple)):
        lines.extend(str(line) for line in notes)
    return "\n".join(lines)


def text(noted: Noted) -> str:
    """The text of a noted traceback. Runs in the worker."""
    if isinstance(noted, str):
        return noted
    parts: list[str] = []
    for joint, frames, words in noted:
        if joint:
            parts.append(joint)
        if frames:
            parts.append("Traceback (most recent call last):\n")
            parts.extend(_stack(frames).format())
        parts.append(words + "\n")
    return "".join(parts).rstrip("\n")


def _stack(frames: tuple[_Frame, ...]) -> traceback.StackSummary:
    for name in {code.co_filename for code, _, _ in frames}:
        linecache.checkcache(name)
    return traceback.StackSummary.from_list([_summary(*frame) for frame in frames])


def _summary(code: CodeType, line: int, instruction: int) -> traceback.FrameSummary:
    if sys.version_info >= (3, 11) and instruction >= 0:
        where = next(itertools.islice(code.co_positions(), instruction // 2, None), None)
        if where is not None:
            start, end, column, column_end = where
            return traceback.FrameSummary(
                code.co_filename,
                line if start is None else start,
                code.co_name,
                lookup_line=False,
                end_lineno=end,
                colno=column,
                end_colno=column_end,
            )
    return traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)
