"""PKCS#12 key and trust stores (Java's `keytool`, `openssl pkcs12`) as PEM text, by `cryptography`. Bytes in, text out."""

from __future__ import annotations

from ottla.security.extra import require


class Pkcs12Error(ValueError):
    """A store cannot be used; the text says why and has nothing of what is in it."""


def key_store_to_pem(data: bytes, password: str) -> tuple[str, str]:
    """Return the private key, unencrypted, and its certificate with those above it, as PEM. The key is a secret.

    Raises:
        Pkcs12Error: the password is wrong, or there is no key with a certificate.
        MissingExtraError: `cryptography` is not installed.
    """
    require("A PKCS#12 store")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    try:
        key, certificate, others = pkcs12.load_key_and_certificates(data, password.encode() or None)
    except (ValueError, TypeError) as error:
        raise Pkcs12Error(_why(error)) from None
    if key is None or certificate is None:
        raise Pkcs12Error("it has no private key with a certificate")
    key_text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    chain = "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in (certificate, *others))
    return key_text, chain


def trust_store_to_pem(data: bytes, password: str) -> str:
    """Return the certificates of a trust store as PEM.

    Raises:
        Pkcs12Error: the password is wrong, or there are no certificates.
        MissingExtraError: `cryptography` is not installed.
    """
    require("A PKCS#12 store")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    try:
        store = pkcs12.load_pkcs12(data, password.encode() or None)
    except (ValueError, TypeError) as error:
        raise Pkcs12Error(_why(error)) from None
    found = [store.cert] if store.cert is not None and store.key is None else []
    certificates = [each.certificate for each in (*found, *store.additional_certs)]
    if not certificates:
        raise Pkcs12Error("it has no certificates")
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in certificates)


def _why(error: Exception) -> str:
    if "password" in str(error).lower():
        return "the password is wrong or missing"
    return "it is damaged, or encrypted in a way that is not known"
