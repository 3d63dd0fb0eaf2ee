# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# mypy: ignore-errors
# ruff: noqa: F821
"""What Arrow libraries call when they are done with a batch, as C functions; only ever run compiled.

A library may call them in the middle of an error that is on its way through it. Python code would lose that error, as
`arrow`'s own functions, which are used without this module, do: a caller of `pyarrow.table(batch, schema=wrong)` would
see a SystemError there instead of what is wrong with the schema.
"""

import cython
from cython.cimports.cpython.exc import PyErr_Fetch, PyErr_Restore
from cython.cimports.cpython.ref import PyObject

SOURCE_HASH = "@SOURCE_HASH@"
COMPILED = True

#: What structures point to, by the number in their `private_data`; see `arrow`.
KEPT: dict = {}


@cython.cfunc
@cython.exceptval(check=False)
def _forget(number: cython.size_t) -> cython.void:
    kind: cython.pointer(PyObject)
    value: cython.pointer(PyObject)
    traceback: cython.pointer(PyObject)
    PyErr_Fetch(cython.address(kind), cython.address(value), cython.address(traceback))
    KEPT.pop(number, None)
    PyErr_Restore(kind, value, traceback)


@cython.cfunc
@cython.exceptval(check=False)
def _release(one: cython.pp_void, count_at: cython.int, children_at: cython.int, release_at: cython.int) -> cython.void:
    """Release a structure, whose fields are of a pointer's size each, and its children that were not taken over."""
    child: cython.pp_void
    at: cython.size_t
    if count_at >= 0:
        for at in range(cython.cast(cython.size_t, one[count_at])):
            child = cython.cast(cython.pp_void, cython.cast(cython.pp_void, one[children_at])[at])
            if child[release_at] != cython.NULL:
                _release(child, count_at, children_at, release_at)
    one[release_at] = cython.NULL
    _forget(cython.cast(cython.size_t, one[release_at + 1]))


@cython.cfunc
@cython.exceptval(check=False)
@cython.with_gil
def _release_schema(one: cython.pp_void) -> cython.void:
    _release(one, 4, 5, 7)


@cython.cfunc
@cython.exceptval(check=False)
@cython.with_gil
def _release_array(one: cython.pp_void) -> cython.void:
    _release(one, 4, 6, 8)


@cython.cfunc
@cython.exceptval(check=False)
@cython.with_gil
def _release_stream(one: cython.pp_void) -> cython.void:
    _release(one, -1, -1, 3)


def addresses() -> tuple:
    """Return where the functions are that release a schema, an array and a stream."""
    return (
        cython.cast(cython.size_t, cython.cast(cython.p_void, _release_schema)),
        cython.cast(cython.size_t, cython.cast(cython.p_void, _release_array)),
        cython.cast(cython.size_t, cython.cast(cython.p_void, _release_stream)),
    )
