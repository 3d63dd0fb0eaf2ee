"""Extras, libraries that only some need: they are imported when something asks for them, never before."""

from __future__ import annotations


class MissingExtraError(ImportError):
    """A library of an extra is not installed. The text says what needs it and how to get it."""

    def __init__(self, what: str, *, extra: str = "security", hint: str = "") -> None:
        super().__init__(f"{what} needs more packages: pip install 'ottla[{extra}]'{hint}")


def require(what: str) -> None:
    """Make sure that `cryptography` and `jwt` (the extra `security`) can be imported.

    Args:
        what: begins the sentence of the error.

    Raises:
        MissingExtraError: they cannot.
    """
    try:
        import cryptography
        import jwt
    except ImportError:
        raise MissingExtraError(what) from None
    del cryptography, jwt
