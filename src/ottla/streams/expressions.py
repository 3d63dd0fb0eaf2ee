"""Expressions over the fields of rows: `col("price") * col("size")`, and what `agg()` makes of them.

One expression becomes one piece of Python, which is evaluated for a row (`for_row`) or for lists of values (`for_columns`):
both give the same values and raise the same errors. None is a value that is not there: what is computed of it is None,
as in SQL. Integers have 64 bits; a larger one is an OverflowError. Floats follow Python: sums go from the first to the
last, a division by zero raises.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_MIN, _MAX = -(1 << 63), (1 << 63) - 1


def _number(value: Any) -> Any:
    if type(value) is int:
        if not _MIN <= value <= _MAX:
            raise OverflowError(f"{value} has more than 64 bits")
        return value
    if type(value) is not float and type(value) is not bool:
        raise TypeError(f"a number is needed, not {value!r}")
    return value


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        if left is None or right is None:
            return None
        return _number(function(_number(left), _number(right)))

    return apply


def _add(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return None
    if type(left) is str and type(right) is str:
        return left + right
    return _number(_number(left) + _number(right))


def _comparison(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        return None if left is None or right is None else function(left, right)

    return apply


def _and(left: Any, right: Any) -> Any:
    if left is False or right is False:
        return False
    return None if left is None or right is None else bool(left and right)


def _or(left: Any, right: Any) -> Any:
    if left is True or right is True:
        return True
    return None if left is None or right is None else bool(left or right)


def _not(value: Any) -> Any:
    return None if value is None else not value


def _is_null(value: Any) -> bool:
    return value is None


def _fill_null(value: Any, other: Any) -> Any:
    return other if value is None else value


#: What the pieces of Python call.
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "add": _add,
    "sub": _arithmetic(operator.sub),
    "mul": _arithmetic(operator.mul),
    "truediv": _arithmetic(operator.truediv),
    "floordiv": _arithmetic(operator.floordiv),
    "mod": _arithmetic(operator.mod),
    "lt": _comparison(operator.lt),
    "le": _comparison(operator.le),
    "gt": _comparison(operator.gt),
    "ge": _comparison(operator.ge),
    "eq": _comparison(operator.eq),
    "ne": _comparison(operator.ne),
    "and_": _and,
    "or_": _or,
    "not_": _not,
    "is_null": _is_null,
    "fill_null": _fill_null,
}


class Expression:
    """A value for each row. Operators, comparisons, `&`, `|` and `~` make new ones; so do the methods."""

    __slots__ = ("_arguments", "_function", "name")

    def __init__(self, function: str, arguments: Sequence[Any], name: str) -> None:
        """Use `col` and `lit`."""
        self._function = function
        self._arguments = tuple(arguments)
        self.name: str = name

    def _with(self, function: str, *others: Any) -> Expression:
        return Expression(function, (self, *map(_expression, others)), self.name)

    def __add__(self, other: Any) -> Expression:
        return self._with("add", other)

    def __radd__(self, other: Any) -> Expression:
        return Expression("add", (_expression(other), self), self.name)

    def __sub__(self, other: Any) -> Expression:
        return self._with("sub", other)

    def __rsub__(self, other: Any) -> Expression:
        return Expression("sub", (_expression(other), self), self.name)

    def __mul__(self, other: Any) -> Expression:
        return self._with("mul", other)

    def __rmul__(self, other: Any) -> Expression:
        return Expression("mul", (_expression(other), self), self.name)

    def __truediv__(self, other: Any) -> Expression:
        return self._with("truediv", other)

    def __rtruediv__(self, other: Any) -> Expression:
        return Expression("truediv", (_expression(other), self), self.name)

    def __floordiv__(self, other: Any) -> Expression:
        return self._with("floordiv", other)

    def __mod__(self, other: Any) -> Expression:
        return self._with("mod", other)

    def __lt__(self, other: Any) -> Expression:
        return self._with("lt", other)

    def __le__(self, other: Any) -> Expression:
        return self._with("le", other)

    def __gt__(self, other: Any) -> Expression:
        return self._with("gt", other)

    def __ge__(self, other: Any) -> Expression:
        return self._with("ge", other)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return self._with("eq", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return self._with("ne", other)

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __and__(self, other: Any) -> Expression:
        return self._with("and_", other)

    def __or__(self, other: Any) -> Expression:
        return self._with("or_", other)

    def __invert__(self) -> Expression:
        return self._with("not_")

    def __bool__(self) -> bool:
        raise TypeError(
            "an expression has no truth value of its own: write & for and, | for or, ~ for not, with parentheses"
        )

    def is_null(self) -> Expression:
        """True where the value is not there."""
        return self._with("is_null")

    def fill_null(self, other: Any) -> Expression:
        """Another value where it is not there."""
        return self._with("fill_null", other)

    def sum(self) -> Aggregation:
        """The sum of the values that are there, from the first to the last; None without any."""
        return Aggregation("sum", self, f"{self.name}_sum")

    def mean(self) -> Aggregation:
        """The sum of the values that are there, divided by their number; None without any."""
        return Aggregation("mean", self, f"{self.name}_mean")

    def min(self) -> Aggregation:
        """The smallest value; None without any."""
        return Aggregation("min", self, f"{self.name}_min")

    def max(self) -> Aggregation:
        """The largest value; None without any."""
        return Aggregation("max", self, f"{self.name}_max")

    def count(self) -> Aggregation:
        """How many values are there."""
        return Aggregation("count", self, f"{self.name}_count")

    def fields(self) -> set[str]:
        """Return the names of the fields that it reads."""
        if self._function == "col":
            return {str(self._arguments[0])}
        found: set[str] = set()
        for argument in self._arguments:
            if isinstance(argument, Expression):
                found |= argument.fields()
        return found

    def for_row(self) -> Callable[[Mapping[str, Any]], Any]:
        """Return what computes it for one row."""
        names = sorted(self.fields())
        code, constants = _code(self, {name: f"row.get({name!r})" for name in names})
        compute: Callable[[Mapping[str, Any]], Any] = _made(f"lambda row: {code}", constants)
        return compute

    def for_columns(self) -> Callable[[Callable[[str], list[Any]], int], list[Any]]:
        """Return what computes it for (function that gives the values of a field, number of rows)."""
        names = sorted(self.fields())
        code, constants = _code(self, {name: f"v{index}" for index, name in enumerate(names)})
        targets = ", ".join(f"v{index}" for index in range(len(names))) or "_"
        columns = ", ".join(f"column({name!r})" for name in names)
        over = "range(count)" if not names else columns if len(names) == 1 else f"zip({columns})"
        compute: Callable[[Callable[[str], list[Any]], int], list[Any]] = _made(
            f"lambda column, count: [{code} for {targets} in {over}]", constants
        )
        return compute

    def __repr__(self) -> str:
        if self._function == "col":
            return f"col({self._arguments[0]!r})"
        if self._function == "lit":
            return repr(self._arguments[0])
        return f"{self._function}({', '.join(map(repr, self._arguments))})"


class Aggregation:
    """What `agg()` keeps of a group: made by methods of expressions, and by `count()`.

    Attributes:
        name: of the field in the result.
    """

    __slots__ = ("expression", "kind", "name")

    def __init__(self, kind: str, expression: Expression | None, name: str) -> None:
        self.kind: str = kind
        self.expression: Expression | None = expression
        self.name: str = name

    def alias(self, name: str) -> Aggregation:
        """Name the field of the result."""
        return Aggregation(self.kind, self.expression, name)


def col(name: str) -> Expression:
    """The field of that name; None in rows that do not have it."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"col() takes the name of a field, not {name!r}")
    return Expression("col", (name,), name)


def lit(value: Any) -> Expression:
    """The same value for every row."""
    if value is not None and type(value) not in (int, float, str, bool):
        raise TypeError(f"expressions work on numbers, text and booleans, not on {value!r}")
    return Expression("lit", (value,), "literal")


def count() -> Aggregation:
    """How many rows there are."""
    return Aggregation("count", None, "count")


def _expression(value: Any) -> Expression:
    return value if isinstance(value, Expression) else lit(value)


def _code(expression: Expression, fields: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    constants: dict[str, Any] = {}

    def write(each: Expression) -> str:
        if each._function == "col":
            return fields[each._arguments[0]]
        if each._function == "lit":
            constants[name := f"k{len(constants)}"] = each._arguments[0]
            return name
        return f"{each._function}({', '.join(map(write, each._arguments))})"

    return write(expression), constants


def _made(code: str, constants: Mapping[str, Any]) -> Any:
    # The code is written above, of names of ours; what users give is in `constants` or quoted by repr.
    return eval(code, {**_FUNCTIONS, **constants, "zip": zip, "range": range, "__builtins__": {}})


class Aggregates:
    """Several aggregations as one: a list of places, changed row by row, of which results are made.

    A mean has two places, sum and count; everything else one.
    """

    def __init__(self, aggregations: Sequence[Aggregation]) -> None:
        self.aggregations: tuple[Aggregation, ...] = tuple(aggregations)
        first: list[Any] = []
        self._places: list[int] = []
        for each in self.aggregations:
            self._places.append(len(first))
            first += [None, 0] if each.kind == "mean" else [0] if each.kind == "count" else [None]

        self._first = tuple(first)

    def first(self) -> tuple[Any, ...]:
        """Return the places before the first row."""
        return self._first

    def aggregator(self) -> Callable[[Any, Mapping[str, Any], tuple[Any, ...]], tuple[Any, ...]]:
        """Return what makes, of (key, row, places), the places with that row."""
        values_of, step = self.values_of_row(), self.stepper()

        def add(key: Any, row: Mapping[str, Any], places: tuple[Any, ...]) -> tuple[Any, ...]:
            made = list(places)
            step(made, values_of(row))
            return tuple(made)

        return add

    def values_of_row(self) -> Callable[[Mapping[str, Any]], list[Any]]:
        """Return what computes, of a row, the values that `step` takes."""
        made = [_one if each.expression is None else each.expression.for_row() for each in self.aggregations]
        return lambda row: [compute(row) for compute in made]

    def columns(self) -> list[Callable[[Callable[[str], list[Any]], int], list[Any]]]:
        """Return what computes the same for many rows, by aggregation."""
        return [_ones if each.expression is None else each.expression.for_columns() for each in self.aggregations]

    def stepper(self) -> Callable[[list[Any], Sequence[Any]], None]:
        """Return what adds the values of one row to the places."""
        lines = ["def step(places, values):"]
        for index, (each, place) in enumerate(zip(self.aggregations, self._places, strict=True)):
            lines += [f"    v = values[{index}]", "    if v is not None:"]
            match each.kind:
                case "count":
                    lines.append(f"        places[{place}] += 1")
                case "sum" | "mean":
                    lines.append(f"        s = places[{place}]")
                    lines.append(f"        places[{place}] = number(v) if s is None else number(s + number(v))")
                    if each.kind == "mean":
                        lines.append(f"        places[{place + 1}] += 1")
                case _:
                    sign = "<" if each.kind == "min" else ">"
                    lines.append(f"        b = places[{place}]")
                    lines.append(f"        if b is None or v {sign} b: places[{place}] = v")
        names: dict[str, Any] = {"number": _number, "__builtins__": {}}
        exec("\n".join(lines), names)
        return names["step"]  # type: ignore[no-any-return]

    def result(self, places: Sequence[Any]) -> dict[str, Any]:
        """Return the row that is made of the places."""
        made = {}
        for each, place in zip(self.aggregations, self._places, strict=True):
            value = places[place]
            if each.kind == "mean" and value is not None:
                value = value / places[place + 1]
            made[each.name] = value
        return made


def _one(row: Mapping[str, Any]) -> int:
    return 1


def _ones(column: Callable[[str], list[Any]], count: int) -> list[int]:
    return [1] * count
