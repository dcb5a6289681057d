"""The call itself: it never raises, never logs through itself, and never waits."""

from __future__ import annotations

import io
import logging
import logging.config
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitacora_logging import Handler
from conftest import Daemon, Logged

Make = Callable[..., Logged]
NOWHERE = "/nonexistent/bitacora.sock"


def test_arguments_that_do_not_fit_are_told_and_the_record_is_kept(
    daemon: Daemon, logged: Make, capsys: Any
) -> None:
    logger, handler = logged(daemon.socket)
    logger.info("%d items", "three")
    assert handler.flush(30)
    (row,) = daemon.wait_for(1)
    assert row["message"] == "%d items"
    assert row["metadata"]["format_error"].startswith("TypeError: ")
    assert handler.errors == 1
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_failing_emit_does_not_log_through_itself(
    logged: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, handler = logged(NOWHERE)

    class Logging(io.TextIOBase):
        """Many projects send stderr to a logger."""

        def write(self, text: str) -> int:
            logger.error("%d", text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Logging())
    logger.info("%d", "x")
    monkeypatch.undo()
    assert 1 <= handler.errors < 1_000


def test_an_argument_whose_text_logs_itself_ends(logged: Make) -> None:
    logger, handler = logged(NOWHERE)

    class Endless:
        def __str__(self) -> str:
            logger.info("again %s", self)
            return "text"

    logger.info("%s", Endless())
    assert handler.errors >= 1
    logger.info("still alive")


def test_deep_recursion_reaches_the_application_as_its_own_error(logged: Make) -> None:
    logger, _ = logged(NOWHERE)

    def deeper() -> None:
        logger.info("deeper")
        deeper()

    with pytest.raises(RecursionError):
        deeper()
    logger.info("still alive")


def test_a_destructor_that_logs_inside_emit_does_not_deadlock(logged: Make) -> None:
    logger, handler = logged(NOWHERE, queue_records=50)

    class Dying:
        def __del__(self) -> None:
            logger.info("dying")

    def log() -> None:
        for _ in range(500):
            loop = [Dying()]
            loop.append(loop)  # type: ignore[arg-type]
            del loop
            logger.info("%s", "alive")

    threads = [threading.Thread(target=log, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert handler.dropped > 0


def test_filters_and_levels_of_the_handler_count(logged: Make) -> None:
    logger, handler = logged(NOWHERE, level="WARNING")
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    logger.info("below the level")
    logger.error("secret")
    logger.error("taken")
    assert handler.stats()["queued"] == 1


def test_dict_config_makes_a_handler(tmp_path: Path) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "bitacora": {
                    "class": "bitacora_logging.Handler",
                    "path": str(tmp_path / "log.sock"),
                    "when_full": "block",
                    "queue_records": 5,
                    "exit_timeout": 0.1,
                }
            },
            "loggers": {"configured": {"handlers": ["bitacora"]}},
        }
    )
    (handler,) = logging.getLogger("configured").handlers
    assert isinstance(handler, Handler)
    handler.close()
    logging.getLogger("configured").removeHandler(handler)


@pytest.mark.parametrize("wrong", [{"when_full": "wait"}, {"queue_records": 0}, {"queue": 5}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Handler(NOWHERE, **wrong)
