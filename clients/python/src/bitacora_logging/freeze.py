"""Values that the application may change after the call become values that nobody changes.

This runs in the calling thread, so the plain types come first and cost next to nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Set
from typing import Any

#: A text longer than a record may be is cut at once: a queue of them would be memory.
TEXT_CHARS_MAX = 262_144
_DEPTH_MAX = 8
_ITEMS_MAX = 1_000

_PLAIN = frozenset({int, float, bool, type(None)})


def freeze(value: Any, depth: int = 0) -> Any:
    """Makes of any value one of plain dicts, lists, texts, numbers, booleans and ``None``."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is str:
        return value if len(value) <= TEXT_CHARS_MAX else value[:TEXT_CHARS_MAX]
    try:
        if depth < _DEPTH_MAX:
            if isinstance(value, Mapping):
                return _frozen_mapping(value, depth)
            if isinstance(value, (list, tuple, Set)):
                items = [freeze(item, depth + 1) for item, _ in zip(value, range(_ITEMS_MAX))]
                if len(value) > _ITEMS_MAX:
                    items.append(f"and {len(value) - _ITEMS_MAX} more")
                return items
        return _leaf(value)
    except RecursionError:
        raise
    except Exception as error:
        return f"<{kind.__name__} without a text: {type(error).__name__}>"


def _frozen_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    frozen: dict[str, Any] = {}
    for number, key in enumerate(list(value)):
        if number == _ITEMS_MAX:
            frozen["…"] = f"and {len(value) - _ITEMS_MAX} more"
            break
        frozen[key if type(key) is str else str(_leaf(key))] = freeze(value[key], depth + 1)
    return frozen


def _leaf(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        text = bytes(value[:TEXT_CHARS_MAX]).decode("utf-8", "backslashreplace")
    elif isinstance(value, int):  # an IntEnum, say
        return int(value)
    elif isinstance(value, float):
        return float(value)
    elif isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        text = value.isoformat()
    elif isinstance(value, BaseException):
        text = f"{type(value).__name__}: {value}"
    else:
        text = str(value)
    return text[:TEXT_CHARS_MAX]
