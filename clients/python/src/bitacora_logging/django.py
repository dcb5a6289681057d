"""The Django middleware: one request, one id, in every record below it.

Put it first in ``MIDDLEWARE``. Settings, all of them optional::

    BITACORA = {
        "ACCESS_LOG": True,                 # one record a request
        "REQUEST_ID_HEADER": "X-Request-ID",
        "USER_ID": None,                    # "path.to.function": request -> id or None
    }
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
import uuid
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.utils.functional import LazyObject, empty
from django.utils.module_loading import import_string

from . import context

_own = logging.getLogger("bitacora_logging")
_access = logging.getLogger("bitacora_logging.access")
_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
#: Where ``django.contrib.auth`` keeps the user's key in the session.
_SESSION_USER = "_auth_user_id"


class Middleware:
    """Binds request, user and session for the time of a request, and measures it."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        options = getattr(settings, "BITACORA", {})
        self._get_response = get_response
        self._header = options.get("REQUEST_ID_HEADER", "X-Request-ID")
        self._access_log = options.get("ACCESS_LOG", True)
        user_id = options.get("USER_ID")
        self._user_id = import_string(user_id) if isinstance(user_id, str) else user_id
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Answers a request."""
        if self._is_async:
            return self._answer_async(request)
        began = time.perf_counter()
        with self._bound(request):
            try:
                response = self._get_response(request)
            except BaseException as error:
                self._tell(request, None, began, error)
                raise
            return self._told(request, response, began)

    async def _answer_async(self, request: Any) -> Any:
        began = time.perf_counter()
        with self._bound(request):
            try:
                response = await self._get_response(request)
            except BaseException as error:  # also a client that has gone: CancelledError
                self._tell(request, None, began, error)
                raise
            return self._told(request, response, began)

    def process_view(self, request: Any, *_: Any) -> None:
        """Takes user and session, which the middlewares between here and the view have set."""
        session_id = _session_id(request)
        if session_id is not None:
            context.session_id.set(session_id)
        try:
            user_id = self._user_of(request)
        except Exception:  # the view decides whether it can do without
            _own.warning("the user of a request is unknown", exc_info=True)
        else:
            if user_id is not None:
                context.user_id.set(user_id)

    def _bound(self, request: Any) -> Any:
        given = request.headers.get(self._header, "")
        request.request_id = given if _SANE.fullmatch(given) else str(uuid.uuid4())
        return context.bind(request_id=request.request_id, user_id=None, session_id=None)

    def _told(self, request: Any, response: Any, began: float) -> Any:
        response[self._header] = request.request_id
        self._tell(request, response.status_code, began, None)
        return response

    def _tell(
        self, request: Any, status: int | None, began: float, error: BaseException | None
    ) -> None:
        if not self._access_log:
            return
        user = _resolved_user(request)  # a view may have logged somebody in
        if user is not None:
            context.user_id.set(_id_of(user))
        fields: dict[str, Any] = {"method": request.method, "path": request.path}
        outcome: int | str
        if status is not None:
            fields["status"] = outcome = status
        else:
            gone = isinstance(error, asyncio.CancelledError)
            fields["outcome"] = outcome = "cancelled" if gone else type(error).__name__
        fields["duration_ms"] = round((time.perf_counter() - began) * 1000, 3)
        _access.info("%s %s %s", request.method, request.path, outcome, extra=fields)

    def _user_of(self, request: Any) -> context.Id:
        if self._user_id is not None:
            found: context.Id = self._user_id(request)
            return found
        user = _resolved_user(request)
        if user is not None:
            return _id_of(user)
        return _user_id_in_session(request)


def _resolved_user(request: Any) -> Any:
    """``request.user``, unless asking for it would ask the database."""
    user = getattr(request, "user", None)
    if isinstance(user, LazyObject) and getattr(user, "_wrapped", empty) is empty:
        return None
    return user


def _id_of(user: Any) -> context.Id:
    key = getattr(user, "pk", None) if getattr(user, "is_authenticated", False) else None
    return key if key is None or isinstance(key, (int, str, uuid.UUID)) else str(key)


def _user_id_in_session(request: Any) -> context.Id:
    """The user's key from the session, which is loaded only if the client has one.

    Looking must not count as a use of the session: a use adds ``Vary: Cookie`` to the response.
    """
    session = getattr(request, "session", None)
    if session is None or settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return None
    accessed = getattr(session, "accessed", None)
    try:
        key = session.get(_SESSION_USER)
    finally:
        if accessed is not None:
            session.accessed = accessed
    if isinstance(key, str) and key.isascii() and key.isdigit():
        return int(key)
    return key if key is None else str(key)


def _session_id(request: Any) -> str | None:
    """A name for the session. Its key would let whoever reads logs take it over."""
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()[:32] if key else None
