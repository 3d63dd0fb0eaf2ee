"""Who stands at the door of each listener: what a connection's client has to show before it is served.

Makes the sessions of connections: anonymous ones on PLAINTEXT, those of a certificate on SSL, and on SASL listeners a guard
that lets nothing through but a login. Keeps the contexts of TLS and looks now and then whether their files have changed.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ottla.broker.context import Session
from ottla.broker.settings.listeners import is_loopback
from ottla.cluster.decisions.configs import Alteration, Operation
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.image import OWN, USERS, ConfigResource
from ottla.cluster.nodes import sanitize
from ottla.cluster.tree import TreeError
from ottla.config import BROKER, ConfigError, listener_of_store
from ottla.errors import ErrorCode, KafkaError, RemoteProtocolError
from ottla.observability.logs import shown
from ottla.security.sasl import GSSAPI, OAUTHBEARER, PLAIN, SCRAM_HASHES
from ottla.security.tls_settings import TlsSettingsError

if TYPE_CHECKING:
    import ssl

    from ottla.broker.audit import Audit
    from ottla.broker.config import BrokerConfig
    from ottla.broker.http.page_login import PageLogins
    from ottla.broker.login import LoginRules
    from ottla.broker.settings.encryption import ListenerTls
    from ottla.broker.settings.logins import ListenerLogins
    from ottla.broker.token_keys import TokenKeys
    from ottla.broker.token_store import TokenStore
    from ottla.broker.wiring.parts import Parts
    from ottla.network.connection import BrokerConnection
    from ottla.security.sasl import ServerExchange
    from ottla.security.sasl.scram import ScramServer
    from ottla.security.tls import ReloadableContext

logger = logging.getLogger(__name__)

#: How often files with certificates are looked at.
CERTIFICATE_SECONDS = 10.0
#: Where the cluster's secrets are kept: /config/ottla/secrets.
SECRETS = ConfigResource(OWN, "secrets")
_SCRAM_SECRET = "scram.salt"
#: Begins the keys of users that were made.
_MADE = "made."


def has_scram(config: BrokerConfig) -> bool:
    """Return whether clients can log in by SCRAM on some listener."""
    return any(name in SCRAM_HASHES for logins in config.logins.values() for name in logins.mechanisms)


def make_contexts(config: BrokerConfig) -> dict[str, ReloadableContext]:
    """Return the context of each listener with TLS, by its name.

    Raises:
        ConfigError: a store cannot be used.
    """
    contexts: dict[str, ReloadableContext] = {}
    for name, tls in config.tls.items():
        from ottla.security.tls import ReloadableContext, is_readable_by_others

        try:
            contexts[name] = ReloadableContext(
                tls.settings,
                check=partial(_check_same_names, tls),
                on_failure=partial(logger.error, "The new certificate of listener %s is not taken: %s", name),
            )
        except TlsSettingsError as error:
            raise ConfigError(f"listener {name}: {error}") from None
        path = tls.settings.keystore_location
        if path is not None and is_readable_by_others(path):
            logger.warning("%s holds the key of listener %s, and other users may read it: chmod 600 it", path, name)
    return contexts


def _check_same_names(tls: ListenerTls, old: bytes, new: bytes) -> None:
    """Refuse a certificate with other names than the one before, as Kafka does."""
    from ottla.security.certificates import alternative_names_of, subject_of

    if not tls.allow_dn_changes and subject_of(old) != subject_of(new):
        raise TlsSettingsError(
            f"its name is {subject_of(new)}, not {subject_of(old)} (ssl.allow.dn.changes=true would take it)"
        )
    if not tls.allow_san_changes and not alternative_names_of(new) >= alternative_names_of(old):
        raise TlsSettingsError("it lacks alternative names of the old one (ssl.allow.san.changes=true would take it)")


def _kerberos(listener: str, logins: ListenerLogins) -> Callable[[], ServerExchange]:
    """Return what makes the server's role of GSSAPI on a listener.

    Raises:
        ConfigError: the library is not installed, or the keytab cannot be used.
    """
    from ottla.security.extra import MissingExtraError
    from ottla.security.kerberos import KerberosSettingsError, accepting, default_realm
    from ottla.security.kerberos_names import KerberosNames
    from ottla.security.sasl.gssapi import GssapiServer

    settings = logins.kerberos
    assert settings is not None
    try:
        context = accepting(settings.keys)
        names = KerberosNames(settings.rules, default_realm())
    except (KerberosSettingsError, MissingExtraError) as error:
        raise ConfigError(f"listener {listener}: {error}") from None
    return partial(GssapiServer, context, names.user_of)


def _refused(why: str) -> Refusal:
    return Refusal(ErrorCode.INVALID_REQUEST, why)


class Entrance:
    """Makes the sessions of connections."""

    def __init__(self, parts: Parts, audit: Audit) -> None:
        self._parts = parts
        self._audit = audit
        config = parts.config()
        self._protocols = {listener.name: listener.security_protocol for listener in config.listeners}
        self.contexts = make_contexts(config)
        self._token_keys = self._make_token_keys()
        self._rules = {name: self._rules_of(name, logins) for name, logins in config.logins.items()}
        key = config.delegation_token_secret_key
        #: Delegation tokens; None where there is no key for them.
        self.tokens = self._make_token_store(key) if key else None
        self._told_of_names: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._has_news = asyncio.Event()
        self._token_task: asyncio.Task[None] | None = None
        for listener in config.listeners:
            enabled = config.logins[listener.name].mechanisms if listener.name in config.logins else ()
            if listener.security_protocol != "SASL_PLAINTEXT" or is_loopback(listener.host):
                continue
            for mechanism, what in ((PLAIN, "passwords"), (OAUTHBEARER, "tokens")):
                if mechanism in enabled:
                    logger.warning(
                        "listener %s takes %s by %s without TLS: whoever is on the way can read them",
                        listener.name,
                        what,
                        mechanism,
                    )

    def begin_session(self, connection: BrokerConnection) -> Session:
        """Return the session of a connection, at its first request.

        Raises:
            RemoteProtocolError: its certificate is no login.
        """
        protocol = self._protocols[connection.listener]
        session = Session(
            listener=connection.listener,
            client_host=connection.peer_host,
            client_port=connection.peer_port,
            local_host=connection.local_host,
            local_port=connection.local_port,
            security_protocol=protocol,
        )
        if protocol.startswith("SASL_"):
            from ottla.broker.login import LoginGuard

            loop = asyncio.get_running_loop()
            rules = self._rules[connection.listener]
            session.guard = LoginGuard(
                connection,
                lambda: rules,
                loop_time=loop.time,
                wall_ms=self._parts.surroundings.clock.wall_ms,
                audit=self._audit,
            )
        elif protocol == "SSL":
            certificate = connection.peer_certificate
            if certificate is not None:
                session.principal = self._principal_of(session, certificate)
                self._audit.logged_in(session, "TLS")
        context = self.contexts.get(connection.listener)
        if context is not None and self._parts.config().advertised_listeners is None:
            session.local_name = self._name_of(connection, context.certificate)
        connection.session = session
        connection.on_closed = session.end
        return session

    def _name_of(self, connection: BrokerConnection, certificate: bytes) -> str | None:
        """Return the name by which a client of TLS finds this broker: the one it asked for, if the certificate is for it.

        Else it gets the address it used; where the certificate is not for that either, the log says so once.
        """
        from ottla.security.certificates import CertificateError, covers

        try:
            asked = connection.server_name
            if asked is not None and covers(certificate, asked):
                return asked.lower().removesuffix(".")
            if connection.listener not in self._told_of_names:
                here = {connection.local_host} | ({"localhost"} if is_loopback(connection.local_host) else set())
                if not any(covers(certificate, host) for host in here):
                    self._told_of_names.add(connection.listener)
                    logger.warning(
                        "a client of listener %s %s, and the certificate is not for the address that it used, %s: it will "
                        "get this address and may refuse it; --advertise NAME:PORT (advertised.listeners) names another",
                        connection.listener,
                        "asked for no name" if asked is None else f"asked for {shown(asked)}, for which it is not",
                        connection.local_host,
                    )
        except CertificateError:
            pass
        return None

    def _principal_of(self, session: Session, certificate: bytes) -> str:
        from ottla.security.certificates import CertificateError, subject_of

        try:
            name = subject_of(certificate)
        except CertificateError as error:
            self._audit.refused(session, "TLS", "", f"its certificate cannot be read: {error}")
            raise RemoteProtocolError(f"its certificate cannot be read: {error}") from None
        user = self._parts.config().tls[session.listener].mapping.user_of(name)
        if user is None:
            self._audit.refused(session, "TLS", name, "no rule of ssl.principal.mapping.rules is about its certificate")
            raise RemoteProtocolError(f"no rule of ssl.principal.mapping.rules is about its certificate, {shown(name)}")
        return f"User:{user}"

    # -- logins

    def _make_token_store(self, key: str) -> TokenStore:
        from ottla.broker.token_store import TokenStore

        return TokenStore(self._parts.image, key, self._parts.surroundings.clock.wall_ms)

    def _make_token_keys(self) -> dict[str, TokenKeys]:
        """Return what checks the tokens of each listener with OAUTHBEARER, by its name.

        Raises:
            ConfigError: the extra is not installed.
        """
        found: dict[str, TokenKeys] = {}
        for name, logins in self._parts.config().logins.items():
            if logins.oauth is None:
                continue
            from ottla.broker.token_keys import Environment, TokenKeys
            from ottla.network.fetching import fetch
            from ottla.security.extra import MissingExtraError, require

            try:
                require(OAUTHBEARER)
            except MissingExtraError as error:
                raise ConfigError(f"listener {name}: {error}") from None
            if logins.oauth.url is not None and logins.oauth.url.startswith("http:"):
                logger.warning(
                    "listener %s takes keys for tokens over http: whoever is on the way can change them", name
                )
            around = self._parts.surroundings
            found[name] = TokenKeys(
                name,
                logins.oauth,
                Environment(
                    fetch=fetch,
                    off_loop=around.offload.run,
                    now=asyncio.get_running_loop().time,
                    wall_ms=around.clock.wall_ms,
                ),
            )
        return found

    def page_logins(self) -> dict[str, PageLogins]:
        """Return how HTTP clients of each listener with logins log in, by its name."""
        found: dict[str, PageLogins] = {}
        for listener in self._parts.config().listeners:
            logins = self._parts.config().logins.get(listener.name)
            if logins is None:
                continue
            from ottla.broker.http.page_login import PageLogins
            from ottla.security.sasl.plain import check_of

            keys = self._token_keys.get(listener.name)
            found[listener.name] = PageLogins(
                mechanisms=tuple(name for name in logins.mechanisms if name in SCRAM_HASHES),
                check_plain=check_of(logins.passwords) if PLAIN in logins.mechanisms else None,
                check_token=keys.check if keys is not None else None,
                is_private=listener.security_protocol == "SASL_SSL" or is_loopback(listener.host),
            )
        return found

    def _rules_of(self, listener: str, logins: ListenerLogins) -> LoginRules:
        from ottla.broker.login import LoginRules
        from ottla.security.sasl.oauthbearer import OAuthBearerServer
        from ottla.security.sasl.plain import PlainServer, check_of

        made: dict[str, Callable[[], ServerExchange]] = {}
        for name in logins.mechanisms:
            if name == PLAIN:
                made[name] = partial(PlainServer, check_of(logins.passwords))
            elif name == OAUTHBEARER:
                made[name] = partial(OAuthBearerServer, self._token_keys[listener].check)
            elif name == GSSAPI:
                made[name] = _kerberos(listener, logins)
            else:
                made[name] = partial(self._scram, name)
        return LoginRules(
            mechanisms=made,
            reauthenticate_ms=logins.reauthenticate_ms,
            failure_delay_ms=self._parts.config().connection_failed_authentication_delay_ms,
            token_bytes_max=logins.token_bytes_max,
            off_loop=self._parts.surroundings.offload.run,
        )

    def _scram(self, mechanism: str) -> ScramServer:
        from ottla.broker.handlers.logins import scram_credential
        from ottla.security.sasl.scram import ScramServer, new_nonce

        image, store = self._parts.image(), self.tokens
        secret = image.config(*SECRETS).get(_SCRAM_SECRET, "")
        return ScramServer(
            mechanism,
            lambda user: scram_credential(image, mechanism, user),
            nonce=new_nonce(self._parts.surroundings.secret_bytes),
            secret=secret.encode(),
            find_token=None if store is None else lambda token_id: store.login(mechanism, token_id),
        )

    # -- start and stop

    async def start(self) -> None:
        """Put the cluster's secrets into the tree if they are not there, and look after certificates from now on."""
        config = self._parts.config()
        if (has_scram(config) or config.ottla_scram_users) and _SCRAM_SECRET not in self._parts.image().config(
            *SECRETS
        ):
            secret = self._parts.surroundings.secret_bytes(32).hex()
            await self._parts.controller.alter_entity(SECRETS, [Alteration(_SCRAM_SECRET, Operation.SET, secret)])
        await self._make_first_users()
        for keys in self._token_keys.values():
            await keys.start()
        if self.tokens is not None:
            self._token_task = asyncio.get_running_loop().create_task(self._remove_expired(self.tokens), name="tokens")
        if self.contexts:
            self._task = asyncio.get_running_loop().create_task(self._look_after_certificates(), name="certificates")

    async def _make_first_users(self) -> None:
        """Make the users of `ottla.scram.users`, each text once: who changes or deletes one later has the last word.

        What was made is known by an HMAC of the text, beside the cluster's secrets: all its brokers may have the same file.
        """
        for user in self._parts.config().ottla_scram_users:
            known = self._parts.image().config(*SECRETS)
            text = f"{user.name}:{user.mechanism}:{user.credential}"
            done = _MADE + hmac.digest(known.get(_SCRAM_SECRET, "").encode(), text.encode(), "sha256").hex()[:32]
            if done in known:
                continue
            resource = ConfigResource(USERS, sanitize(user.name))
            await self._parts.controller.alter_entity(
                resource, [Alteration(user.mechanism, Operation.SET, user.credential)]
            )
            await self._parts.controller.alter_entity(SECRETS, [Alteration(done, Operation.SET, "true")])
            logger.info("user %s has been made, as ottla.scram.users says", shown(user.name))

    async def stop(self) -> None:
        """Look after certificates and keys no more."""
        for keys in self._token_keys.values():
            await keys.stop()
        for task in (self._task, self._token_task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _remove_expired(self, tokens: TokenStore) -> None:
        """Take expired tokens out of the tree now and then; that another broker does the same harms nothing."""
        while True:
            await asyncio.sleep(self._parts.config().delegation_token_expiry_check_interval_ms / 1000)
            try:
                count = await tokens.remove_expired(self._parts.controller)
            except (KafkaError, TreeError) as error:
                logger.warning("expired delegation tokens are not removed yet: %s", error)
                continue
            if count:
                logger.info("%d expired delegation tokens have been removed", count)

    async def try_out(self, config: BrokerConfig, own: Mapping[str, str]) -> Refusal | None:
        """Say whether the stores of `config` could be put in force; `own` are this broker's settings that it comes from."""
        before = self._parts.config().levels.broker
        for key, text in own.items():
            listener = listener_of_store(key)
            if listener is None or before.get(key) == text:
                continue
            if listener not in {name.lower() for name in self.contexts}:
                known = ", ".join(f"listener.name.{name.lower()}." for name in self.contexts) or "none"
                return _refused(f"{key}: this broker has no such listener with TLS; names begin with one of: {known}")
            zookeeper = config.zookeeper
            if (
                zookeeper is not None
                and not zookeeper.set_acl
                and BROKER[key.partition(listener + ".")[2]].is_sensitive
            ):
                return _refused(
                    f"{key} would stand in ZooKeeper, where everybody can read it: zookeeper.set.acl is false"
                )
        for name, context in self.contexts.items():
            settings = config.tls[name].settings
            if settings != self._parts.config().tls[name].settings:
                try:
                    await self._parts.surroundings.offload.run(context.try_out, settings)
                except TlsSettingsError as error:
                    return _refused(f"listener {name}: {error}")
        return None

    def on_config(self) -> None:
        """Look at stores at once: others may have been set."""
        self._has_news.set()

    async def _look_after_certificates(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_news.wait(), CERTIFICATE_SECONDS)
            self._has_news.clear()
            for name, context in self.contexts.items():
                settings = self._parts.config().tls[name].settings
                if await self._parts.surroundings.offload.run(context.look, settings):
                    logger.info("listener %s has a new certificate", name)

    def context_of(self, listener: str) -> Callable[[], ssl.SSLContext] | None:
        """Return what gives the context of a listener's new connections; None if it has no TLS."""
        return self.contexts.get(listener)
