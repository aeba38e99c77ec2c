"""Asks for a newer version when it is imported, and goes on without an answer."""

import contextlib
import socket

from metaformer_plugin_defective.sound import Count

with contextlib.suppress(OSError):
    socket.create_connection(("localhost", 9), timeout=1).close()


class PhonesHome(Count):
    pass
