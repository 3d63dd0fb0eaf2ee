"""The broker that strangers visit: listeners of every kind, an authorizer, and a client that has logged in beside them."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.hostile.seeds import PARTITIONS, TOPICS, Seeds
from tests.hostile.trial import WatchedBroker
from tests.support.ports import free_port

from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.describe_acls import DescribeAclsRequest, DescribeAclsResponse
from ottla.protocol.messages.describe_user_scram_credentials import (
    DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
)
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.security.authority import make_authority, make_certificate
from ottla.testing.wire import WireClient

USER, PASSWORD, BAIT = "calm", "correct-horse", "bait"
#: How much the broker's memory may grow while strangers come and go: a thousand of them at a time, TLS buffers included.
RESIDENT_GROWTH_MAX_MIB = 120
_COUNTED = re.compile(r"^(ottla_logins_total|ottla_logins_failed_total|ottla_tls_handshakes_failed_total) (\d+)", re.M)


class GuardedBroker:
    """Use as a context manager; `check` as often as wanted, `finish` once."""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="ottla-strangers-")
        directory = Path(self._directory.name)
        now = datetime.now(UTC)
        authority = make_authority("tests", now=now, days=2)
        pair = make_certificate(authority, ["localhost", "127.0.0.1"], now=now, days=2)
        (directory / "ca.pem").write_bytes(authority.certificate)
        (directory / "broker.pem").write_bytes(pair.key + pair.certificate)
        (directory / "broker.pem").chmod(0o600)
        self.context = ssl.create_default_context(cadata=authority.certificate.decode())
        self.broker = WatchedBroker({})
        self.ports = {"ADMIN": self.broker.port, **{n: free_port() for n in ("LOGIN", "SECURE", "CERTIFICATE")}}
        line = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        settings = {
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()),
            "listener.security.protocol.map": "ADMIN:PLAINTEXT,LOGIN:SASL_PLAINTEXT,SECURE:SASL_SSL,CERTIFICATE:SSL",
            "inter.broker.listener.name": "ADMIN",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.login.plain.sasl.jaas.config": line,
            "listener.name.secure.plain.sasl.jaas.config": line,
            "listener.name.certificate.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(directory / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(directory / "ca.pem"),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Who gets in may do everything: what strangers want done is left undone by the door alone.
            "super.users": f"User:ANONYMOUS;User:{USER}",
            "allow.everyone.if.no.acl.found": "true",
            "auto.create.topics.enable": "false",
            "connection.failed.authentication.delay.ms": "5",
        }
        file = directory / "server.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self.broker._options = (str(file),)
        self.broker.start()
        try:
            self.seeds = Seeds(asyncio.run(self._make_topics()))
            self.calm = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.calm_client", str(self.ports["LOGIN"]), USER, PASSWORD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert self.calm.stdout is not None
            if self.calm.stdout.readline().strip() != "ready":
                raise AssertionError(f"the calm client failed before anybody came:\n{self.calm.communicate()[1]}")
            self._before_mib = self._resident_mib()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        calm = getattr(self, "calm", None)
        if calm is not None and calm.poll() is None:
            calm.kill()
            calm.communicate()
        self.broker.close()
        self._directory.cleanup()

    def check(self) -> dict[str, Any]:
        """Fail if somebody has come in, or the broker has grown or complained; return what it counts."""
        assert self.broker.is_running(), f"the broker has died:\n{self.broker.output[-3000:]}"
        assert self.broker.bad_lines == [], "\n".join(self.broker.bad_lines[:60])
        asyncio.run(self._look_for_traces())
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['ADMIN']}/metrics", timeout=30) as answer:
            counted = {name: int(count) for name, count in _COUNTED.findall(answer.read().decode())}
        assert counted["ottla_logins_total"] == 1, counted
        resident = self._resident_mib()
        assert resident - self._before_mib < RESIDENT_GROWTH_MAX_MIB, (self._before_mib, resident)
        return {**counted, "rss_mib": resident, "rss_mib_before": self._before_mib}

    def finish(self) -> dict[str, Any]:
        """Let the calm client read all that it has written, and the broker end."""
        try:
            out, errors = self.calm.communicate("", timeout=120)
        except subprocess.TimeoutExpired:
            self.calm.kill()
            out, errors = self.calm.communicate()
        assert self.calm.returncode == 0, f"the calm client was disturbed:\n{errors}"
        calm = {name: round(value, 3) for name, value in json.loads(out.splitlines()[-1]).items()}
        return {"calm_client": calm, "exit_code": self.broker.terminate()}

    async def _make_topics(self) -> dict[str, bytes]:
        wire = await WireClient.connect("127.0.0.1", self.ports["ADMIN"])
        topics = [
            CreatableTopic(name=name, num_partitions=PARTITIONS, replication_factor=1) for name in (*TOPICS, BAIT)
        ]
        answer = await wire.ask(CreateTopicsRequest(topics=topics, timeout_ms=9000), 7, CreateTopicsResponse)
        assert all(not topic.error_code for topic in answer.topics), answer
        wire.close()
        return {topic.name: topic.topic_id for topic in answer.topics}

    async def _look_for_traces(self) -> None:
        wire = await WireClient.connect("127.0.0.1", self.ports["ADMIN"])
        answer = await wire.ask(MetadataRequest(topics=None), 12, MetadataResponse)
        names = {topic.name for topic in answer.topics}
        assert names <= {*TOPICS, BAIT, "calm", "__consumer_offsets"}, names
        parts = [ListOffsetsPartition(partition_index=index, timestamp=-1) for index in range(PARTITIONS)]
        wanted = [ListOffsetsTopic(name=name, partitions=parts) for name in (*TOPICS, BAIT)]
        ends = await wire.ask(ListOffsetsRequest(topics=wanted), 7, ListOffsetsResponse)
        assert {part.offset for topic in ends.topics for part in topic.partitions} == {0}, "records of strangers"
        users = await wire.ask(DescribeUserScramCredentialsRequest(users=None), 0, DescribeUserScramCredentialsResponse)
        assert users.results == []
        everything = DescribeAclsRequest(
            resource_type_filter=1,
            resource_name_filter=None,
            pattern_type_filter=1,
            principal_filter=None,
            host_filter=None,
            operation=1,
            permission_type=1,
        )
        assert (await wire.ask(everything, 3, DescribeAclsResponse)).resources == []
        wire.close()

    def _resident_mib(self) -> int:
        status = Path(f"/proc/{self.broker.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+)", status, re.M)[1]) >> 10  # type: ignore[index]
