"""No network: whoever opens a connection or resolves a name inside is refused, and it is written down.

An audit hook of the interpreter sees what is done to sockets whichever library does it. What a library's other process
does, nobody sees here.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVENTS = frozenset(f"socket.{name}" for name in ("connect", "sendto", "sendmsg"))
_NAMES = frozenset(f"socket.{name}" for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr"))
_watching: list[list[str]] = []
_hooked = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or event not in _EVENTS | _NAMES:
        return
    address = arguments[0] if event in _NAMES else arguments[1]
    # Sockets of this machine's own file system have a path for an address, connected ones have none.
    if event in _EVENTS and not isinstance(address, tuple):
        return
    host = address[0] if isinstance(address, tuple) else address
    for attempts in _watching:
        attempts.append(str(host))
    raise OSError(errno.ENETUNREACH, "no network here: metaformer is checking that none is used")


@contextmanager
def unconnected() -> Iterator[list[str]]:
    """Inside, connections and look-ups fail as on a machine without network; gives the hosts that were asked for."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_refuse)  # for good: python has no way to take one off
        _hooked = True
    attempts: list[str] = []
    _watching.append(attempts)
    try:
        yield attempts
    finally:
        _watching[:] = [other for other in _watching if other is not attempts]
