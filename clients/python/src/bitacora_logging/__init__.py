"""Python logging into bitacora: never waits, and knows what is stored.

``Handler`` takes the records of the module ``logging``; ``event`` sends user events; ``bind`` and
the module ``context`` say which request, user and session both belong to.
"""

from .client import Options, Stats
from .context import bind
from .events import event
from .handler import Handler

__all__ = ["Handler", "Options", "Stats", "bind", "event"]
__version__ = "0.1.0"
