"""What somebody may have meant by a broker's key that does not exist. Imported only when there is one."""

from __future__ import annotations

from ottla.config import BROKER, nearest
from ottla.config.client_keys import whose_setting
from ottla.config.effective import TOPIC_SYNONYMS


def what_is_meant(name: str) -> str:
    """Return the end of a sentence about this key: whose setting it is, or the broker's key that is meant; "" if unknown."""
    whose = whose_setting(name)
    if whose is not None:
        return f"; {whose}"
    guess = TOPIC_SYNONYMS.get(name) or nearest(name, BROKER)
    return f"; did you mean {guess}?" if guess else ""
