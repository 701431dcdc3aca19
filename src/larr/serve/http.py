"""Connections with a deadline for headers, which uvicorn 0.54 has no settings for."""

from __future__ import annotations

import asyncio
import re
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 5.0
"""From connecting, or the first byte of a later request, to the end of the headers."""
HEADER_BYTES = 65_536
UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's connection, closed if the headers are late or too long.

    uvicorn itself closes connections that are idle between requests; `Service` limits bodies.
    """

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the deadline of the first request, and sets TCP_NODELAY.

        asyncio sets it only for sockets with the protocol number of TCP. Those that uvicorn shares
        between processes have none; a response then took 46 ms instead of 4.
        """
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stops the deadline at the end of the headers; starts it with the next request.

        Removes the header that offers HTTP/2, because httptools stops reading after the headers of
        such a request; the response is in HTTP/1.1.
        """
        if self._is_in_headers():
            head, end, body = data.partition(b"\r\n\r\n")
            self._head_bytes += len(head)
            data = UPGRADE.sub(b"", head) + end + body
        super().data_received(data)
        if not self._is_in_headers():
            self._head_bytes = 0
            self._stop()
        elif self._head_bytes > HEADER_BYTES:
            self.transport.close()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the deadline."""
        self._stop()
        super().connection_lost(exc)

    def _is_in_headers(self) -> bool:
        """Whether the next bytes are headers: the last request has been answered, or none came."""
        return self.cycle is None or self.cycle.response_complete

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
