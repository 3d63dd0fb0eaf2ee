"""Refusal: why something was not done. An expected outcome, returned rather than raised."""

from __future__ import annotations

from typing import NamedTuple

from ottla.errors import ErrorCode


class Refusal(NamedTuple):
    """A code of the protocol and a sentence for people; None where Kafka gives none."""

    error: ErrorCode
    message: str | None = None
