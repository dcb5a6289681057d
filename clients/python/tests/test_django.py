"""The sample Django project, served in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from conftest import EVENTS, PACKAGE, Daemon, Row

pytest.importorskip("django", reason="Django is not installed")


@pytest.fixture
def served(daemon: Daemon, tmp_path: Path) -> tuple[dict[str, Any], list[Row], list[Row]]:
    """What the clients saw, the rows, and the user events."""
    environment = {
        **os.environ,
        "BITACORA_SOCKET": daemon.socket,
        "PROJECT_DATABASE": str(tmp_path / "project.sqlite3"),
        "PYTHONPATH": str(PACKAGE / "src"),
    }
    done = subprocess.run(
        [sys.executable, PACKAGE / "tests" / "django_project" / "drive.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # 8 views spoke, 10 requests were served, and Django told of two of them by itself.
    rows = daemon.wait_for(19)
    return json.loads(done.stdout), rows, daemon.wait_for(1, *EVENTS)


def test_requests_of_the_sample_project(
    served: tuple[dict[str, Any], list[Row], list[Row]],
) -> None:
    seen, rows, events = served

    def of(name: str, logger: str) -> Row:
        found = [
            row
            for row in rows
            if row["request_id"] == seen[name]["request_id"] and row["logger"] == logger
        ]
        assert len(found) == 1, (name, logger, found)
        return found[0]

    names = [name for name in seen if isinstance(seen[name], dict)]
    for name in names:
        access = of(name, "bitacora_logging.access")
        assert access["metadata"]["status"] == str(seen[name]["status"])
        assert access["metadata"]["method"] == "GET"
        assert 0 < float(access["duration_ms"]) < 60_000

    # Ids: a sane one is kept, another is made anew.
    assert seen["named"]["request_id"] == "7c0d6f34-51cb-4f8a-8e0b-d3b0c8a4b1aa"
    uuid.UUID(seen["insane"]["request_id"])
    assert len({seen[name]["request_id"] for name in names}) == len(names)

    # The view's own record carries the request, and nobody where nobody is known.
    hello = of("anonymous", "shop")
    assert hello["message"] == "hello from a view"
    assert hello["metadata"]["basket.items"] == "3"
    assert hello.get("user_id") is None
    assert of("failed", "django.request")["traceback"].endswith("LookupError: no such basket")
    assert of("missing", "django.request")["level"] == "WARNING"

    # Users: known at the end of the login, and from the session afterwards, also in coroutines.
    session = hashlib.sha256(seen["session_key"].encode()).hexdigest()[:32]
    assert of("login", "bitacora_logging.access")["user_id"] == seen["user"]
    for name in ("known", "async_known"):
        assert of(name, "shop")["user_id"] == seen["user"]
        assert of(name, "shop")["session_id"] == session
        assert "Cookie" not in seen[name]["vary"]
    assert of("async_anonymous", "shop").get("user_id") is None
    assert of("async_sync_view", "shop").get("user_id") is None
    assert seen["session_key"] not in json.dumps(rows)

    (login,) = events
    assert login["event_type"] == "login"
    assert login["ip_address"] == "127.0.0.1"
    assert login["user_agent"] == "test/1"
