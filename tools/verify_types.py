"""Whether a type checker knows all types of the client that programs import: `pyright --verifytypes`, read for its answer.

    python tools/verify_types.py            # exit code 1 if something that programs import has a type that is not known

Run it with an environment that has basedpyright and ottla, not editable (`make verify-types` makes one). It looks at
the client, streams, the fixtures and what they show. The broker is counted, and no more: no program imports the
broker, and mypy in strict mode looks at both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter

#: Packages and modules that programs import.
PUBLIC = ("aio", "assignors", "client", "errors", "otel", "sasl", "serde", "streams", "testing", "types")
#: But what the simulations in ottla's own tests are made of, and how an instance of a streams app speaks the wire protocol.
OWN = re.compile(r"ottla\.testing\.(simulat|virtual_|memory_)\w+|ottla\.streams\.runtime\.\w+")


def is_public(name: str) -> bool:
    """Whether a symbol is of the package's front, or of a module that programs import."""
    parts = name.split(".")
    return parts[0] == "ottla" and (len(parts) == 2 or parts[1] in PUBLIC) and not OWN.match(name)


def main() -> int:
    # It asks the python that it finds where packages are; --pythonpath does not count here.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "basedpyright"]
    with tempfile.TemporaryDirectory() as empty:  # with a source tree here it would look at that
        done = subprocess.run(
            [*command, "--verifytypes", "ottla", "--ignoreexternal", "--outputjson"],
            cwd=empty,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    found = json.loads(done.stdout)["typeCompleteness"]
    if not found["symbols"]:
        print("ottla is not installed here, or has no py.typed", file=sys.stderr)
        return 1
    symbols = [symbol for symbol in found["symbols"] if symbol["isExported"]]
    unknown = [symbol for symbol in symbols if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    ours = [symbol for symbol in unknown if is_public(symbol["name"])]
    for symbol in ours:
        print(symbol["name"])
        for diagnostic in symbol["diagnostics"]:
            print("   ", diagnostic["message"].replace("\n", " "))
    total = sum(is_public(symbol["name"]) for symbol in symbols)
    others = Counter(symbol["name"].split(".")[1] for symbol in unknown if not is_public(symbol["name"]))
    print(f"{total - len(ours)} of {total} symbols that programs import have a known type")
    print("not known elsewhere:", dict(others.most_common()) or "none")
    return int(bool(ours) or not total)


if __name__ == "__main__":
    sys.exit(main())
