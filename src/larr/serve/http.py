"""Connections whose headers have a deadline; uvicorn 0.54 has settings for none of this."""

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
    """uvicorn's connection, closed when the headers are late or too long.

    uvicorn closes connections that are idle between requests; `Service` gives bodies a deadline.
    """

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the deadline of the first request, and sends packets at once.

        asyncio sets TCP_NODELAY only for sockets with the protocol number of TCP. Those that
        uvicorn shares between processes have none: an answer then took 46 ms instead of 4.
        """
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Ends the deadline with the headers; starts it with the first byte of further ones.

        Removes the header with which a client offers HTTP/2, as httptools reads no further than
        the headers of such a request; the client is answered in HTTP/1.1.
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
        """Ends the deadline."""
        self._stop()
        super().connection_lost(exc)

    def _is_in_headers(self) -> bool:
        """Whether every request with complete headers is answered, so that headers come next."""
        return self.cycle is None or self.cycle.response_complete

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
