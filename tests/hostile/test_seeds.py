"""The fuzzer's own tools: its requests are valid, its layout is that of the codec."""

from __future__ import annotations

import random as dice

import pytest
from tests.hostile.layout import Kind, Layout
from tests.hostile.seeds import Seeds

from ottla.protocol.api import APIS, ApiKey
from ottla.protocol.codec import decode, encode

SEEDS = Seeds({"fuzz-0": bytes(range(16))})


@pytest.mark.parametrize("key", sorted({key for key, _ in SEEDS.versions()}), ids=lambda key: ApiKey(key).name)
def test_layout_is_what_the_codec_writes(key: ApiKey) -> None:
    random = dice.Random(key)
    for api_key, version in SEEDS.versions():
        if api_key is key:
            for _ in range(20):
                message = SEEDS.request_of(key, version, random)
                layout = Layout(message, version)
                assert layout.data == encode(message, version)
                decoded, end = decode(APIS[key].request_class(), version, bytes(layout.data))
                assert end == len(layout.data)
                assert encode(decoded, version) == layout.data


def test_spans_cover_every_byte_once_and_elements_lie_behind_their_count() -> None:
    random = dice.Random(1)
    for key, version in SEEDS.versions():
        layout = Layout(SEEDS.request_of(key, version, random), version)
        position = 0
        for span in layout.spans:
            if span.kind is Kind.ELEMENT:
                assert layout.spans[span.owner].kind is Kind.COUNT
                assert layout.spans[span.owner].end <= span.start
            else:
                assert span.start == position
                position = span.end
        assert position == len(layout.data)
