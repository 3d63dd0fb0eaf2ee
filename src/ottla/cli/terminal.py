"""What commands share: options that say in one line what is wrong with them, output, errors."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def say(line: str) -> None:
    """Print to stdout, also where it cannot show every character or its reader has gone."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        print(line.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        pass


def complain(text: str, code: int) -> int:
    """Print one line to stderr; return `code`."""
    print(f"ottla: {' '.join(text.split())}", file=sys.stderr)
    return code


def reason(error: BaseException) -> str:
    """Return what an exception says, without Python's decoration."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
