"""What a store has refused, in one sentence: its own report goes on for a page, with the request in it."""

from __future__ import annotations

import html
import re

#: What S3 and servers like it say of keys that they do not know, or that do not sign what was sent.
_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "XAdminUserNotFound"})
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,500})</Message>")


def refusal(store: str, error: BaseException) -> str:
    """Return the sentence.

    Args:
        store: its address, without secrets.
    """
    text = str(error).strip()
    code = _CODE.search(text)
    if code is None:
        return f"The store {store}: {text.partition(chr(10))[0]}"
    if code[1] == "NoSuchBucket":
        return f"The store {store} has no such bucket"
    if code[1] in _KEYS:
        return f"The store {store} refuses the keys ({code[1]}): they stand below store.option. or in the environment"
    message = _MESSAGE.search(text)
    said = " ".join(html.unescape(message[1]).split()) if message else "it refuses the request"
    return f"The store {store}: {said} ({code[1]})"
