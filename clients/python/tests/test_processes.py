"""Forks and ends of processes: each record is sent by the process that logged it, and only once."""

from __future__ import annotations

import collections
import re
import subprocess
import time
from collections.abc import Callable

from conftest import Daemon, Row, eventually

Run = Callable[..., "subprocess.CompletedProcess[str]"]

BEGIN = """
import logging, os, sys, threading, time
import bitacora_logging
handler = bitacora_logging.Handler(exit_timeout=20)
log = logging.getLogger("program")
log.setLevel(logging.INFO)
log.addHandler(handler)
"""


def counted(rows: list[Row]) -> collections.Counter[str]:
    return collections.Counter(row["message"] for row in rows)


def test_records_in_the_queue_are_sent_as_the_program_ends(daemon: Daemon, run_script: Run) -> None:
    done = run_script(BEGIN + "for n in range(3000): log.info('n %d', n)", daemon.socket)
    assert done.stderr == ""
    assert counted(daemon.wait_for(3000)) == {f"n {number}": 1 for number in range(3000)}


def test_a_program_that_ends_without_a_daemon_says_once_what_is_lost(
    stopped_daemon: Daemon, run_script: Run
) -> None:
    began = time.monotonic()
    text = BEGIN.replace("20", "0.5, queue_records=30") + "for n in range(40): log.info('n')"
    done = run_script(text, stopped_daemon.socket)
    assert time.monotonic() - began < 5
    assert done.stderr.count("\n") == 1
    assert re.match(
        r"bitacora-logging: 40 records lost \(30 without a receipt from \S+, "
        r"10 dropped as the queue was full\); last error: No such file or directory$",
        done.stderr,
    )


def test_records_of_the_last_moments_are_sent_or_counted(daemon: Daemon, run_script: Run) -> None:
    text = """
import atexit, logging
atexit.register(lambda: log.info("too late"))
"""
    text += BEGIN
    text += """
class Dying:
    def __del__(self): log.info("dying")
atexit.register(log.info, "at exit")
def tick():
    while True:
        log.info("tick")
        time.sleep(0.0001)
threading.Thread(target=tick, daemon=True).start()
dying = Dying()
time.sleep(0.1)
"""
    done = run_script(text, daemon.socket)
    assert "Traceback" not in done.stderr
    eventually(lambda: counted(daemon.rows())["at exit"], "the record at exit is stored")
    assert counted(daemon.rows())["at exit"] == 1


def test_the_first_record_may_be_logged_as_the_program_ends(
    daemon: Daemon, run_script: Run
) -> None:
    text = BEGIN + "import atexit\natexit.register(log.info, 'only one')"
    assert run_script(text, daemon.socket).stderr == ""
    assert counted(daemon.wait_for(1)) == {"only one": 1}


def test_an_error_that_ends_the_program_does_not_keep_its_records(
    daemon: Daemon, run_script: Run
) -> None:
    run_script(BEGIN + "log.info('before')\nraise SystemExit(3)", daemon.socket, code=3)
    assert counted(daemon.wait_for(1)) == {"before": 1}


def test_a_fork_in_mid_stream_sends_each_record_once(daemon: Daemon, run_script: Run) -> None:
    text = (
        BEGIN
        + """
for n in range(1000): log.info("parent %d", n)
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        for n in range(500): log.info("child %d %d", child, n)
        sys.exit(0)
    children.append(pid)
    for n in range(500): log.info("parent %d", 1000 + 500 * child + n)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
"""
    )
    assert run_script(text, daemon.socket).stderr == ""
    expected = {f"parent {n}": 1 for n in range(3000)}
    expected.update({f"child {child} {n}": 1 for child in range(4) for n in range(500)})
    rows = daemon.wait_for(5000)
    assert counted(rows) == expected
    assert len({row["metadata"]["process"] for row in rows}) == 5


def test_forks_while_other_threads_log_neither_hang_nor_repeat(
    daemon: Daemon, run_script: Run
) -> None:
    text = (
        BEGIN
        + """
stop = threading.Event()
logged = [0] * 4
def work(thread):
    while not stop.is_set():
        log.info("thread %d %d", thread, logged[thread])
        logged[thread] += 1
        if logged[thread] % 5 == 0: time.sleep(0.005)
threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
for thread in threads: thread.start()
for child in range(20):
    pid = os.fork()
    if pid == 0:
        log.info("child %d", child)
        assert handler.stats()["sent"] <= 1
        ok = handler.flush(20)
        os._exit(0 if ok else 9)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads: thread.join()
print(*logged)
"""
    )
    done = run_script(text, daemon.socket)
    assert done.stderr == ""
    expected = {f"child {child}": 1 for child in range(20)}
    for thread, count in enumerate(map(int, done.stdout.split())):
        expected.update({f"thread {thread} {n}": 1 for n in range(count)})
    assert counted(daemon.wait_for(len(expected))) == expected


def test_children_of_multiprocessing_send_what_they_logged(daemon: Daemon, run_script: Run) -> None:
    text = (
        BEGIN
        + """
import multiprocessing
def work(n):
    log.info("job %d", n)
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    log.info("parent")
    jobs = [context.Process(target=work, args=(n,)) for n in range(5)]
    for job in jobs: job.start()
    for job in jobs: job.join()
    with context.Pool(2) as pool:
        pool.map(work, range(5, 10))
        pool.close()
        pool.join()
"""
    )
    assert run_script(text, daemon.socket).stderr == ""
    expected = {"parent": 1, **{f"job {n}": 1 for n in range(10)}}
    assert counted(daemon.wait_for(11)) == expected


def test_a_handler_closed_before_a_fork_stays_closed(daemon: Daemon, run_script: Run) -> None:
    text = (
        BEGIN
        + """
log.info("open")
handler.close()
if os.fork() == 0:
    log.info("closed")
    os._exit(0 if handler.stats()["dropped"] == 1 else 9)
assert os.wait()[1] == 0
"""
    )
    run_script(text, daemon.socket)
    assert counted(daemon.wait_for(1)) == {"open": 1}


def test_a_signal_handler_that_logs_in_the_middle_of_a_log_call_does_not_deadlock(
    daemon: Daemon, run_script: Run
) -> None:
    text = (
        BEGIN
        + """
import itertools, signal
ticks = itertools.count()
steady = 0
def tick(*_):
    log.info("tick %d", next(ticks))
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
end = time.monotonic() + 1
while time.monotonic() < end:
    for _ in range(100): log.info("steady")
    steady += 100
    time.sleep(0.01)
signal.setitimer(signal.ITIMER_REAL, 0)
print(next(ticks), steady)
"""
    )
    done = run_script(text, daemon.socket)
    ticks, steady = map(int, done.stdout.split())
    assert ticks > 100
    expected = {"steady": steady, **{f"tick {tick}": 1 for tick in range(ticks)}}
    assert counted(daemon.wait_for(ticks + steady)) == expected
