"""User events: what a person did, for the table ``user_events``."""

from __future__ import annotations

from typing import Any

from . import context, handler, records


def event(
    event_type: str,
    *,
    user_id: context.Id = None,
    ip_address: str | None = None,
    user_agent: str | None = None,
    session_id: context.Id = None,
    **data: Any,
) -> None:
    """Sends a user event through the connection of the handler that was made last.

    User and session are those of the context where none is given, and the context's request goes
    with the data. Like logging it does not wait, and does not raise.
    """
    used = None
    try:
        used = handler.default()
        columns = {
            "user_id": context.user_id.get() if user_id is None else user_id,
            "session_id": context.session_id.get() if session_id is None else session_id,
            "ip_address": ip_address,
            "user_agent": user_agent,
        }
        request_id = context.request_id.get()
        if request_id is not None:
            data.setdefault("request_id", request_id)
        used.emit_event(records.note_event(str(event_type), columns, data))
    except Exception:
        if used is not None:
            used.count_error()
