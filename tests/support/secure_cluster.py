"""What the processes of a secure cluster are started with: an authority, one certificate for all, users, settings files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ottla.security.authority import make_authority, make_certificate
from ottla.security.sasl.scram import credential_from_salted, credential_to_text, salted_password

MECHANISM = "SCRAM-SHA-512"


def password_of(user: str) -> str:
    """Return the password of a user of such a cluster."""
    return f"password-of-{user}"


class Security:
    """Certificates and users in a directory.

    Args:
        users: those that brokers put into the coordination tree when they start.
    """

    def __init__(self, directory: Path, users: tuple[str, ...] = ()) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        authority = make_authority("tests", now=now, days=2)
        made = make_certificate(authority, ["localhost", "127.0.0.1"], now=now, days=1)
        self.authority = directory / "ca.pem"
        self.authority.write_bytes(authority.certificate)
        self._store = directory / "broker.pem"
        self._store.touch(mode=0o600)
        self._store.write_bytes(made.key + made.certificate)
        self._users = users

    def tls(self) -> dict[str, str]:
        """Return the settings of a broker's TLS."""
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority),
        }

    def scram(self, listener: str, *, among_brokers: bool) -> dict[str, str]:
        """Return the settings of logins on a listener, and of the user `broker` by whom brokers log in to each other."""
        found = {"sasl.enabled.mechanisms": MECHANISM}
        if self._users:
            found["ottla.scram.users"] = ";".join(f"{user}:{MECHANISM}:{_credential(user)}" for user in self._users)
        if among_brokers:
            module = "org.apache.kafka.common.security.scram.ScramLoginModule required"
            prefix = f"listener.name.{listener.lower()}.{MECHANISM.lower()}"
            found |= {
                "sasl.mechanism.inter.broker.protocol": MECHANISM,
                f"{prefix}.sasl.jaas.config": f'{module} username="broker" password="{password_of("broker")}";',
            }
        return found

    def write(self, name: str, settings: Mapping[str, str]) -> Path:
        """Write a settings file; it has passwords, so it is for its owner only."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return path

    def client(self, bootstrap: str, user: str) -> dict[str, str | int | float | bool]:
        """Return what a client of librdkafka logs in with."""
        return {
            "bootstrap.servers": bootstrap,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": MECHANISM,
            "sasl.username": user,
            "sasl.password": password_of(user),
            "ssl.ca.location": str(self.authority),
            "log_level": 0,
        }


def _credential(user: str) -> str:
    salt = f"salt of {user}..........".encode()
    return credential_to_text(
        credential_from_salted(MECHANISM, salted_password(MECHANISM, password_of(user), salt, 4096), salt, 4096)
    )
