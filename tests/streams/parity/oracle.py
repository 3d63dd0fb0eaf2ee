"""Runs Parity.java, and keeps what Java said in results.json.gz: `python -m tests.streams.parity.oracle` writes it
anew; with --new it only asks for topologies that are not in the file.

Needs a JDK (17 or newer) and Maven, which fetches kafka-streams-test-utils.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.streams.parity.topologies import topologies

VERSION = "4.3.1"
RESULTS = Path(__file__).with_name("results.json.gz")
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>parity</groupId><artifactId>parity</artifactId><version>1</version>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-streams-test-utils</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""


def fetch_jars(folder: Path) -> None:
    """Put the jars of the test driver into folder/lib."""
    if (folder / "lib").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pom.xml").write_text(_POM)
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'lib'}"]
    subprocess.run(command, cwd=folder, check=True, timeout=600)


def java_results(folder: Path, wanted: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each topology, its description and its outputs, as Java has them."""
    fetch_jars(folder)
    asked, answered = folder / "topologies.json", folder / "results.json"
    asked.write_text(json.dumps(wanted))
    command = [
        "java",
        "-cp",
        f"{folder}/lib/*",
        str(Path(__file__).with_name("Parity.java")),
        str(asked),
        str(answered),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr[:4000])
    return dict(json.loads(answered.read_text()))


def kept_results() -> dict[str, Any]:
    """Return what Java said when the file was written."""
    return dict(json.loads(gzip.decompress(RESULTS.read_bytes())))


def main() -> None:
    given = [each for each in sys.argv[1:] if each != "--new"]
    folder = Path(given[0]) if given else Path(tempfile.mkdtemp())
    kept = kept_results() if "--new" in sys.argv else {}
    results = {**kept, **java_results(folder, [each for each in topologies() if each["name"] not in kept])}
    text = json.dumps(results, separators=(",", ":"), sort_keys=True)
    RESULTS.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(results)} topologies, {RESULTS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
