"""Who a record is about: the request, the user and the session at hand.

The variables are filled by the Django middleware, or by hand with :func:`bind`. They follow the
code through threads of a request, tasks and ``await``, as context variables do; every record and
every user event that is logged below them carries them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Union

Id = Union[str, int, uuid.UUID, None]

request_id: ContextVar[Id] = ContextVar("bitacora_request_id", default=None)
user_id: ContextVar[Id] = ContextVar("bitacora_user_id", default=None)
session_id: ContextVar[Id] = ContextVar("bitacora_session_id", default=None)


class _Keep:
    """Says that a variable stays as it is; ``None`` empties it."""


_KEEP = _Keep()


@contextmanager
def bind(
    *,
    request_id: Id | _Keep = _KEEP,
    user_id: Id | _Keep = _KEEP,
    session_id: Id | _Keep = _KEEP,
) -> Iterator[None]:
    """Sets variables for a block, or as a decorator for a function; what is not named stays."""
    wanted = (request_id, user_id, session_id)
    tokens: list[tuple[ContextVar[Id], Token[Id]]] = [
        (variable, variable.set(value))
        for variable, value in zip(_VARIABLES, wanted)
        if not isinstance(value, _Keep)
    ]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


_VARIABLES = (request_id, user_id, session_id)
