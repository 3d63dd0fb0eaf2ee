"""`--where 'value.amount > 10'`: a condition on records, in Python's spelling, without Python's powers.

Names are key, value, headers, topic, partition, offset, timestamp (milliseconds). JSON in a value is looked into with dots
and brackets; what is not there is None, and no comparison with None holds but `==`, `!=`, `is` and `in`. The condition is
compiled once into closures; nothing else of Python can be reached.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ottla.client.errors import ConfigurationError

if TYPE_CHECKING:
    from ottla.cli.record_format import AnyRecord

    Value = Callable[[AnyRecord], Any]

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: right is not None and left in right,
    ast.NotIn: lambda left, right: right is None or left not in right,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_METHODS = ("startswith", "endswith", "lower", "upper", "strip")
_NAMES: Mapping[str, Value] = {
    "value": lambda record: _open(record.value_bytes),
    "key": lambda record: _open(record.key_bytes),
    "headers": lambda record: {name: _decoded(value) for name, value in record.headers.multi_items()},
    "topic": lambda record: record.topic,
    "partition": lambda record: record.partition,
    "offset": lambda record: record.offset,
    "timestamp": lambda record: record.timestamp_ms,
}
#: A longer text, number or list made by a condition is not needed, and could be made very long.
_LENGTH_MAX = 10_000


def compile_condition(text: str) -> Callable[[AnyRecord], bool]:
    """Return a function that says whether a record meets a condition.

    Raises:
        ConfigurationError: it is no condition, or wants what it cannot have.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigurationError(f"--where {text!r} is no condition: {getattr(error, 'msg', error)}.") from None
    condition = _compile(tree.body, text)

    def holds(record: AnyRecord) -> bool:
        try:
            return bool(condition(record))
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            return False  # text compared with a number, a division by nothing: it does not hold

    return holds


def _compile(node: ast.expr, text: str) -> Value:
    def refuse(what: str) -> ConfigurationError:
        return ConfigurationError(
            f"--where {text!r}: {what}.",
            "It takes comparisons of key, value, headers, topic, partition, offset and timestamp, with and, or, not.",
        )

    match node:
        case ast.Constant(value=None | bool() | int() | float() | str()):
            constant = node.value
            return lambda _record: constant
        case ast.Name(id=name):
            if name in ("true", "false", "null"):
                found = {"true": True, "false": False, "null": None}[name]
                return lambda _record: found
            if name not in _NAMES:
                raise refuse(f"there is no {name!r} in a record")
            return _NAMES[name]
        case ast.Attribute(value=inner, attr=attribute):
            of = _compile(inner, text)
            return lambda record: _look(of(record), attribute)
        case ast.Subscript(value=inner, slice=index):
            of, at = _compile(inner, text), _compile(index, text)
            return lambda record: _look(of(record), at(record))
        case ast.BoolOp(op=ast.And(), values=parts):
            compiled = [_compile(part, text) for part in parts]
            return lambda record: all(part(record) for part in compiled)
        case ast.BoolOp(op=ast.Or(), values=parts):
            compiled = [_compile(part, text) for part in parts]
            return lambda record: any(part(record) for part in compiled)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            of = _compile(inner, text)
            return lambda record: not of(record)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            of = _compile(inner, text)
            return lambda record: -of(record)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _arithmetic(_ARITHMETIC[type(op)], _compile(left, text), _compile(right, text))
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _comparison(
                [_COMPARISONS[type(op)] for op in ops], [_compile(part, text) for part in (left, *others)]
            )
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            compiled = [_compile(part, text) for part in parts]
            return lambda record: [part(record) for part in compiled]
        case ast.Call(func=ast.Name(id="len"), args=[inner], keywords=[]):
            of = _compile(inner, text)
            return lambda record: len(of(record))
        case ast.Call(func=ast.Attribute(value=inner, attr=method), args=arguments, keywords=[]) if method in _METHODS:
            of, given = _compile(inner, text), [_compile(argument, text) for argument in arguments]
            return lambda record: _call(of(record), method, [argument(record) for argument in given])
    raise refuse(f"{ast.unparse(node)!r} cannot be used")


def _arithmetic(operation: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    def run(record: AnyRecord) -> Any:
        operands = left(record), right(record)
        if operation is not operator.add and not all(isinstance(operand, int | float) for operand in operands):
            raise TypeError("arithmetic takes numbers")
        for operand in operands:
            if isinstance(operand, str | list) and len(operand) > _LENGTH_MAX:
                raise ValueError("too long")
        return operation(*operands)

    return run


def _comparison(operations: list[Callable[[Any, Any], Any]], parts: list[Value]) -> Value:
    def run(record: AnyRecord) -> bool:
        values = [part(record) for part in parts]
        return all(operation(values[n], values[n + 1]) for n, operation in enumerate(operations))

    return run


def _call(value: Any, method: str, arguments: list[Any]) -> Any:
    if not isinstance(value, str):
        return None
    return getattr(value, method)(*arguments)


def _look(value: Any, name: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, list) and isinstance(name, int) and -len(value) <= name < len(value):
        return value[name]
    return None


def _open(data: bytes | None) -> Any:
    """What a key or value says: JSON, or else text."""
    if data is None:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return _decoded(data)


def _decoded(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")
