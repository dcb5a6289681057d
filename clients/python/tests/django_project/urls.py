"""The views of the sample project."""

import logging

from django.contrib.auth import authenticate, login
from django.http import HttpRequest, HttpResponse
from django.urls import path

import bitacora_logging

log = logging.getLogger("shop")


def hello(request: HttpRequest) -> HttpResponse:
    """Says something, and never asks who is there."""
    log.info("hello from a view", extra={"basket": {"items": 3}})
    return HttpResponse("hello")


async def hello_async(request: HttpRequest) -> HttpResponse:
    """The same in a coroutine."""
    log.info("hello from a coroutine")
    return HttpResponse("hello")


def fail(request: HttpRequest) -> HttpResponse:
    """Breaks."""
    raise LookupError("no such basket")


def log_in(request: HttpRequest) -> HttpResponse:
    """Logs a user in, which is a user event."""
    user = authenticate(request, username="ana", password="secret")
    login(request, user)
    bitacora_logging.event(
        "login",
        user_id=user.pk,
        ip_address=request.META["REMOTE_ADDR"],
        user_agent=request.headers.get("User-Agent"),
        method="password",
    )
    return HttpResponse("welcome")


urlpatterns = [
    path("hello", hello),
    path("hello-async", hello_async),
    path("fail", fail),
    path("login", log_in),
]
