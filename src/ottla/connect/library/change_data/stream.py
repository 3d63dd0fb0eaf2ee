"""The log as it comes, read by a thread of its own.

The thread tells the server every few seconds how far its reader is, whether or not anything is taken from here: a server
that hears nothing ends the connection, and what waits for a slow cluster is no reason for that. What was read and not
taken yet is bounded, in pieces and bytes; beyond that the server waits.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable

import psycopg
from psycopg import pq

from ottla.connect.errors import ConnectError, RetriableError
from ottla.connect.library.change_data.pgoutput import Keepalive, Payload, feedback, frame, lsn_text
from ottla.connect.library.change_data.server import Connection, may_pass, start_statement, told

#: Pieces and bytes that are held; one piece is held however long it is.
HELD, HELD_BYTES = 8192, 16 << 20
_LOOK_S = 0.5


class Stream:
    """The log from a place on.

    Args:
        connection: for replication; it belongs to the stream from now on.
        begin: where to begin.
        interval_s: how often the server is told of its reader.
    """

    def __init__(
        self,
        connection: Connection,
        slot: str,
        publication: str,
        begin: int,
        interval_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._interval_s = interval_s
        self._now = now
        self._changed = threading.Condition()
        self._pieces: deque[Payload | Keepalive] = deque()
        self._bytes = 0
        self._received = 0
        self._confirmed = 0
        self._error: BaseException | None = None
        self._is_closing = False
        self._start(slot, publication, begin)
        self._thread = threading.Thread(target=self._run, name=f"log of {slot}", daemon=True)
        self._thread.start()

    def _start(self, slot: str, publication: str, begin: int) -> None:
        """Have the server begin.

        Raises:
            RetriableError: the slot is in use.
            ConnectError: the server cannot.
        """
        try:
            self._pg = self._connection.pgconn
            self._pg.nonblocking = 0
            result = self._pg.exec_(start_statement(slot, publication, lsn_text(begin)))
            if result.status == pq.ExecStatus.COPY_BOTH:
                self._pg.nonblocking = 1
                return
            message = " ".join(result.get_error_message().split())
            state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        except psycopg.Error:
            self._connection.close()
            raise
        self._connection.close()
        if not state or state.startswith(("08", "53", "55006", "57P")):
            raise RetriableError(f"The replication slot {slot}: {message}")
        raise ConnectError(f"The replication slot {slot}: {message}")

    @property
    def held_bytes(self) -> int:
        """How much was read and not taken yet."""
        with self._changed:
            return self._bytes

    def take(self, most: int, wait_s: float) -> list[Payload | Keepalive]:
        """Return what has come, after a short wait at most.

        Raises:
            RetriableError: the connection is lost.
            ConnectError: the server has ended it for a reason that stays.
        """
        with self._changed:
            if not self._pieces and self._error is None:
                self._changed.wait(wait_s)
            if not self._pieces and self._error is not None:
                error = self._error
                if isinstance(error, psycopg.Error):
                    kind = RetriableError if may_pass(error) else ConnectError
                    raise kind(f"The server's log: {told(error)}") from error
                raise error
            found = [self._pieces.popleft() for _ in range(min(most, len(self._pieces)))]
            self._bytes -= sum(_size(piece) for piece in found)
            self._changed.notify_all()
            return found

    def confirm(self, lsn: int) -> None:
        """Let the server forget its log before a place."""
        with self._changed:
            self._confirmed = max(self._confirmed, lsn)
            self._changed.notify_all()

    def close(self) -> None:
        """End the connection."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._connection.close()

    def _work(self) -> None:
        due = 0.0
        told_of = 0
        asked = False
        while True:
            with self._changed:
                if self._is_closing:
                    return
                confirmed = self._confirmed
                is_full = len(self._pieces) >= HELD or self._bytes >= HELD_BYTES
            now = time.monotonic()
            if asked or now >= due or confirmed > told_of:
                self._tell(confirmed)
                told_of, asked, due = confirmed, False, now + self._interval_s
            if is_full:
                with self._changed:
                    self._changed.wait(min(self._interval_s, _LOOK_S))
                continue
            asked = self._read(min(self._interval_s, _LOOK_S))

    def _tell(self, confirmed: int) -> None:
        self._pg.put_copy_data(feedback(self._received, confirmed, int(self._now() * 1_000_000)))
        while self._pg.flush():
            readable, _, _ = select.select([self._pg.socket], [self._pg.socket], [], _LOOK_S)
            if readable:
                self._pg.consume_input()

    def _read(self, wait_s: float) -> bool:
        """Take one piece from the connection, if there is one; return whether the server wants to hear of its reader."""
        size, data = self._pg.get_copy_data(1)
        if size == 0:
            readable, _, _ = select.select([self._pg.socket], [], [], wait_s)
            if readable:
                self._pg.consume_input()
            return False
        if size < 0:
            result = self._pg.get_result()
            message = result.get_error_message() if result is not None else ""
            state = result.error_field(pq.DiagnosticField.SQLSTATE) if result is not None else None
            if state and not state.startswith((b"08", b"53", b"57P")):
                raise ConnectError(f"The server has ended the log: {' '.join(message.split())}")
            raise RetriableError(f"The server has ended the log {' '.join(message.split())}")
        piece = frame(data)
        with self._changed:
            if isinstance(piece, Keepalive):
                self._received = max(self._received, piece.end)
                if self._pieces and isinstance(self._pieces[-1], Keepalive):
                    self._pieces.pop()
            else:
                self._received = max(self._received, piece.start)
            self._pieces.append(piece)
            self._bytes += _size(piece)
            self._changed.notify_all()
        return isinstance(piece, Keepalive) and piece.asks


def _size(piece: Payload | Keepalive) -> int:
    return len(piece.data) if isinstance(piece, Payload) else 0
