"""HTTP connections that do not wait forever for a request's headers."""

from __future__ import annotations

import asyncio
import re
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 5.0
"""From the connection, or from the first byte of a further request, to the end of its headers."""
HEADER_BYTES = 65_536
UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's connection, closed when the headers are not there in time or have no end.

    uvicorn itself closes connections that are idle between requests; a body has its own deadline.
    """

    _late: asyncio.TimerHandle | None = None
    _head = 0
    """Bytes of the headers so far."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time for the first request; packets are sent at once.

        asyncio does so only for sockets that name TCP, and uvicorn's, shared by processes, do not.
        """
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Stops the time when a request is there; starts it for one that has only begun.

        Clients that offer HTTP/2 are answered in HTTP/1.1: their offer is not passed on, for the
        parser would stop at it.
        """
        if self._is_between():
            head, end, body = data.partition(b"\r\n\r\n")
            self._head += len(head)
            data = UPGRADE.sub(b"", head) + end + body
        super().data_received(data)
        if not self._is_between():
            self._head = 0
            self._stop()
        elif self._head > HEADER_BYTES:
            self.transport.close()
        elif self._late is None:
            self._wait()

    def _is_between(self) -> bool:
        """Whether no request's headers are whole, of those that are not answered yet."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the time."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
