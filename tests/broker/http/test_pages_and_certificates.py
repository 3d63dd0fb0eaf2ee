"""Pages of a listener with client certificates: for those whom Kafka's clients could log in as, and nobody else."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from tests.support.broker_process import BrokerProcess

from ottla.security.authority import make_authority, make_certificate


def test_a_certificate_that_no_rule_is_about_shows_no_pages(tmp_path: Path) -> None:
    """There is no authorizer: it is the login alone that keeps this client out."""
    now = datetime.now(UTC)
    authority = make_authority("tests", now=now, days=2)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    for name in ("localhost", "app-7", "stranger"):
        pair = make_certificate(authority, [name, "127.0.0.1"], now=now, days=2)
        (tmp_path / f"{name}.pem").write_bytes(pair.key + pair.certificate)
        (tmp_path / f"{name}.pem").chmod(0o600)
    settings = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(tmp_path / "localhost.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(tmp_path / "ca.pem"),
        "ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^CN=(app-[0-9]+)$/$1/",
    }
    properties = tmp_path / "server.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    protocols = {"listener.security.protocol.map": "TLS:SSL", "inter.broker.listener.name": "TLS"}
    process = BrokerProcess({**protocols, "listeners": "TLS://127.0.0.1:0"}, options=(str(properties),))

    def status(who: str, path: str) -> int:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        context.load_cert_chain(tmp_path / f"{who}.pem")
        try:
            with urllib.request.urlopen(
                f"https://127.0.0.1:{process.port}{path}", context=context, timeout=30
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    with process:
        asked = [(who, path) for who in ("app-7", "stranger") for path in ("/", "/metrics", "/healthz")]
        assert [status(*each) for each in asked] == [200, 200, 200, 403, 403, 200]
