"""Joins of two tables: by key, and by a foreign key.

A foreign-key join sends a subscription for each row of the left table to where its foreign key lies, and gets the right
row back from there, now and whenever that row changes. An answer counts only if the left row still is what it was (its
hash says so). Topics and stores have Java's formats.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from ottla.streams.context import SKIPPED, Headers, NodeContext, Process
from ottla.streams.murmur3 import hash128
from ottla.streams.operators.stream_joins import Joiner
from ottla.streams.operators.tables import Getter, Make, View, updating
from ottla.streams.records import Change
from ottla.streams.serdes import AnySerde
from ottla.streams.states import KeyValueState

Kind = Literal["inner", "left", "outer"]
_INT = struct.Struct(">i")


class JoinView(View):
    """The view of a join: its store, or computed from both tables."""

    def __init__(self, left: View, right: View, kind: Kind, joiner: Joiner, store: str | None) -> None:
        super().__init__(store)
        self._left = left
        self._right = right
        self._kind = kind
        self._joiner = joiner

    def enable_old(self, *, force: bool) -> bool:
        self._left.enable_old(force=True)
        self._right.enable_old(force=True)
        self.send_old = True
        return True

    def stores(self) -> list[str]:
        return [self.store] if self.store is not None else [*self._left.stores(), *self._right.stores()]

    def getter(self, context: NodeContext) -> Getter:
        """Return what looks up one key in a task."""
        if self.store is not None:
            return super().getter(context)
        left, right = self._left.getter(context), self._right.getter(context)
        kind, joiner = self._kind, self._joiner

        def get(key: Any) -> tuple[Any, int] | None:
            one, other = left(key), right(key)
            if (one is None and (kind != "outer" or other is None)) or (other is None and kind == "inner"):
                return None
            made = joiner(key, None if one is None else one[0], None if other is None else other[0])
            if made is None:
                return None
            return made, max(-1 if one is None else one[1], -1 if other is None else other[1])

        return get


def table_side(view: JoinView, this: View, other: View, joiner: Joiner, kind: Kind, *, left: bool) -> Make:
    """One side of a join by key: its changes, joined with what the other table holds. Versions that came late are not
    joined."""
    # What comes out without a partner: this side's rows alone, and this side's absence beside the other's rows.
    alone = kind == "outer" or (kind == "left" and left)
    absent = kind == "outer" or (kind == "left" and not left)

    def make(context: NodeContext) -> Process:
        forward, fail, drop, name = context.forward, context.fail, context.task.drop, context.name
        get = other.getter(context)
        send_old, skips_late = view.send_old, this.is_versioned

        def joined(key: Any, this: Any, that: Any) -> Any:
            if this is None and not (absent and that is not None):
                return None
            return joiner(key, this, that) if left else joiner(key, that, this)

        def once(key: Any, change: Change, timestamp: int) -> tuple[Any, int] | None:
            found = get(key)
            if found is None:
                if not alone or (change.new is None and change.old is None):
                    return None
                that, when = None, timestamp
            else:
                that, when = found[0], max(timestamp, found[1])
            old = joined(key, change.old, that) if send_old else None
            return Change(joined(key, change.new, that), old, change.is_newest), when

        def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            if key is None:
                drop(name)
                return
            if skips_late and not change.is_newest:
                drop(name, is_normal=True)
                return
            again = partial(once, key, change, timestamp)
            try:
                made = again()
            except Exception as error:
                made = fail(error, key, change.new, timestamp, headers, again)
                if made is SKIPPED:
                    return
            if made is not None:
                forward(key, made[0], made[1], headers)

        return process

    return make


def table_merge(view: JoinView) -> Make:
    """Both sides of a join come out here, and are stored."""

    def make(context: NodeContext) -> Process:
        forward = context.forward
        send_old = view.send_old
        if view.store is not None:
            state: KeyValueState = context.store(view.store)
            update = updating(context, state, send_old=send_old)

            def store(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
                update(key, state.key_bytes(key), change.new, change.old, timestamp, headers)

            return store

        def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            forward(key, change if send_old else change._replace(old=None), timestamp, headers)

        return process

    return make


# By foreign key.

_DELETE = 0
_DELETE_AND_ANSWER = 1
_ANSWER_ALWAYS = 2
_ANSWER_IF_FOUND = 3


class Subscription(NamedTuple):
    """What goes to the right side, under the foreign key. `hash` is of the left value as bytes, None if it is
    deleted."""

    hash: bytes | None
    instruction: int
    primary_key: Any
    primary_partition: int


class Answer(NamedTuple):
    """What comes back, under the primary key. The partition is where it must go; it is not written."""

    hash: bytes | None
    value: Any
    partition: int


class SubscriptionSerde:
    """version 1 (bit 7: no hash) | instruction | hash (16 bytes) | primary key | partition int32"""

    takes_none = False

    def __init__(self, key_serde: AnySerde) -> None:
        self._key_serde = key_serde

    def serialize(self, topic: str, value: Subscription, /) -> bytes:
        head = bytes((1 if value.hash is not None else 0x81, value.instruction))
        key = self._key_serde.serialize(topic, value.primary_key) or b""
        return head + (value.hash or b"") + key + _INT.pack(value.primary_partition)

    def deserialize(self, topic: str, data: bytes, /) -> Subscription:
        if data[0] & 0x7F != 1:
            raise ValueError(f"subscriptions of version {data[0] & 0x7F} are not known")
        start = 2 if data[0] & 0x80 else 18
        found = None if data[0] & 0x80 else data[2:18]
        key = self._key_serde.deserialize(topic, data[start:-4])
        return Subscription(found, data[1], key, _INT.unpack_from(data, len(data) - 4)[0])

    def __repr__(self) -> str:
        return f"subscription({self._key_serde!r})"


class AnswerSerde:
    """version 0 (bit 7: no hash) | hash (16 bytes) | value"""

    takes_none = False

    def __init__(self, value_serde: AnySerde) -> None:
        self._value_serde = value_serde

    def serialize(self, topic: str, value: Answer, /) -> bytes:
        head = b"\x80" if value.hash is None else b"\x00" + value.hash
        return head + ((self._value_serde.serialize(topic, value.value) or b"") if value.value is not None else b"")

    def deserialize(self, topic: str, data: bytes, /) -> Answer:
        start = 1 if data[0] & 0x80 else 17
        rest = data[start:]
        value = self._value_serde.deserialize(topic, rest) if rest else None
        return Answer(data[1:start] if start == 17 else None, value, -1)

    def __repr__(self) -> str:
        return f"answer({self._value_serde!r})"


def combined_key(foreign: bytes, primary: bytes) -> bytes:
    """Return the key of a subscription in its store: length of the foreign key int32 | foreign key | primary key."""
    return _INT.pack(len(foreign)) + foreign + primary


def send_subscription(
    table: View,
    extract: Callable[[Any, Any], Any],
    foreign_serde: AnySerde,
    value_serde: AnySerde,
    topic: str,
    *,
    left: bool,
) -> Make:
    """Subscribe each left row to its foreign key, and end the subscription to the one that it had before."""

    def make(context: NodeContext) -> Process:
        forward, fail, drop, name = context.forward, context.fail, context.task.drop, context.name
        partition = context.task.partition
        foreign_topic, value_topic = f"{topic}-fk", f"{topic}-vh"

        def written(foreign: Any) -> bytes | None:
            return None if foreign is None else foreign_serde.serialize(foreign_topic, foreign)

        def plan(key: Any, change: Change) -> list[tuple[Any, int]]:
            """Return (foreign key, instruction) of each subscription to send."""
            old = None if change.old is None else extract(key, change.old)
            new = None if change.new is None else extract(key, change.new)
            moved = written(old) != written(new)
            if left:
                if change.old is None and change.new is None:
                    return []
                first = [(old, _DELETE)] if old is not None and moved else []
                return [*first, (new, _ANSWER_ALWAYS)]
            if change.new is None:
                return [] if old is None else [(old, _DELETE_AND_ANSWER)]
            if new is None:
                drop(name)
                return [] if old is None else [(old, _DELETE_AND_ANSWER)]
            if old is not None and moved:
                return [(old, _DELETE), (new, _ANSWER_ALWAYS)]
            return [(new, _ANSWER_IF_FOUND)]

        def once(key: Any, change: Change) -> tuple[list[tuple[Any, int]], bytes | None]:
            planned = plan(key, change)
            if change.new is None or not planned:
                return planned, None
            return planned, hash128(value_serde.serialize(value_topic, change.new) or b"")

        skips_late = table.is_versioned

        def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            if skips_late and not change.is_newest:
                drop(name, is_normal=True)
                return
            again = partial(once, key, change)
            try:
                found = again()
            except Exception as error:
                found = fail(error, key, change.new, timestamp, headers, again)
                if found is SKIPPED:
                    return
            planned, value_hash = found
            for foreign, instruction in planned:
                forward(foreign, Subscription(value_hash, instruction, key, partition), timestamp, headers)

        return process

    return make


def receive_subscription(store: str, foreign_serde: AnySerde, key_serde: AnySerde, topic: str) -> Make:
    """Keep subscriptions at the right side, and pass them on."""

    def make(context: NodeContext) -> Process:
        forward, drop, name = context.forward, context.task.drop, context.name
        state: KeyValueState = context.store(store)
        foreign_topic, key_topic = f"{topic}-fk", f"{topic}-pk"

        def process(foreign: Any, subscription: Subscription, timestamp: int, headers: Headers) -> None:
            if foreign is None:
                if subscription.instruction != _ANSWER_ALWAYS:
                    drop(name)
                    return
            else:
                there = combined_key(
                    foreign_serde.serialize(foreign_topic, foreign) or b"",
                    key_serde.serialize(key_topic, subscription.primary_key) or b"",
                )
                ends = subscription.instruction in (_DELETE, _DELETE_AND_ANSWER)
                state.put(there, None if ends else subscription, timestamp, headers)
            forward(foreign, subscription, timestamp, headers)

        return process

    return make


def answer_subscription(right: View) -> Make:
    """Answer a subscription with what the right table holds."""

    def make(context: NodeContext) -> Process:
        forward = context.forward
        get = right.getter(context)

        def process(foreign: Any, subscription: Subscription, timestamp: int, headers: Headers) -> None:
            found = None if foreign is None else get(foreign)
            instruction = subscription.instruction
            if instruction == _DELETE or (instruction == _ANSWER_IF_FOUND and found is None):
                return
            value = None if found is None or instruction == _DELETE_AND_ANSWER else found[0]
            answer = Answer(subscription.hash, value, subscription.primary_partition)
            when = timestamp if found is None else max(timestamp, found[1])
            forward(subscription.primary_key, answer, when, headers)

        return process

    return make


def tell_subscribers(right: View, store: str, foreign_serde: AnySerde, topic: str) -> Make:
    """Send a right row that has changed to all that have subscribed to it."""

    def make(context: NodeContext) -> Process:
        forward, drop, name = context.forward, context.task.drop, context.name
        state: KeyValueState = context.store(store)
        foreign_topic = f"{topic}-fk"
        skips_late = right.is_versioned

        def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            if key is None:
                drop(name)
                return
            if skips_late and not change.is_newest:
                drop(name, is_normal=True)
                return
            foreign = foreign_serde.serialize(foreign_topic, key) or b""
            for _, subscription in state.prefix(_INT.pack(len(foreign)) + foreign):
                answer = Answer(subscription.hash, change.new, subscription.primary_partition)
                forward(subscription.primary_key, answer, timestamp, headers)

        return process

    return make


def resolve_answer(table: View, value_serde: AnySerde, joiner: Joiner, topic: str, *, left: bool) -> Make:
    """Join an answer with the left row, if that still is what the subscription was made of."""

    def make(context: NodeContext) -> Process:
        forward, fail, drop, name = context.forward, context.fail, context.task.drop, context.name
        get = table.getter(context)
        value_topic = f"{topic}-vh"

        def once(key: Any, answer: Answer) -> Any:
            found = get(key)
            now = None if found is None else hash128(value_serde.serialize(value_topic, found[0]) or b"")
            if now != answer.hash:
                return SKIPPED
            if answer.value is None and (not left or found is None):
                return None
            return joiner(key, None if found is None else found[0], answer.value)

        def process(key: Any, answer: Answer, timestamp: int, headers: Headers) -> None:
            again = partial(once, key, answer)
            try:
                made = again()
            except Exception as error:
                made = fail(error, key, answer.value, timestamp, headers, again)
                if made is SKIPPED:
                    return
            if made is SKIPPED:
                drop(name, is_normal=True)  # the left row has changed since, and asked again
            else:
                forward(key, made, timestamp, headers)

        return process

    return make


def answer_partition(topic: str, key: Any, answer: Answer, count: int) -> int:
    """Return where an answer goes: to the partition that has asked."""
    return answer.partition
