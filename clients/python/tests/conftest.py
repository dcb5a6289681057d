"""The real daemon, in a directory of its own, for each test that asks for it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bitacora_logging import Handler

PACKAGE = Path(__file__).resolve().parent.parent
#: How `bitacora logs` is asked for user events.
EVENTS = ("--source", "user_events")
DEADLINE = 30.0

Row = dict[str, Any]


def binary() -> Path | None:
    """The daemon's program: named by the environment, or built in a directory above."""
    named = os.environ.get("BITACORA_BINARY")
    if named:
        return Path(named)
    for above in PACKAGE.parents:
        built = above / "target" / "release" / "bitacora"
        if built.exists():
            return built
    return None


def eventually(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Waits until a condition holds, and gives its value."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"after {deadline} s still not: {what}"
        time.sleep(0.02)


class Daemon:
    """A daemon with a SQLite store and a socket, all below one directory."""

    def __init__(self, program: Path, directory: Path) -> None:
        self.program = program
        self.socket = str(directory / "log.sock")
        self.config = directory / "bitacora.toml"
        self.stderr = directory / "stderr"
        self.config.write_text(
            f"""
[daemon]
state_dir = "{directory}/state"
control = ""
http = ""
[store]
kind = "sqlite"
[store.sqlite]
dir = "{directory}/logs"
[socket]
stream = "{self.socket}"
dgram = "{directory}/log.dgram"
"""
        )
        (directory / "state").mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                [self.program, "run", "--config", self.config], stderr=stderr
            )
        eventually(self._accepts, "the daemon accepts connections")

    def _accepts(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.stderr.read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9: what it had not yet made safe is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def rows(self, *arguments: str) -> list[Row]:
        """What is stored by now."""
        command = [str(self.program), "logs", "--config", str(self.config)]
        command += ["-o", "json", "-n", "all", *arguments]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode in (0, 1), done.stderr.decode()
        return [json.loads(line) for line in done.stdout.splitlines()]

    def wait_for(self, count: int, *arguments: str) -> list[Row]:
        """Waits for so many rows; more of them are given too."""
        arguments = arguments or ("--source", "app")
        seen: list[Row] = []

        def enough() -> bool:
            seen[:] = self.rows(*arguments)
            return len(seen) >= count

        try:
            eventually(enough, f"{count} rows")
        except AssertionError as error:
            raise AssertionError(f"{error}, but {len(seen)}: {seen[-3:]}") from None
        return seen


@pytest.fixture
def stopped_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that was never started."""
    program = binary()
    if program is None:
        pytest.skip("no daemon: BITACORA_BINARY names none, and target/release/bitacora is missing")
    # A socket's path may have 107 bytes, and pytest's directories are long.
    directory = tmp_path / "d"
    directory.mkdir()
    if len(str(directory)) > 90:
        pytest.skip(f"{directory} is too long for the path of a socket")
    daemon = Daemon(program, directory)
    yield daemon
    if daemon.process is not None:
        daemon.signal(signal.SIGCONT)
    daemon.kill()


@pytest.fixture
def daemon(stopped_daemon: Daemon) -> Daemon:
    """A daemon that runs."""
    stopped_daemon.start()
    return stopped_daemon


Logged = tuple[logging.Logger, Handler]


@pytest.fixture
def logged() -> Iterator[Callable[..., Logged]]:
    """Makes a logger of its own with a handler, and closes the handler."""
    made: list[Logged] = []

    def make(path: str, **options: Any) -> Logged:
        handler = Handler(path, **{"exit_timeout": 0.2, "backoff_max": 0.2, **options})
        logger = logging.Logger(f"test{len(made)}", logging.DEBUG)
        logger.addHandler(handler)
        made.append((logger, handler))
        return logger, handler

    yield make
    for _, handler in made:
        handler.close()


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program of its own, whose end is looked at too; ``HANDLER`` makes its handler."""

    def run(text: str, path: str, *, code: int = 0) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(text)
        environment = {
            **os.environ,
            "BITACORA_SOCKET": path,
            "PYTHONPATH": str(PACKAGE / "src"),
        }
        done = subprocess.run(
            # Newer Pythons warn of any fork beside threads.
            [sys.executable, "-W", "ignore::DeprecationWarning", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    return run
