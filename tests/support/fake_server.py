"""A server on this computer for as long as a test needs one: a thread a connection."""

import socket
import threading
from abc import ABC, abstractmethod
from contextlib import suppress


class FakeServer(ABC):
    """Listens on `port` until it is closed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    @abstractmethod
    def _serve(self, connection: socket.socket) -> None:
        """Answer one connection until it ends."""

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
