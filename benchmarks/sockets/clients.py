"""WebSocket clients that do as little as can be: they read frames, and note when.

``python clients.py PORT COUNT PATH DEFLATE`` prints ``ready`` when all are connected, and then, for
each message that all of them have, a line of JSON: seconds on the monotonic clock of the first, the
median and the last frame, and the processor's time of this process.  Stands alone.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import struct
import sys
import time

#: Shorter frames are no messages: what Engine.IO and Socket.IO say in between.
SHORTEST = 60


class Frames:
    """Counts whole frames in a stream of bytes, and keeps none."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """Return how many messages end in ``data``."""
        data = self._rest + data if self._rest else data
        count = at = 0
        while len(data) - at >= 2:
            length, header = data[at + 1] & 127, 2
            if length >= 126:
                header = 4 if length == 126 else 10
                if len(data) - at < header:
                    break
                kind = ">H" if header == 4 else ">Q"
                (length,) = struct.unpack_from(kind, data, at + 2)
            if len(data) - at < header + length:
                break
            at += header + length
            count += length >= SHORTEST
        self._rest = data[at:]
        return count


def handshake(port: int, path: str, deflate: bool) -> bytes:
    """Return the request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    if deflate:
        lines.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    return "\r\n".join([*lines, "", ""]).encode()


def connect(port: int, path: str, deflate: bool) -> tuple[socket.socket, Frames]:
    """Open a WebSocket; return it with what came so far, none of which is a message."""
    one = socket.create_connection(("127.0.0.1", port), timeout=120)
    one.sendall(handshake(port, path, deflate))
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += one.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    frames = Frames()
    count = frames.feed(answer.partition(b"\r\n\r\n")[2])
    if "socket.io" in path:
        # What Engine.IO says first is as long as a message.
        while not count:
            count = frames.feed(one.recv(4096))
        one.sendall(masked(b"40"))
    return one, frames


def masked(text: bytes) -> bytes:
    """Return a text frame as clients send it."""
    return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text


def main(port: int, count: int, path: str, deflate: bool) -> None:
    """Connect, and read until the site closes."""
    epoll = select.epoll()
    sockets: dict[int, tuple[socket.socket, Frames]] = {}
    for _ in range(count):
        one, frames = connect(port, path, deflate)
        one.setblocking(False)
        sockets[one.fileno()] = one, frames
        epoll.register(one.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    times: list[float] = []
    while True:
        for fd, _ in epoll.poll():
            one, frames = sockets[fd]
            data = one.recv(65536)
            if not data:
                return
            times += [time.monotonic()] * frames.feed(data)
        while len(times) >= count:
            now, times = times[:count], times[count:]
            print(
                json.dumps(
                    {
                        "first": now[0],
                        "median": now[count // 2],
                        "last": now[-1],
                        "cpu_s": time.process_time(),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "True")
