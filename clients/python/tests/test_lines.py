"""What a record's line says; no daemon is needed for it."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import logging
import sys
import traceback
import uuid
from typing import Any

import pytest

from bitacora_logging import bind, lines, records
from bitacora_logging.lines import RECORD_BYTES_MAX


def line_of(message: str = "said", level: int = logging.INFO, **given: Any) -> dict[str, Any]:
    extra = given.pop("extra", None)
    record = logging.Logger("shop").makeRecord(
        "shop", level, "/srv/shop.py", 12, message, (), given.pop("exc_info", None), "sell", extra
    )
    record.__dict__.update(given)
    encoded = lines.line(records.note(record, record.getMessage(), None, None), None)
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert len(encoded) <= RECORD_BYTES_MAX + 1
    made = json.loads(encoded, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(made, dict)
    return made


def test_a_record_becomes_the_keys_of_the_protocol() -> None:
    made = line_of(created=1_795_305_600.25, threadName="main", processName="MainProcess")
    del made["process"]
    assert made == {
        "timestamp": "2026-11-22T00:00:00.250000Z",
        "level": "INFO",
        "message": "said",
        "logger": "shop",
        "request_id": None,
        "user_id": None,
        "session_id": None,
        "file": "/srv/shop.py",
        "line": 12,
        "function": "sell",
        "thread": "main",
    }


@pytest.mark.parametrize(
    ("created", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1.999_999_9, "1970-01-01T00:00:02.000000Z"),
        (1_709_164_799.999_999, "2024-02-28T23:59:59.999999Z"),
        (float("nan"), None),
        (1e300, None),
    ],
)
def test_times_have_microseconds_or_are_left_to_the_daemon(created: float, text: Any) -> None:
    assert line_of(created=created)["timestamp"] == text


@pytest.mark.parametrize(
    ("level", "name", "word"),
    [
        (5, "TRACE", "TRACE"),
        (25, "NOTICE", "INFO"),
        (35, "Level 35", "WARNING"),
        (60, "DOOM", "CRITICAL"),
    ],
)
def test_levels_of_the_application_keep_their_name(level: int, name: str, word: str) -> None:
    made = line_of(level=level, levelname=name)
    assert made["level"] == word
    assert made.get("level_name") == (None if name == word else name)


class Colour(enum.IntEnum):
    RED = 3


class Silent:
    def __str__(self) -> str:
        raise OSError("no words")


def test_values_that_json_lacks_become_text() -> None:
    key = uuid.uuid4()
    made = line_of(
        extra={
            "nan": float("nan"),
            "inf": [float("-inf")],
            "price": decimal.Decimal("1.20"),
            "when": datetime.datetime(2026, 11, 22, 10, 0),
            "id": key,
            "raw": b"caf\xc3\xa9 \xff",
            "kinds": {1: {2}, None: (3,), (4, 5): "pair"},
            "colour": Colour.RED,
            "silent": Silent(),
            "fault": ValueError("bad"),
            "long": 10**5000,
            "file name": "caf\udcc3",
            7: "a number as a name",
        }
    )
    assert made["nan"] == "nan"
    assert made["inf"] == ["-inf"]
    assert made["price"] == "1.20"
    assert made["when"] == "2026-11-22T10:00:00"
    assert made["id"] == str(key)
    assert made["raw"] == "café \\xff"
    assert made["kinds"] == {"1": [2], "None": [3], "(4, 5)": "pair"}
    assert made["colour"] == 3
    assert made["silent"] == "<Silent without a text: OSError>"
    assert made["fault"] == "ValueError: bad"
    assert str(made["long"]).startswith("integer of ")
    assert made["file name"] == "caf\\udcc3"
    assert made["7"] == "a number as a name"


def test_values_are_those_of_the_call_even_if_they_change_later() -> None:
    basket: dict[str, Any] = {"items": [1, 2]}
    record = logging.makeLogRecord({"msg": "%s", "args": (basket["items"],), "basket": basket})
    item = records.note(record, record.getMessage(), None, None)
    basket["items"].append(3)
    basket["more"] = True
    made = json.loads(lines.line(item, None))
    assert (made["message"], made["basket"]) == ("[1, 2]", {"items": [1, 2]})


def test_a_value_that_contains_itself_ends_somewhere() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    assert "again" in line_of(extra={"loop": loop})["loop"]["again"]


def test_extras_do_not_pass_for_the_record_itself() -> None:
    made = line_of(extra={"source": "nginx", "event_type": "login", "level": "x", "logger": "y"})
    assert "event_type" not in made
    assert "source" not in made
    assert (made["level"], made["logger"]) == ("INFO", "shop")
    assert (made["extra_source"], made["extra_event_type"]) == ("nginx", "login")


def test_ids_come_from_the_context_unless_the_call_gives_its_own() -> None:
    with bind(request_id="r-1", user_id=7):
        inside = line_of()
        with bind(user_id=8, session_id="s"):
            deeper = line_of(extra={"request_id": "r-2", "duration_ms": 1.5})
    assert (inside["request_id"], inside["user_id"], inside["session_id"]) == ("r-1", 7, None)
    assert (deeper["request_id"], deeper["user_id"], deeper["session_id"]) == ("r-2", 8, "s")
    assert deeper["duration_ms"] == 1.5
    assert line_of()["request_id"] is None


def test_a_record_of_a_million_characters_says_what_was_cut() -> None:
    made = line_of("é" * 1_000_000, extra={"small": "kept"})
    assert set(made["message"]) == {"é"}
    assert len(made["message"]) > 100_000
    assert made["cut"] == "message: 1000000 characters"
    assert made["small"] == "kept"


def test_a_record_with_many_long_values_still_fits() -> None:
    many = {f"key{number}": '"' * 50_000 for number in range(20)}
    made = line_of("\x00" * 300_000, extra={**many, "nested": {"list": ["x" * 90_000] * 3}})
    assert made["logger"] == "shop"
    assert "message: 300000 characters" in made["cut"]


def chain() -> None:
    def inner(depth: int) -> None:
        if depth:
            inner(depth - 1)
        raise KeyError("first")

    try:
        inner(5)
    except KeyError as first:
        try:
            raise ValueError("second") from first
        except ValueError:
            _ = [1, 2][int("2")]


def recursion() -> None:
    recursion()


def nothing_said() -> None:
    raise RuntimeError


def bad_syntax() -> None:
    compile("def (", "typed.py", "exec")


def suppressed() -> None:
    try:
        nothing_said()
    except RuntimeError:
        raise LookupError("alone\nof two lines") from None


@pytest.mark.parametrize("raiser", [chain, recursion, nothing_said, bad_syntax, suppressed])
def test_tracebacks_read_as_python_writes_them(raiser: Any) -> None:
    try:
        raiser()
    except Exception:
        exc_info = sys.exc_info()
        expected = "".join(traceback.format_exception(*exc_info)).rstrip("\n")
        assert line_of(exc_info=exc_info)["traceback"] == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
def test_groups_and_notes_read_as_python_writes_them() -> None:
    group = getattr(__import__("builtins"), "ExceptionGroup")  # noqa: B009
    for error in (group("two", [ValueError(1), KeyError(2)]), ValueError("noted")):
        getattr(error, "add_note")("look here")  # noqa: B009
        try:
            raise error
        except Exception:
            exc_info = sys.exc_info()
            expected = "".join(traceback.format_exception(*exc_info)).rstrip("\n")
            assert line_of(exc_info=exc_info)["traceback"] == expected


def test_a_loop_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    made = line_of(exc_info=(ValueError, first, None))
    assert made["traceback"].count("ValueError: ") == 2


def test_stack_and_traceback_stand_together() -> None:
    made = line_of(exc_text="Traceback: T", stack_info="Stack: S")
    assert made["traceback"] == "Traceback: T\n\nStack: S"


def test_a_formatter_that_hides_secrets_in_tracebacks_is_asked() -> None:
    class Hiding(logging.Formatter):
        def formatException(self, ei: Any) -> str:  # noqa: ARG002, N802
            return "hidden"

    record = logging.makeLogRecord({"msg": "m", "exc_info": (ValueError, ValueError("pw"), None)})
    encoded = lines.line(records.note(record, "m", None, Hiding()), None)
    assert json.loads(encoded)["traceback"] == "hidden"
