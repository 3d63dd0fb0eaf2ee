"""The extra `security`: libraries that only some need. They are imported when something asks for them, never before."""

from __future__ import annotations


class MissingExtraError(ImportError):
    """A library of the extra `security` is not installed. The text says what needs it and how to get it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs more packages: pip install 'ottla[security]'")


def require(what: str) -> None:
    """Make sure that `cryptography` and `jwt` can be imported.

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
