"""Kerberos by the system's library (the extra `gssapi`): security contexts for `security/sasl/gssapi.py`.

The library gets tickets itself, from a keytab or a ticket cache, and new ones when they have ended: nothing runs `kinit`. It
is imported when a listener or a client asks for it. Its calls read files and wait for key distribution centres: they are not
for an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ottla.security.extra import MissingExtraError
from ottla.security.sasl import SaslError, TokenFetchError

if TYPE_CHECKING:
    from types import ModuleType

    from ottla.security.sasl.gssapi import Context

#: Minor codes of MIT's library (krb5_err.et): a base and the number of RFC 4120's error.
_ERROR_BASE = -1765328384
#: No key distribution centre answers, or none is known, or its name is not found: later there may be one.
_UNREACHABLE = frozenset({_ERROR_BASE + 156, _ERROR_BASE + 230})


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Where one's own keys or tickets are.

    Attributes:
        principal: whose; "": for a client, whomever the tickets are for.
        keytab: a file of keys; "": the tickets of the cache.
        ticket_cache: a file of tickets; "": where KRB5CCNAME or the system says. Not used with a keytab.
    """

    principal: str = ""
    keytab: str = ""
    ticket_cache: str = ""


class KerberosSettingsError(ValueError):
    """Keys that cannot be used. The text says why."""


def keys_of(options: Mapping[str, str]) -> Keys:
    """Return what the options of a JAAS line with `Krb5LoginModule` say.

    Raises:
        KerberosSettingsError: they name neither keys nor tickets.
    """

    def is_on(name: str) -> bool:
        return options.get(name, "").strip().lower() in ("true", "yes", "on")

    if is_on("useKeyTab") and not options.get("keyTab"):
        raise KerberosSettingsError("useKeyTab=true needs keyTab, the path of the file")
    if is_on("useKeyTab"):
        if not options.get("principal"):
            raise KerberosSettingsError("useKeyTab=true needs principal: whose keys they are")
        return Keys(principal=options["principal"], keytab=options["keyTab"].removeprefix("FILE:"))
    if is_on("useTicketCache"):
        cache = options.get("ticketCache", "").removeprefix("FILE:")
        return Keys(principal=options.get("principal", ""), ticket_cache=cache)
    raise KerberosSettingsError("it needs useKeyTab=true with keyTab and principal, or useTicketCache=true")


def accepting(keys: Keys) -> Callable[[], Context]:
    """Return what makes the server's side of contexts, with the keys of one principal.

    Raises:
        MissingExtraError: the library is not there.
        KerberosSettingsError: the keytab cannot be read, or has no key of the principal.
    """
    gssapi = _library("GSSAPI")
    try:
        credentials = gssapi.Credentials(
            name=gssapi.Name(keys.principal, gssapi.NameType.kerberos_principal),
            mechs=[gssapi.MechType.kerberos],
            usage="accept",
            # What was said once is not taken again, by whichever process of this machine (Java keeps such a cache, too).
            store={"keytab": f"FILE:{keys.keytab}", "rcache": "dfl:"},
        )
    except gssapi.exceptions.GSSError as error:
        raise KerberosSettingsError(f"the keys of {keys.principal} in {keys.keytab}: {_why(error)}") from None
    return lambda: _LibraryContext(gssapi, {"creds": credentials, "usage": "accept"}, "")


def initiating(keys: Keys, service: str, host: str) -> Callable[[], Context]:
    """Return what makes the client's side of contexts with a service (`kafka`) on a host; a SaslError says what fails."""

    def make() -> Context:
        try:
            gssapi = _library("GSSAPI")
        except MissingExtraError as error:
            raise SaslError(str(error)) from None
        source = keys.keytab or keys.ticket_cache
        whose = f" as {keys.principal}" if keys.principal else ""
        what = f"no Kerberos ticket for {service}/{host}{whose}{f' from {source}' if source else ''}"
        store: dict[str, str] = {}
        if keys.keytab:
            # The library would say that there are no tickets, and not why.
            try:
                open(keys.keytab, "rb").close()
            except OSError as error:
                raise SaslError(f"{what}: {error.strerror}") from None
            # Tickets of a keytab are kept by this process alone, for all its connections.
            store = {"client_keytab": f"FILE:{keys.keytab}", "ccache": f"MEMORY:ottla-{keys.principal}"}
        elif keys.ticket_cache:
            store = {"ccache": f"FILE:{keys.ticket_cache}"}
        own = gssapi.Name(keys.principal, gssapi.NameType.kerberos_principal) if keys.principal else None
        try:
            credentials = gssapi.Credentials(
                name=own, mechs=[gssapi.MechType.kerberos], usage="initiate", store=store or None
            )
        except gssapi.exceptions.GSSError as error:
            raise _client_error(error, what) from None
        return _LibraryContext(
            gssapi,
            {
                "name": gssapi.Name(f"{service}@{host}", gssapi.NameType.hostbased_service),
                "creds": credentials,
                "mech": gssapi.MechType.kerberos,
                "flags": gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity,
                "usage": "initiate",
            },
            what,
        )

    return make


def check_library() -> None:
    """Make sure that the library can be used.

    Raises:
        MissingExtraError: it is not there.
    """
    _library("GSSAPI")


def default_realm() -> str:
    """Return the realm of names without one (`default_realm` of krb5.conf); "": there is none."""
    gssapi = _library("GSSAPI")
    try:
        found = str(gssapi.Name("x", gssapi.NameType.user).canonicalize(gssapi.MechType.kerberos))
    except gssapi.exceptions.GSSError:
        return ""
    return found.partition("@")[2]


class _LibraryContext:
    """`sasl.gssapi.Context` by the library. `what` begins the sentence of a client's error; "": this is the server."""

    def __init__(self, gssapi: ModuleType, arguments: dict[str, Any], what: str) -> None:
        self._gssapi = gssapi
        self._what = what
        # Where Kerberos has an error for the other side the library would return it as a token, and raise at the next call.
        # SASL has no place for it: the step itself has failed.
        self._context = gssapi.SecurityContext(**arguments)
        self._context.__DEFER_STEP_ERRORS__ = False

    @property
    def is_complete(self) -> bool:
        return bool(self._context.complete)

    @property
    def peer(self) -> str:
        return str(self._context.target_name if self._what else self._context.initiator_name)

    def step(self, token: bytes) -> bytes:
        try:
            return self._context.step(token or None) or b""
        except self._gssapi.exceptions.GSSError as error:
            if self._what:
                raise _client_error(error, self._what) from None
            raise SaslError(f"a ticket that is not taken: {_why(error)}") from None

    def wrap(self, message: bytes) -> bytes:
        return bytes(self._context.wrap(message, False).message)

    def unwrap(self, token: bytes) -> bytes:
        try:
            return bytes(self._context.unwrap(token).message)
        except self._gssapi.exceptions.GSSError as error:
            raise SaslError(f"a message without the other side's signature: {_why(error)}") from None


def _library(what: str) -> ModuleType:
    try:
        import gssapi
    except ImportError:
        raise MissingExtraError(what, extra="gssapi", hint=" (it is compiled: Debian's libkrb5-dev)") from None
    found: ModuleType = gssapi
    return found


def _client_error(error: Any, what: str) -> SaslError:
    """Return the error of a client; one that may pass is a TokenFetchError."""
    number = _signed(error.min_code)
    return (TokenFetchError if number in _UNREACHABLE else SaslError)(f"{what}: {_why(error)}")


def _signed(code: int) -> int:
    return code - (1 << 32) if code >= 1 << 31 else code


def _why(error: Any) -> str:
    """Return Kerberos' own sentence: GSSAPI's says only that something has failed."""
    minor = "; ".join(text for text in _texts(error, error.min_code, is_major=False) if text)
    return minor or "; ".join(_texts(error, error.maj_code, is_major=True))


def _texts(error: Any, code: int, *, is_major: bool) -> list[str]:
    return [str(text) for text in error.get_all_statuses(code, is_major)]
