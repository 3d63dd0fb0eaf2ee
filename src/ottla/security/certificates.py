"""The name in a certificate, as Java writes it (RFC 2253): it is a principal, and ACLs are compared with it.

Read from the certificate's DER by hand: OpenSSL writes names in another way, and what is one name in two spellings is two
principals. Where Java differs from the RFC we do as Java does (`=` is escaped everywhere). Source: RFC 2253, RFC 5280, and
the spellings that Java's X500Principal gave (`tests/security/test_certificates.py`).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple

#: Longer names are refused: rules would be run over them.
NAME_BYTES_MAX = 4096

_KEYWORDS = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.9": "STREET",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
}
#: UTF8String, PrintableString, TeletexString, IA5String, GeneralString, UniversalString, BMPString: those Java takes as text.
_TEXTS = {
    0x0C: "utf-8",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1B: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
#: Kinds of alternative names.
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")
_ESCAPED = ',=+<>#;"\\'


class CertificateError(ValueError):
    """The certificate cannot be read, or has a name that is none."""


class _Element(NamedTuple):
    tag: int
    content: memoryview
    whole: memoryview


def subject_of(certificate: bytes) -> str:
    """Return the subject of a certificate (DER) in RFC 2253, the last part of its name first.

    Raises:
        CertificateError: it is no certificate, or its name is too long.
    """
    (outer,) = _elements(memoryview(certificate))
    to_be_signed = list(_elements(next(iter(_elements(outer.content))).content))
    if to_be_signed and to_be_signed[0].tag == 0xA0:  # the version
        del to_be_signed[0]
    if len(to_be_signed) < 6:
        raise CertificateError("a certificate with too few fields")
    return name_to_text(bytes(to_be_signed[4].whole))


def alternative_names_of(certificate: bytes) -> frozenset[bytes]:
    """Return the alternative names of a certificate, each as it is encoded; empty if it has none.

    Raises:
        CertificateError: it is no certificate.
    """
    (outer,) = _elements(memoryview(certificate))
    for field in _elements(next(iter(_elements(outer.content))).content):
        if field.tag != 0xA3:  # the extensions
            continue
        for extension in _elements(_elements(field.content)[0].content):
            parts = _elements(extension.content)
            if _object_id(parts[0].content) == "2.5.29.17":
                (names,) = _elements(parts[-1].content)
                return frozenset(bytes(name.whole) for name in _elements(names.content))
    return frozenset()


def covers(certificate: bytes, host: str) -> bool:
    """Return whether a certificate (DER) is for a host: a name, or an address as text.

    Only alternative names count, as for clients; `*` stands for the first part of a name (RFC 6125, RFC 9525).

    Raises:
        CertificateError: it is no certificate.
    """
    names = [_elements(memoryview(name))[0] for name in alternative_names_of(certificate)]
    try:
        address = ip_address(host).packed
    except ValueError:
        wanted = host.lower().removesuffix(".")
        for name in names:
            if name.tag == _DNS_NAME:
                known = bytes(name.content).decode("ascii", "replace").lower()
                if known == wanted or (known.startswith("*.") and known[1:] == wanted[wanted.find(".") :]):
                    return bool(_HOST.fullmatch(wanted))
        return False
    return any(name.tag == _IP_ADDRESS and bytes(name.content) == address for name in names)


def name_to_text(name: bytes) -> str:
    """Return a Name (DER) in RFC 2253.

    Raises:
        CertificateError: it is none, or is too long.
    """
    if len(name) > NAME_BYTES_MAX:
        raise CertificateError(f"a name of {len(name)} bytes (at most {NAME_BYTES_MAX})")
    (sequence,) = _elements(memoryview(name))
    parts = []
    for relative in _elements(sequence.content):
        pairs = []
        for pair in _elements(relative.content):
            fields = list(_elements(pair.content))
            if len(fields) != 2 or fields[0].tag != 0x06:
                raise CertificateError("a name with a part that is no attribute and value")
            pairs.append(_attribute(_object_id(fields[0].content), fields[1]))
        parts.append("+".join(pairs))
    return ",".join(reversed(parts))


def _attribute(object_id: str, value: _Element) -> str:
    keyword = _KEYWORDS.get(object_id)
    if keyword is None or value.tag not in _TEXTS:
        return f"{keyword or object_id}=#{bytes(value.whole).hex()}"
    try:
        text = bytes(value.content).decode(_TEXTS[value.tag])
    except UnicodeDecodeError:
        raise CertificateError(f"a name whose {keyword} is not in the letters it says") from None
    return f"{keyword}={_escape(text)}"


def _escape(text: str) -> str:
    escaped = [f"\\{c}" if c in _ESCAPED else "\\00" if c == "\0" else c for c in text]
    first, last = 0, len(escaped) - 1
    while first <= last and escaped[first] in (" ", "\r"):
        first += 1
    while last >= first and escaped[last] in (" ", "\r"):
        last -= 1
    return "".join(c if first <= i <= last else f"\\{c}" for i, c in enumerate(escaped))


def _elements(data: memoryview) -> list[_Element]:
    """Cut DER into the elements that stand side by side in it."""
    found = []
    position = 0
    while position < len(data):
        start = position
        try:
            tag, size = data[position], data[position + 1]
            position += 2
            if tag & 0x1F == 0x1F:
                raise CertificateError("an element with a long tag")
            if size & 0x80:
                count = size & 0x7F
                if not 1 <= count <= 4:
                    raise CertificateError("an element of a length that is none")
                size = int.from_bytes(data[position : position + count], "big")
                position += count
        except IndexError:
            raise CertificateError("an element that ends too early") from None
        if position + size > len(data):
            raise CertificateError("an element that ends too early")
        found.append(_Element(tag, data[position : position + size], data[start : position + size]))
        position += size
    if not found:
        raise CertificateError("an element with nothing in it")
    return found


def _object_id(content: memoryview) -> str:
    numbers, number = [], 0
    for byte in content:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    if not numbers:
        raise CertificateError("an attribute without a kind")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))
