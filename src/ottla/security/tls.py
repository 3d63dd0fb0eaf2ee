"""TLS contexts from `ssl.*` settings: keys and certificates from files or from the settings themselves. A rim module.

Stores are PEM, the format that OpenSSL reads (KIP-651), or PKCS#12 (`pkcs12.py`); for JKS the error says how to convert it. A
key in the settings (`ssl.keystore.key`) or from a PKCS#12 store goes to OpenSSL through memory, never through a file on disk.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from ottla.security.extra import MissingExtraError
from ottla.security.pkcs12 import Pkcs12Error, key_store_to_pem, trust_store_to_pem
from ottla.security.tls_settings import ALPN_PROTOCOLS, TlsSettings, TlsSettingsError

T = TypeVar("T")

STORE_BYTES_MAX = 16 << 20
"""A store that a client has named while the broker runs is no larger: those of whole systems are below 1 MiB."""

#: Cipher suites of TLS 1.2 that OpenSSL still offers, by Java's names.
_SUITES = {
    f"TLS_{exchange.replace('-', '_')}_WITH_{cipher}": f"{exchange}-{name}"
    for exchange in ("ECDHE-ECDSA", "ECDHE-RSA", "DHE-RSA")
    for cipher, name in (
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    )
} | {
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384": "ECDHE-ECDSA-AES256-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384": "ECDHE-RSA-AES256-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256": "DHE-RSA-AES256-SHA256",
    "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256": "DHE-RSA-AES128-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
}
#: Those of TLS 1.3: all three are always on.
_SUITES_13 = frozenset({"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"})

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
CLIENT_AUTH = {"none": ssl.CERT_NONE, "requested": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the context of a listener.

    Raises:
        TlsSettingsError: the settings make none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_versions(context, settings)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    context.verify_mode = CLIENT_AUTH[settings.client_auth]
    if context.verify_mode is not ssl.CERT_NONE:
        # A ticket would let in a client whose certificate is no longer trusted.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    context.set_alpn_protocols(list(ALPN_PROTOCOLS))
    if not (settings.keystore_location or settings.keystore_key):
        raise TlsSettingsError(
            "TLS needs a key and a certificate: set ssl.keystore.type=PEM and ssl.keystore.location, or ssl.keystore.key and "
            "ssl.keystore.certificate.chain"
        )
    _load_key(context, settings)
    if _has_trust(settings):
        _load_trust(context, settings)
    elif context.verify_mode is not ssl.CERT_NONE:
        raise TlsSettingsError(
            f"ssl.client.auth={settings.client_auth} needs ssl.truststore.location or ssl.truststore.certificates: whose "
            "certificates are to be trusted?"
        )
    return context


def client_context(settings: TlsSettings, *, checks_host: bool = True) -> ssl.SSLContext:
    """Return the context of one who connects; without a trust store the system's authorities are trusted.

    Args:
        checks_host: whether the certificate has to be for the host that is dialled
            (`ssl.endpoint.identification.algorithm=https`).

    Raises:
        TlsSettingsError: the settings make none.
    """
    context = ssl.create_default_context() if not _has_trust(settings) else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = checks_host
    context.verify_mode = ssl.CERT_REQUIRED
    _set_versions(context, settings)
    if _has_trust(settings):
        _load_trust(context, settings)
    if settings.keystore_location or settings.keystore_key:
        _load_key(context, settings)
    return context


def _set_versions(context: ssl.SSLContext, settings: TlsSettings) -> None:
    unknown = [name for name in settings.enabled_protocols if name not in VERSIONS]
    if unknown or not settings.enabled_protocols:
        raise TlsSettingsError(
            f"ssl.enabled.protocols can name TLSv1.2 and TLSv1.3, but it is {', '.join(settings.enabled_protocols)}"
        )
    versions = [VERSIONS[name] for name in settings.enabled_protocols]
    context.minimum_version, context.maximum_version = min(versions), max(versions)
    if not settings.cipher_suites:
        return
    named = set(settings.cipher_suites)
    if named & _SUITES_13 and not named >= _SUITES_13:
        raise TlsSettingsError(
            "ssl.cipher.suites cannot choose among those of TLS 1.3 (Python offers no way): name all three of them or none, "
            "or set ssl.enabled.protocols=TLSv1.2"
        )
    unknown = sorted(named - _SUITES_13 - _SUITES.keys())
    if unknown:
        raise TlsSettingsError(f"ssl.cipher.suites names suites that are not known: {', '.join(unknown)}")
    chosen = [_SUITES[name] for name in settings.cipher_suites if name in _SUITES]
    if chosen:
        context.set_ciphers(":".join(chosen))
    elif ssl.TLSVersion.TLSv1_3 not in versions:
        raise TlsSettingsError(
            "ssl.cipher.suites names suites of TLS 1.3 only, and ssl.enabled.protocols leaves it out"
        )


def _load_key(context: ssl.SSLContext, settings: TlsSettings) -> None:
    password = settings.key_password or settings.keystore_password or ""
    if settings.keystore_key:
        chain = settings.keystore_certificate_chain
        if not chain:
            raise TlsSettingsError("ssl.keystore.key needs ssl.keystore.certificate.chain")
        with _in_memory(f"{settings.keystore_key}\n{chain}\n") as in_memory:
            _load_chain(context, in_memory, password, "ssl.keystore.key")
        return
    path = settings.keystore_location
    assert path is not None
    if _is_pkcs12(path, settings.keystore_type, "ssl.keystore"):
        key, chain = _converted(key_store_to_pem, path, settings.keystore_password or password)
        with _in_memory(f"{key}\n{chain}") as in_memory:
            _load_chain(context, in_memory, "", path)
        return
    _load_chain(context, path, password, path)


def _load_chain(context: ssl.SSLContext, path: str, password: str, shown: str) -> None:
    try:
        context.load_cert_chain(path, password=lambda: password)
    except ssl.SSLError as error:
        why = error.reason or str(error)
        if _is_locked(path) and "MISMATCH" not in why:
            why = "the password (ssl.key.password) is wrong or missing"
        elif "KEY_VALUES_MISMATCH" in why:
            why = "the key is not the certificate's"
        raise TlsSettingsError(f"{shown} has no key and certificate that fit: {why}") from None
    except (OSError, ValueError) as error:
        raise TlsSettingsError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _is_locked(path: str) -> bool:
    with open(path, "rb") as file:
        return b"ENCRYPTED" in file.read()


def _has_trust(settings: TlsSettings) -> bool:
    return bool(settings.truststore_location or settings.truststore_certificates)


def _load_trust(context: ssl.SSLContext, settings: TlsSettings) -> None:
    path = settings.truststore_location
    try:
        if settings.truststore_certificates:
            context.load_verify_locations(cadata=settings.truststore_certificates)
        else:
            assert path is not None
            if _is_pkcs12(path, settings.truststore_type, "ssl.truststore"):
                found = _converted(trust_store_to_pem, path, settings.truststore_password or "")
                context.load_verify_locations(cadata=found)
            else:
                context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise TlsSettingsError(f"{path or 'ssl.truststore.certificates'} has no certificates: {why}") from None


def _converted(convert: Callable[[bytes, str], T], path: str, password: str) -> T:
    """Return what `convert` makes of a PKCS#12 store."""
    try:
        with open(path, "rb") as file:
            return convert(file.read(), password)
    except (Pkcs12Error, MissingExtraError) as error:
        raise TlsSettingsError(f"{path}: {error}") from None


def _is_pkcs12(path: str, kind: str, key: str) -> bool:
    """Return whether a store is PKCS#12; else it is PEM.

    Java reads a PKCS#12 store also where its type is JKS, and so do we.

    Raises:
        TlsSettingsError: it is neither, or not what its type says.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(64)
    except OSError as error:
        raise TlsSettingsError(f"{key}.location={path} cannot be read: {error.strerror}") from None
    if begin[:4] == b"\xfe\xed\xfe\xed":
        raise TlsSettingsError(
            f"{path} is a JKS store, which only Java reads; convert it: keytool -importkeystore -srckeystore {path} "
            f"-destkeystore store.p12 -deststoretype PKCS12, and set {key}.location to store.p12 and {key}.type=PKCS12"
        )
    if begin[:1] == b"\x30":
        if kind.upper() == "PEM":
            raise TlsSettingsError(f"{path} is no PEM file; if it is a PKCS#12 store, set {key}.type=PKCS12")
        return True
    if kind.upper() != "PEM":
        raise TlsSettingsError(f"{key}.type={kind}, and {path} is no such store; set {key}.type=PEM if it is PEM")
    return False


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Lend text as a file that lies on no disk: OpenSSL takes keys from files only."""
    if not hasattr(os, "memfd_create"):
        raise TlsSettingsError(
            "ssl.keystore.key needs Linux; put the key into a file and name it in ssl.keystore.location"
        )
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def is_readable_by_others(path: str) -> bool:
    """Return whether other users of this machine may read a file."""
    try:
        return bool(os.stat(path).st_mode & 0o077)
    except OSError:
        return False


class ReloadableContext:
    """The context of one listener, made anew when its files or settings change (and only if the new one works).

    Args:
        check: raises TlsSettingsError if the new certificate may not take the old one's place.
    """

    def __init__(
        self,
        settings: TlsSettings,
        check: Callable[[bytes, bytes], None] = lambda old, new: None,
        on_failure: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._check = check
        self._on_failure = on_failure
        self._seen = (settings, _states(settings.files))
        self._certificate, self._context = _made(settings)

    @property
    def certificate(self) -> bytes:
        """The certificate that new connections are shown, DER."""
        return self._certificate

    def __call__(self) -> ssl.SSLContext:
        return self._context

    def try_out(self, settings: TlsSettings) -> tuple[bytes, ssl.SSLContext]:
        """Return the certificate and the context that settings make; nothing is in force by that.

        Raises:
            TlsSettingsError: they make none, or one whose certificate may not take the old one's place.
        """
        for path in settings.files:
            _check_is_store(path)
        made = _made(settings)
        self._check(self._certificate, made[0])
        return made

    def look(self, settings: TlsSettings | None = None) -> bool:
        """Look whether the files have changed, or the settings; return whether a new context is in force.

        New files are read into one context, key and certificate as a pair, tried in a handshake with themselves, and only
        then taken. Half-written ones, or a key that is not the certificate's, leave everything as it was.

        Args:
            settings: from now on; None: as before.
        """
        before, states_before = self._seen
        settings = settings or before
        states = _states(settings.files)
        if settings == before and (states == states_before or None in states):
            return False
        try:
            certificate, context = self.try_out(settings)
            why = ""
        except TlsSettingsError as error:
            why = str(error)
        if _states(settings.files) != states:
            return False  # still being written: look again later
        self._seen = (settings, states)
        if why:
            self._on_failure(why)
            return False
        self._certificate, self._context = certificate, context
        return True


def _check_is_store(path: str) -> None:
    """Refuse what might never end when it is read: a name that a client has sent may be that of a device or a pipe."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise TlsSettingsError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(state.st_mode) or state.st_size > STORE_BYTES_MAX:
        raise TlsSettingsError(f"{path} is no regular file of at most {STORE_BYTES_MAX >> 20} MiB")


def _states(paths: tuple[str, ...]) -> tuple[tuple[int, int, int] | None, ...]:
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(found)


def _made(settings: TlsSettings) -> tuple[bytes, ssl.SSLContext]:
    """Return a context and the certificate that it shows (DER), learnt in a handshake with itself."""
    context = server_context(settings)
    trial = server_context(replace(settings, client_auth="none"))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side, client_side = trial.wrap_bio(a, b, server_side=True), client.wrap_bio(b, a)
    for _ in range(8):
        done = 0
        for side in (client_side, server_side):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                raise TlsSettingsError(f"a handshake with the new certificate fails: {error.reason or error}") from None
        if done == 2:
            break
    certificate = client_side.getpeercert(binary_form=True)
    if certificate is None:
        raise TlsSettingsError("a handshake with the new certificate fails")
    return certificate, context
