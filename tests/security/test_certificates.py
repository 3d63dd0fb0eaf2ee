"""Names in certificates, as Java writes them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from tests.network.certificates import server_context

from ottla.security.certificates import CertificateError, alternative_names_of, name_to_text, subject_of
from ottla.security.principals import java_address

#: DER and `new X500Principal(name).getName()` (OpenJDK 17).
JAVA = [
    (
        "304b310b3009060355040613024445310e300c06035504070c05236c656164310e300c060355040a1305782b793d7a310c300a060355040b1303"
        "612c62310e300c060355040313056b61666b61",
        r"CN=kafka,OU=a\,b,O=x\+y\=z,L=\#lead,C=DE",
    ),
    (
        "303d31133011060a0992268993f22c6401191603636f6d31173015060a0992268993f22c64011916076578616d706c65310d300b060355040313"
        "0420737020",
        r"CN=\ sp\ ,DC=example,DC=com",
    ),
    (
        "3042310f300d060355040913064d61696e20313110300e0603550408130742617661726961311d3009060355040313026d323010060a09922689"
        "93f22c64010113027531",
        "UID=u1+CN=m2,ST=Bavaria,STREET=Main 1",
    ),
    (
        "30283110300e06035504030c075a6fc3ab20c3b13114301206092a864886f70d01090116056140622e63",
        "1.2.840.113549.1.9.1=#16056140622e63,CN=Zoë ñ",
    ),
    (
        "3025310b30090603550405130231323116301406035504030c0d613b623c633e6422655c662367",
        r"CN=a\;b\<c\>d\"e\\f\#g,2.5.4.5=#13023132",
    ),
    ("300b3109300706035504031300", "CN="),
]


@pytest.mark.parametrize(("der", "text"), JAVA)
def test_names_are_spelt_as_java_spells_them(der: str, text: str) -> None:
    name = bytes.fromhex(der)
    if text.startswith("UID"):  # Java sorts the parts of a set when it encodes, not when it writes
        assert sorted(name_to_text(name).replace("+", ",").split(",")) == sorted(text.replace("+", ",").split(","))
    else:
        assert name_to_text(name) == text


def test_the_subject_of_a_certificate(tmp_path: Path) -> None:
    _, certificate = server_context(tmp_path)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    assert subject_of(der) == "CN=localhost"
    assert alternative_names_of(der) == {b"\x82\x09localhost", b"\x87\x04\x7f\x00\x00\x01"}
    for cut in range(0, len(der) - 1, 7):
        with pytest.raises(CertificateError):
            subject_of(der[:cut])


def test_a_name_that_is_too_long_is_none() -> None:
    with pytest.raises(CertificateError, match="4097 bytes"):
        name_to_text(b"0" * 4097)


@pytest.mark.parametrize(
    ("host", "java"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("2001:db8::ff00:42:8329", "2001:db8:0:0:0:ff00:42:8329"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("fe80::1%eth0", "fe80:0:0:0:0:0:0:1%eth0"),
        ("kafka", "kafka"),
    ],
)
def test_addresses_are_spelt_as_java_spells_them(host: str, java: str) -> None:
    assert java_address(host) == java
