"""TLS and SASL to real servers, and who may change the nodes then."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support import zookeeper_anchor
from tests.support.ports import free_port
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla.cluster.tree import Create, SetData, TreeUnavailableError
from ottla.cluster.trees.zookeeper import ZooKeeperTree
from ottla.cluster.trees.zookeeper_options import SaslOptions, TlsOptions, ZooKeeperOptions
from ottla.offload import ThreadOffload

pytestmark = pytest.mark.zookeeper

TIMEOUT_MS = 6_000
OTTLA = SaslOptions(mechanism="DIGEST-MD5", username="ottla", password="secret")


async def opened(options: ZooKeeperOptions) -> ZooKeeperTree:
    tree = ZooKeeperTree(options, ThreadOffload(2))
    await tree.open()
    return tree


@pytest.fixture(scope="module")
def sasl_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperEnsemble]:
    zookeeper_anchor.require()
    jaas = tmp_path_factory.mktemp("sasl") / "jaas.conf"
    jaas.write_text(
        'Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_ottla="secret" user_other="word"; };'
    )
    ensemble = ZooKeeperEnsemble(
        configuration=["authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider"],
        options=[f"-Djava.security.auth.login.config={jaas}"],
    )
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()


async def test_sasl_and_access_lists(sasl_server: ZooKeeperEnsemble) -> None:
    """Nodes belong to the identity that made them; others read most of them, and none that holds secrets."""
    options = ZooKeeperOptions(servers=tuple(sasl_server.servers), chroot="/secured", session_timeout_ms=TIMEOUT_MS)
    owner = await opened(replace(options, sasl=OTTLA, set_acl=True))
    await owner.multi([Create("/config"), Create("/config/topics", b"open"), Create("/config/users", b"secret")])
    for other in (
        await opened(options),
        await opened(replace(options, sasl=SaslOptions(mechanism="DIGEST-MD5", username="other", password="word"))),
    ):
        assert (await other.get("/config/topics")).data == b"open"
        with pytest.raises(TreeUnavailableError, match="does not allow this broker's identity to use /config/topics"):
            await other.multi([SetData("/config/topics", b"changed")])
        with pytest.raises(TreeUnavailableError, match="does not allow this broker's identity to use /config/users"):
            await other.get("/config/users")
        await other.close()
    await owner.multi([SetData("/config/users", b"changed")])
    await owner.close()


async def test_a_wrong_password_is_told(sasl_server: ZooKeeperEnsemble) -> None:
    options = ZooKeeperOptions(servers=tuple(sasl_server.servers), session_timeout_ms=TIMEOUT_MS)
    with pytest.raises(TreeUnavailableError, match="refused the credentials") as error:
        await opened(replace(options, sasl=replace(OTTLA, password="wrong")))
    assert "wrong" not in str(error.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, the server's key with its certificate in one PEM file, and a client's."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    for name in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1")
        openssl(
            *(
                "x509",
                "-req",
                "-in",
                f"{name}.csr",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "2",
            ),
            *("-out", f"{name}.crt", "-extfile", f"{name}.ext"),
        )
        (folder / f"{name}.pem").write_text((folder / f"{name}.key").read_text() + (folder / f"{name}.crt").read_text())
    return folder


async def test_tls(certificates: Path) -> None:
    zookeeper_anchor.require()
    port = free_port()
    ensemble = ZooKeeperEnsemble(
        configuration=[
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
            f"secureClientPort={port}",
            "ssl.clientAuth=need",
            f"ssl.keyStore.location={certificates / 'server.pem'}",
            "ssl.keyStore.type=PEM",
            f"ssl.trustStore.location={certificates / 'ca.pem'}",
            "ssl.trustStore.type=PEM",
        ],
    )
    try:
        ensemble.start()
        tls = TlsOptions(keystore=str(certificates / "client.pem"), truststore=str(certificates / "ca.pem"))
        options = ZooKeeperOptions(
            servers=(f"127.0.0.1:{port}",),
            chroot="/tls",
            session_timeout_ms=TIMEOUT_MS,
            connection_timeout_ms=8_000,
            tls=tls,
        )
        tree = await opened(options)
        await tree.multi([Create("/a", b"x" * 500_000)])
        assert (await tree.get("/a")).data == b"x" * 500_000
        await tree.close()
        # A server that this client does not trust is not spoken to.
        with pytest.raises(TreeUnavailableError, match="could be reached"):
            await opened(replace(options, tls=replace(tls, truststore=None), connection_timeout_ms=1_500))
        with pytest.raises(TreeUnavailableError, match="TLS to ZooKeeper is not possible"):
            await opened(replace(options, tls=replace(tls, keystore=str(certificates / "ca.pem"))))
    finally:
        ensemble.stop()
