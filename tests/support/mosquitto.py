"""An MQTT broker of a test's own, Mosquitto: its folder and its port outlive `kill()` and `start()`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import paho.mqtt.publish
from tests.support.ports import free_port


def program() -> str | None:
    """Return Mosquitto's path, or None."""
    return shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


class Mosquitto:
    """`mosquitto` on a free port. It keeps sessions and their messages, however many.

    Args:
        users: names and passwords; none: every client may come.
    """

    def __init__(self, users: dict[str, str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ottla-mosquitto-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {self._folder}/",
            "user root",
        ]
        lines += ["max_queued_messages 0", f"allow_anonymous {'false' if users else 'true'}"]
        if users:
            passwords = self._folder / "passwords"
            passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
            subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True)
            lines.append(f"password_file {passwords}")
        (self._folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; return when it answers."""
        found = program()
        assert found is not None
        self._process = process = subprocess.Popen(
            [found, "-c", str(self._folder / "mosquitto.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
                return
            except OSError:
                assert process.poll() is None, "Mosquitto has ended"
                assert time.monotonic() < deadline, "Mosquitto does not answer"
                time.sleep(0.05)

    def publish(self, *messages: tuple[str, bytes]) -> None:
        """Publish messages with QoS 1, without a user; return when they are acknowledged."""
        given = [{"topic": topic, "payload": data, "qos": 1} for topic, data in messages]
        paho.mqtt.publish.multiple(given, "127.0.0.1", self.port)  # type: ignore[arg-type]

    def kill(self) -> None:
        """End it by SIGTERM: what it has acknowledged is on disk then, which it is not after SIGKILL."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
