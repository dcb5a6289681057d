"""Lines of the protocol: one JSON object each, never longer than the daemon takes."""

from __future__ import annotations

import codecs
import json
import math
from typing import Any

from .records import Fields, Item

#: Of a longer line the daemon keeps only the head, which is no JSON any more.
RECORD_BYTES_MAX = 262_144


def _surrogates_as_text(error: UnicodeError) -> tuple[str, int]:
    """A lone surrogate (a file name that is no UTF-8, say) is written out, as ``\\udc80``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(f"\\\\u{ord(character):04x}" for character in found), error.end


codecs.register_error("bitacora_surrogates", _surrogates_as_text)

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def line(item: Item, source: str | None) -> bytes:
    """The line of an item, with its line end."""
    fields = item[1](item[2])
    if source is not None and "event_type" not in fields:
        fields["source"] = source
    encoded = _bytes(fields)
    if len(encoded) >= RECORD_BYTES_MAX:
        encoded = _shortened(fields, encoded)
    return encoded + b"\n"


def line_of_fault(item: Item, error: Exception) -> bytes:
    """The line of an item that cannot be made into its own line."""
    fields = {
        "level": "ERROR",
        "message": repr(item[2])[:10_000],
        "logger": "bitacora_logging",
        "format_error": f"{type(error).__name__}: {error}"[:1_000],
    }
    return _bytes(fields) + b"\n"


def _bytes(fields: Any) -> bytes:
    try:
        text = _encode(fields)
    except ValueError:  # not a number, or one of more digits than Python writes
        text = _encode(_sayable(fields))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="bitacora_surrogates")


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sayable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_sayable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 10_000:
        return f"integer of {value.bit_length()} bits"
    return value


def _shortened(fields: Fields, encoded: bytes) -> bytes:
    """Cuts the longest values until the line fits; the key ``cut`` says which."""
    fields = dict(fields)
    cut = [fields.pop("cut")] if isinstance(fields.get("cut"), str) else []
    for _ in range(len(fields)):
        excess = len(encoded) + 200 - RECORD_BYTES_MAX
        if excess < 0:
            break
        name = max(fields, key=lambda name: len(_bytes(fields[name])))
        value = fields[name]
        text = value if isinstance(value, str) else _bytes(value).decode()
        if not any(said.startswith(f"{name}: ") for said in cut):
            cut.append(f"{name}: {len(text)} characters")
        wanted = max(len(_bytes(text)) - excess, 100)
        while (size := len(_bytes(text))) > wanted:
            text = text[: min(len(text) * wanted // size, len(text) - 1)]
        fields[name] = text
        fields["cut"] = ", ".join(cut)[:1_000]
        encoded = _bytes(fields)
    return encoded
