"""What a command printed, told apart from what other programs of this process print to the same descriptor."""

from __future__ import annotations

import re

_LIBRDKAFKA = re.compile(r"^%[0-7]\|[0-9.]+\|.*\n?", re.MULTILINE)


def without_librdkafka(text: str) -> str:
    """Leave out the log lines of librdkafka: a producer of an earlier test may still look for its broker."""
    return _LIBRDKAFKA.sub("", text)
