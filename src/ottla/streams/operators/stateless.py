"""Operators whose output depends on the record alone. They forward after the user's function has returned."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from ottla.streams.context import SKIPPED, Headers, NodeContext, Process
from ottla.streams.errors import need_function

Make = Callable[[NodeContext], Process]


def filtering(predicate: Callable[[Any, Any], Any], *, keep: bool) -> Make:
    """Pass on records for which the predicate is true (`keep`), or not."""
    need_function("filter()", predicate)

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                found = predicate(key, value)
            except Exception as error:
                found = fail(error, key, value, timestamp, headers, lambda: predicate(key, value))
                if found is SKIPPED:
                    return
            if bool(found) is keep:
                forward(key, value, timestamp, headers)

        return process

    return make


def mapping(function: Callable[[Any, Any], Any]) -> Make:
    """Forward the (key, value) that the function returns."""
    need_function("map()", function)

    def pair(key: Any, value: Any) -> tuple[Any, Any]:
        made = function(key, value)
        if type(made) is not tuple or len(made) != 2:
            raise TypeError(f"map() needs a function that returns (key, value), not {made!r}")
        return made

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                made = pair(key, value)
            except Exception as error:
                made = fail(error, key, value, timestamp, headers, lambda: pair(key, value))
                if made is SKIPPED:
                    return
            forward(made[0], made[1], timestamp, headers)

        return process

    return make


def selecting_key(function: Callable[[Any, Any], Any]) -> Make:
    """Forward the value under the key that the function returns."""
    need_function("a new key", function)

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                made = function(key, value)
            except Exception as error:
                made = fail(error, key, value, timestamp, headers, lambda: function(key, value))
                if made is SKIPPED:
                    return
            forward(made, value, timestamp, headers)

        return process

    return make


def mapping_values(function: Callable[..., Any], *, with_key: bool) -> Make:
    """Forward the value that the function returns."""
    need_function("map_values()", function)

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                made = function(value)
            except Exception as error:
                made = fail(error, key, value, timestamp, headers, lambda: function(value))
                if made is SKIPPED:
                    return
            forward(key, made, timestamp, headers)

        def process_with_key(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                made = function(key, value)
            except Exception as error:
                made = fail(error, key, value, timestamp, headers, lambda: function(key, value))
                if made is SKIPPED:
                    return
            forward(key, made, timestamp, headers)

        return process_with_key if with_key else process

    return make


def flat_mapping(function: Callable[[Any, Any], Any]) -> Make:
    """Forward each (key, value) of what the function returns or yields."""
    need_function("flat_map()", function)

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                made = [(new_key, new_value) for new_key, new_value in function(key, value)]
            except Exception as error:
                made = fail(error, key, value, timestamp, headers, lambda: list(function(key, value)))
                if made is SKIPPED:
                    return
            for new_key, new_value in made:
                forward(new_key, new_value, timestamp, headers)

        return process

    return make


def flat_mapping_values(function: Callable[..., Any], *, with_key: bool) -> Make:
    """Forward each value of what the function returns or yields."""
    need_function("flat_map_values()", function)

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def all_of(key: Any, value: Any) -> list[Any]:
            return list(function(key, value) if with_key else function(value))

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                made = all_of(key, value)
            except Exception as error:
                made = fail(error, key, value, timestamp, headers, lambda: all_of(key, value))
                if made is SKIPPED:
                    return
            for new in made:
                forward(key, new, timestamp, headers)

        return process

    return make


def looking(action: Callable[[Any, Any], Any]) -> Make:
    """Call the function with each record, and pass the record on."""
    need_function("peek() or foreach()", action)

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                action(key, value)
            except Exception as error:
                if fail(error, key, value, timestamp, headers, lambda: action(key, value)) is SKIPPED:
                    return
            forward(key, value, timestamp, headers)

        return process

    return make


def printing(label: str, file: TextIO | None) -> Make:
    """Write each record as a line "[label]: key, value", as Java's Printed does."""

    def show(key: Any, value: Any) -> None:
        print(f"[{label}]: {key}, {value}", file=file or sys.stdout)

    return looking(show)


def branching(predicates: Sequence[Callable[[Any, Any], Any]], children: Sequence[str]) -> Make:
    """Pass each record to the child of the first predicate that is true; to the last child, if there is one more,
    else."""

    for predicate in predicates:
        need_function("branch()", predicate)

    def choose(key: Any, value: Any) -> int:
        for index, predicate in enumerate(predicates):
            if predicate(key, value):
                return index
        return len(predicates)

    def make(context: NodeContext) -> Process:
        fail = context.fail
        targets = [context.child(name) for name in children]

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                index = choose(key, value)
            except Exception as error:
                index = fail(error, key, value, timestamp, headers, lambda: choose(key, value))
                if index is SKIPPED:
                    return
            if index < len(targets):
                targets[index](key, value, timestamp, headers)

        return process

    return make
