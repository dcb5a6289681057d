"""Records on their way to the real daemon: each arrives once, whatever happens to it."""

from __future__ import annotations

import collections
import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from bitacora_logging import bind, event
from conftest import DEADLINE, EVENTS, Daemon, Logged, Row, eventually

Make = Callable[..., Logged]


def messages(rows: list[Row], beginning: str = "number ") -> collections.Counter[str]:
    return collections.Counter(
        row["message"] for row in rows if row["message"].startswith(beginning)
    )


def numbers(count: int) -> collections.Counter[str]:
    return collections.Counter(f"number {number}" for number in range(count))


def test_a_record_becomes_a_row_with_all_its_columns(daemon: Daemon, logged: Make) -> None:
    logger, handler = logged(daemon.socket)
    request = str(uuid.uuid4())
    with bind(request_id=request, user_id=7, session_id="s-1"):
        try:
            _ = dict[str, int]()["absent"]
        except KeyError:
            logger.exception("sold %d", 3, extra={"duration_ms": 12.5, "basket": {"items": [1]}})
    assert handler.flush(DEADLINE)
    (row,) = daemon.wait_for(1)
    assert row["level"] == "ERROR"
    assert row["message"] == "sold 3"
    assert row["source"] == "app"
    assert row["logger"] == logger.name
    assert row["request_id"] == request
    assert row["user_id"] == 7
    assert row["session_id"] == "s-1"
    assert float(row["duration_ms"]) == 12.5
    assert row["traceback"].startswith("Traceback (most recent call last):\n")
    assert row["traceback"].endswith("KeyError: 'absent'")
    assert row["metadata"]["basket.items"] == "[1]"
    assert row["metadata"]["function"] == "test_a_record_becomes_a_row_with_all_its_columns"
    stats = handler.stats()
    assert (stats["sent"], stats["acked"], stats["dropped"], stats["errors"]) == (1, 1, 0, 0)


def test_records_go_to_the_source_of_their_handler(daemon: Daemon, logged: Make) -> None:
    logger, handler = logged(daemon.socket, source="shop")
    logger.info("number 0")
    assert handler.flush(DEADLINE)
    assert messages(daemon.wait_for(1, "--source", "shop")) == numbers(1)


def test_user_events_go_over_the_same_connection(daemon: Daemon, logged: Make) -> None:
    _, handler = logged(daemon.socket)
    user = str(uuid.uuid4())
    with bind(request_id="r-1", session_id="s-1"):
        event("login", user_id=user, ip_address="10.1.2.3", user_agent="t/1", method="password")
    assert handler.flush(DEADLINE)
    (row,) = daemon.wait_for(1, *EVENTS)
    assert row["event_type"] == "login"
    assert row["user_id"] == user
    assert row["session_id"] == "s-1"
    assert row["ip_address"] == "10.1.2.3"
    assert row["user_agent"] == "t/1"
    assert row["event_data"]["method"] == "password"
    assert handler.stats()["acked"] == 1


def test_kill_9_in_mid_stream_loses_nothing_and_repeats_nothing(
    daemon: Daemon, logged: Make
) -> None:
    logger, handler = logged(daemon.socket, queue_records=100_000)
    count = 20_000

    def log() -> None:
        for number in range(count):
            logger.info("number %d", number)
            if number % 50 == 0:
                time.sleep(0.002)

    writer = threading.Thread(target=log)
    writer.start()
    for kill in range(1, 4):
        enough = kill * 3_000
        eventually(lambda: handler.acked > enough, "records are acknowledged")  # noqa: B023
        daemon.kill()
        daemon.start()
    writer.join()
    assert handler.flush(DEADLINE), handler.stats()
    assert messages(daemon.wait_for(count)) == numbers(count)
    stats = handler.stats()
    assert stats["reconnects"] >= 3
    assert (stats["acked"], stats["dropped"]) == (count, 0)


def test_records_wait_for_a_daemon_that_is_down_at_the_start(
    stopped_daemon: Daemon, logged: Make
) -> None:
    logger, handler = logged(stopped_daemon.socket)
    for number in range(500):
        logger.info("number %d", number)
    assert not handler.flush(0.3)
    assert handler.stats()["queued"] == 500
    stopped_daemon.start()
    assert handler.flush(DEADLINE)
    assert messages(stopped_daemon.wait_for(500)) == numbers(500)


def test_a_slow_daemon_never_holds_the_application_back(daemon: Daemon, logged: Make) -> None:
    logger, handler = logged(daemon.socket, queue_records=1_000)
    logger.info("number 0")
    assert handler.flush(DEADLINE)
    daemon.signal(signal.SIGSTOP)
    began = time.monotonic()
    for number in range(1, 5_001):
        logger.info("number %d", number)
        if number % 100 == 0:
            time.sleep(0.001)  # lets the worker fill the socket and its window
    assert time.monotonic() - began < 5
    dropped = handler.dropped
    assert dropped > 0
    daemon.signal(signal.SIGCONT)
    assert handler.flush(DEADLINE)
    kept = 5_001 - handler.dropped
    rows = daemon.wait_for(kept)
    told = [row for row in rows if "dropped" in row["metadata"]]
    assert sum(int(row["metadata"]["dropped"]) for row in told) == handler.dropped == dropped
    assert len(rows) == kept + len(told)
    assert not messages(rows) - numbers(5_001)
    assert max(messages(rows).values()) == 1
    assert "number 5000" in messages(rows)  # the oldest were dropped, not the newest


def test_what_was_sent_is_not_flushed_until_its_receipt_came(daemon: Daemon, logged: Make) -> None:
    logger, handler = logged(daemon.socket)
    logger.info("number 0")
    assert handler.flush(DEADLINE)
    daemon.signal(signal.SIGSTOP)
    for number in range(1, 10):
        logger.info("number %d", number)
    eventually(lambda: handler.stats()["in_flight"] == 9, "the records are on their way")
    assert not handler.flush(0.2)
    daemon.signal(signal.SIGCONT)
    assert handler.flush(DEADLINE)
    assert messages(daemon.wait_for(10)) == numbers(10)


def test_the_policy_block_waits_and_drops_nothing(daemon: Daemon, logged: Make) -> None:
    logger, handler = logged(daemon.socket, queue_records=100, when_full="block")
    daemon.signal(signal.SIGSTOP)
    done = threading.Event()

    def log() -> None:
        for number in range(5_000):
            logger.info("number %d", number)
        done.set()

    writer = threading.Thread(target=log)
    writer.start()
    eventually(lambda: handler.stats()["queued"] == 100, "the queue is full")
    assert not done.wait(0.3)
    daemon.signal(signal.SIGCONT)
    writer.join(DEADLINE)
    assert handler.flush(DEADLINE)
    assert messages(daemon.wait_for(5_000)) == numbers(5_000)
    assert handler.dropped == 0


def test_a_blocked_caller_goes_on_when_the_handler_closes(
    stopped_daemon: Daemon, logged: Make
) -> None:
    logger, handler = logged(stopped_daemon.socket, queue_records=10, when_full="block")

    def log() -> None:
        for _ in range(20):
            logger.info("x")

    writer = threading.Thread(target=log)
    writer.start()
    eventually(lambda: handler.stats()["queued"] == 10, "the queue is full")
    handler.close()
    writer.join(5)
    assert not writer.is_alive()
    assert handler.dropped == 10


def test_a_hundred_threads_log_at_once(daemon: Daemon, logged: Make) -> None:
    logger, handler = logged(daemon.socket)

    def log(thread: int) -> None:
        for number in range(50):
            logger.info("number %d", thread * 50 + number)

    threads = [threading.Thread(target=log, args=(thread,)) for thread in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert handler.flush(DEADLINE)
    assert messages(daemon.wait_for(5_000)) == numbers(5_000)


def test_a_message_of_a_million_characters_arrives_cut_and_understood(
    daemon: Daemon, logged: Make
) -> None:
    logger, handler = logged(daemon.socket)
    logger.info("x" * 1_000_000, extra={"order": 7})
    logger.info("number 0")
    assert handler.flush(DEADLINE)
    rows = daemon.wait_for(2)
    (long,) = [row for row in rows if row["message"].startswith("xxx")]
    assert len(long["message"]) > 200_000
    assert long["metadata"]["cut"] == "message: 1000000 characters"
    assert long["metadata"]["order"] == "7"
    assert "unparsed" not in str(long["metadata"].keys())
    assert handler.stats()["errors"] == 0


def test_values_that_json_lacks_arrive_as_text(daemon: Daemon, logged: Make) -> None:
    logger, handler = logged(daemon.socket)
    logger.info(
        "odd \udcff \x00 \u2028 line\nbreak",
        extra={"nan": float("nan"), "set": {1}, "type": int, "user_id": "not a number"},
    )
    assert handler.flush(DEADLINE)
    (row,) = daemon.wait_for(1)
    assert row["message"].startswith("odd \\udcff ")
    assert row["message"].endswith(" \u2028 line\nbreak")
    assert row["metadata"]["nan"] == "nan"
    assert row["metadata"]["type"] == "<class 'int'>"
    assert "not a number" in str(row["metadata"])


def test_a_flush_without_records_is_at_once(stopped_daemon: Daemon, logged: Make) -> None:
    _, handler = logged(stopped_daemon.socket)
    assert handler.flush(0)


def test_memory_is_bounded_by_bytes_too(stopped_daemon: Daemon, logged: Make) -> None:
    logger, handler = logged(stopped_daemon.socket, queue_bytes=1_000_000)
    for _ in range(100):
        logger.info("x" * 100_000)
    assert handler.stats()["queued"] <= 10
    assert handler.dropped >= 90


def test_a_closed_handler_counts_what_it_refuses(
    stopped_daemon: Daemon, logged: Make, capsys: Any
) -> None:
    logger, handler = logged(stopped_daemon.socket)
    logger.info("lost")
    handler.close()
    handler.close()
    logger.info("refused")
    assert handler.dropped == 1
    said = capsys.readouterr().err
    assert said.count("1 records lost") == 1
    assert logging.getLevelName(logger.level) == "DEBUG"
