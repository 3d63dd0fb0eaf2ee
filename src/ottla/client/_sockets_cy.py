# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# mypy: ignore-errors
# ruff: noqa: F821
"""Reading and writing of sockets that never wait, for the compiler; only ever run compiled. See `sockets`."""

import os

import cython
from cython.cimports.cpython.buffer import Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.libc.errno import errno
from cython.cimports.posix.unistd import read, write

SOURCE_HASH = "@SOURCE_HASH@"
COMPILED = True


@cython.cfunc
def _failed(number: cython.int) -> object:
    """The error as Python has it: BlockingIOError, ConnectionResetError, ..."""
    return OSError(number, os.strerror(number))


def send(number: cython.int, data: object) -> cython.Py_ssize_t:
    """Write to a file descriptor what it takes now; return how many bytes that is.

    Raises:
        OSError: as `socket.send` does.
    """
    view: Py_buffer
    done: cython.Py_ssize_t
    problem: cython.int
    PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
    done = write(number, view.buf, view.len)
    problem = errno
    PyBuffer_Release(cython.address(view))
    if done < 0:
        raise _failed(problem)
    return done


def receive_into(number: cython.int, buffer: object) -> cython.Py_ssize_t:
    """Read from a file descriptor what is there now, as much as fits; return how many bytes that is, 0 at the end.

    Raises:
        OSError: as `socket.recv_into` does.
    """
    view: Py_buffer
    done: cython.Py_ssize_t
    problem: cython.int
    PyObject_GetBuffer(buffer, cython.address(view), PyBUF_WRITABLE)
    done = read(number, view.buf, view.len)
    problem = errno
    PyBuffer_Release(cython.address(view))
    if done < 0:
        raise _failed(problem)
    return done
