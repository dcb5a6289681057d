"""Serves a few requests of the sample project and prints what the clients saw, as JSON."""

import asyncio
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

import django

django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import AsyncClient, Client

SEEN = {}


def saw(name, response):
    """Keeps what a client may look at."""
    SEEN[name] = {
        "status": response.status_code,
        "request_id": response.headers["X-Request-ID"],
        "vary": response.headers.get("Vary", ""),
    }


def drive_sync():
    """Requests through WSGI's handler."""
    client = Client(raise_request_exception=False)
    saw("anonymous", client.get("/hello"))
    saw(
        "named",
        client.get("/hello", headers={"X-Request-ID": "7c0d6f34-51cb-4f8a-8e0b-d3b0c8a4b1aa"}),
    )
    saw("insane", client.get("/hello", headers={"X-Request-ID": "x" * 200}))
    saw("failed", client.get("/fail"))
    saw("missing", client.get("/nowhere"))
    saw("login", client.get("/login", headers={"User-Agent": "test/1"}))
    saw("known", client.get("/hello"))
    SEEN["session_key"] = client.cookies["sessionid"].value
    return client.cookies


async def drive_async(cookies):
    """Requests through ASGI's handler, side by side."""
    clients = [AsyncClient() for _ in range(3)]
    clients[0].cookies = cookies
    answers = await asyncio.gather(
        clients[0].get("/hello-async"),
        clients[1].get("/hello-async"),
        clients[2].get("/hello"),
    )
    for name, answer in zip(("async_known", "async_anonymous", "async_sync_view"), answers):
        saw(name, answer)


call_command("migrate", verbosity=0)
SEEN["user"] = User.objects.create_user("ana", password="secret").pk
asyncio.run(drive_async(drive_sync()))
print(json.dumps(SEEN))
