"""Lines from rank 0 to every other rank of its replica: commands one way, bad news both ways.

A line is a TCP connection. When a process dies, however it dies, the kernel closes its lines, so
whoever reads on one knows at once, and needs no time limit while nothing is to be done. What is
sent are frames of bytes; nothing is unpickled.
"""

from __future__ import annotations

import hmac
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from pipelines.errors import StageLost

READY = b"ready"
KEY_BYTES = 16
INVITATION_BYTES = 2 + KEY_BYTES
_LENGTH = struct.Struct("!I")
_PORT = struct.Struct("!H")
_MAX_FRAME = 2**24
_LOOK_EVERY_S = 0.5


class Line:
    """One end of a connection. For one reading and one writing thread."""

    def __init__(self, connection: socket.socket) -> None:
        # Without it, a small frame waits until the one before it is acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection

    def send(self, frame: bytes) -> int:
        """Returns how many bytes were sent. Raises OSError when the other end is gone."""
        data = _LENGTH.pack(len(frame)) + frame
        self.connection.sendall(data)
        return len(data)

    def receive(self) -> bytes:
        """The next frame. Raises EOFError when the other end is gone, TimeoutError."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > _MAX_FRAME:
            raise EOFError(f"a frame of {length} bytes is none of ours")
        return self._read(length)

    def hang_up(self) -> None:
        """End the connection, also for a thread that is reading."""
        with suppress(OSError):  # it has ended already
            self.connection.shutdown(socket.SHUT_RDWR)

    def part(self, why: str) -> None:
        """Hang up with a last word, if somebody is there to hear it."""
        with suppress(OSError):
            self.send(why.encode())
        self.hang_up()

    def close(self) -> None:
        self.connection.close()

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                part = self.connection.recv(count - len(data))
            except TimeoutError:
                raise
            except OSError:
                part = b""
            if not part:
                raise EOFError("the other end is gone")
            data += part
        return bytes(data)


class Switchboard:
    """Rank 0's ends of all lines."""

    def __init__(self, host: str, num_lines: int) -> None:
        """Listens on `host`, on a port that is free."""
        family = socket.getaddrinfo(host, None)[0][0]
        self._server = socket.create_server((host, 0), family=family, backlog=num_lines)
        self._num_lines = num_lines
        self._key = secrets.token_bytes(KEY_BYTES)
        self._lines: Mapping[int, Line] = {}
        self._watch: threading.Thread | None = None
        self._is_closing = False

    @property
    def invitation(self) -> bytes:
        """What a rank needs to know to get a line: `INVITATION_BYTES` bytes."""
        return _PORT.pack(self._server.getsockname()[1]) + self._key

    def accept(self, timeout_s: float) -> None:
        """Wait until all ranks have their lines. Raises StageLost."""
        lines: dict[int, Line] = {}
        deadline = time.monotonic() + timeout_s
        try:
            while len(lines) < self._num_lines:
                self._server.settimeout(max(0.01, deadline - time.monotonic()))
                connection, _ = self._server.accept()
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                line = Line(connection)
                try:
                    hello = line.receive()
                except EOFError:
                    hello = b""
                if hmac.compare_digest(hello[:-1], self._key):
                    lines[hello[-1]] = line
                    connection.settimeout(None)
                else:
                    line.close()
        except TimeoutError as error:
            raise _lost(f"{self._num_lines - len(lines)} ranks did not call") from error
        finally:
            self._server.close()
        self._lines = lines

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until all ranks have their weights. Raises StageLost, with what a rank says."""
        deadline = time.monotonic() + timeout_s
        for rank, line in self._lines.items():
            line.connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                said = line.receive()
            except (EOFError, TimeoutError) as error:
                raise _lost(f"rank {rank} did not become ready: {error}") from error
            if said != READY:
                raise _lost(f"rank {rank}: {said.decode(errors='replace')}")
            line.connection.settimeout(None)

    def watch(self, on_loss: Callable[[str], None], is_late: Callable[[], bool]) -> None:
        """From now on, tell once when a rank goes or all `is_late`, from a thread of its own."""
        self._watch = threading.Thread(
            target=self._listen, args=(on_loss, is_late), name="sluice-ranks", daemon=True
        )
        self._watch.start()

    def send(self, frame: bytes) -> int:
        """To all ranks; returns the bytes sent. Raises StageLost."""
        try:
            return sum(line.send(frame) for line in self._lines.values())
        except OSError as error:
            raise _lost(f"a rank is gone ({error})") from error

    def dismiss(self, frame: bytes) -> None:
        """`send` the last frame: from now on it is no news that a rank goes."""
        self._is_closing = True
        self.send(frame)

    def close(self, timeout_s: float) -> None:
        """End all lines, once the ranks have, or after `timeout_s`."""
        self._is_closing = True
        if self._watch is not None and self._watch is not threading.current_thread():
            self._watch.join(timeout_s)
        self.hang_up()
        for line in self._lines.values():
            line.close()

    def hang_up(self) -> None:
        """End all lines, from any thread: the ranks hear it at once."""
        for line in self._lines.values():
            line.hang_up()

    def _listen(self, on_loss: Callable[[str], None], is_late: Callable[[], bool]) -> None:
        ranks = {line.connection: rank for rank, line in self._lines.items()}
        while ranks:
            for connection in select.select(list(ranks), [], [], _LOOK_EVERY_S)[0]:
                rank = ranks.pop(connection)
                if (news := _last_words(self._lines[rank])) is None and self._is_closing:
                    continue
                on_loss(f"rank {rank} {f'failed: {news}' if news else 'is gone'}")
                return
            if is_late():
                on_loss("a rank is stuck")
                return


def call(host: str, invitation: bytes, rank: int, timeout_s: float) -> Line:
    """A further rank's line to rank 0. Raises StageLost."""
    (port,), key = _PORT.unpack(invitation[: _PORT.size]), invitation[_PORT.size :]
    try:
        connection = socket.create_connection((host, port), timeout=timeout_s)
        connection.settimeout(None)
        line = Line(connection)
        line.send(key + bytes([rank]))
    except OSError as error:
        raise _lost(f"rank 0 cannot be reached ({error})") from error
    return line


def _last_words(line: Line) -> str | None:
    try:
        return line.receive().decode(errors="replace")
    except EOFError:
        return None


def _lost(why: str) -> StageLost:
    return StageLost(f"the denoiser has lost its ranks: {why}", stage="Denoiser")
