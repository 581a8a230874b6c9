"""This host says that it uses the storage, so that a sweep elsewhere knows of it.

Nova registers a host when its cache manager runs, and that may be switched off; a host that only
makes disks must be known all the same. Saying so once an hour is enough, since a host counts
until an operator retires it.
"""

from __future__ import annotations

import time

from basecache import errors, events
from basecache.agent.parts import Parts
from basecache.cache import sharers

_OFTEN_ENOUGH_SECONDS = 3600.0


def note_presence(parts: Parts) -> None:
    """Register this host where it was not seen lately. A damaged registry is told, no error."""
    layout = parts.store.layout
    try:
        seen = {sharer.host: sharer.seen_at for sharer in sharers.read(layout)}
        if not 0 <= time.time() - seen.get(parts.host, 0.0) < _OFTEN_ENOUGH_SECONDS:
            sharers.register(layout, parts.host)
    except errors.BasecacheError as error:
        parts.emit(events.Trouble(f"registry {layout.registry}", error.message))
