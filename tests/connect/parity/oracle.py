"""Runs Oracle.java, and keeps what Java said: `python -m tests.connect.parity.oracle` writes it
anew (results.jsonl.xz).

Needs a JDK (17 or newer) and Maven, which fetches Connect's jars. JAVA names the JVM that runs the cases. Texts of doubles
and orders of copied HashMaps are those of JDK 19 and later, so what is kept has to come from one of these.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.connect.parity.cases import cases

VERSION = "4.3.1"
RESULTS = Path(__file__).with_name("results.jsonl.xz")
_ARTIFACTS = ("connect-json", "connect-transforms", "connect-runtime", "connect-file")
_DEPENDENCY = (
    "<dependency><groupId>org.apache.kafka</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
)
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>parity</groupId><artifactId>parity</artifactId><version>1</version>
<dependencies>{"".join(_DEPENDENCY.format(name, VERSION) for name in _ARTIFACTS)}</dependencies></project>
"""


def find_jars(folder: Path) -> str:
    """Return the class path of Kafka's jars: those of OTTLA_KAFKA_HOME, or what Maven brings into the folder."""
    home = os.environ.get("OTTLA_KAFKA_HOME")
    if home and list(Path(home, "libs").glob(f"connect-runtime-{VERSION}.jar")):
        return f"{home}/libs/*"
    if not (folder / "lib").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(_POM)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'lib'}"]
        subprocess.run(command, cwd=folder, check=True, timeout=600)
    return f"{folder}/lib/*"


def java_results(folder: Path, wanted: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Return the version of the JDK, and what Java says to each case."""
    jars = find_jars(folder)
    source, classes = Path(__file__).with_name("Oracle.java"), folder / "classes"
    subprocess.run(
        ["javac", "-nowarn", "--release", "17", "-cp", jars, "-d", str(classes), str(source)], check=True, timeout=300
    )
    asked, answered = folder / "cases.jsonl", folder / "results.jsonl"
    asked.write_text("".join(json.dumps(case) + "\n" for case in wanted))
    java = os.environ.get("JAVA", "java")
    options = ["-Duser.timezone=UTC", "-Duser.language=en", "-Duser.country=US"]
    command = [java, *options, "-cp", f"{classes}:{jars}", "Oracle", str(asked), str(answered)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr[:4000])
    first, *rest = answered.read_text().rstrip("\n").split("\n")
    return json.loads(first)["java"], [json.loads(line) for line in rest]


def digest(wanted: list[dict[str, Any]]) -> str:
    """Return what tells whether results belong to these cases."""
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()


def kept_results() -> tuple[dict[str, str], list[str]]:
    """Return the JDK, Kafka's version and the digest of the cases; and a line for each case (`result` reads it)."""
    first, *rest = lzma.decompress(RESULTS.read_bytes()).decode().split("\n")
    return json.loads(first), rest


def result(case: dict[str, Any], line: str) -> dict[str, Any]:
    """Return what Java said to a case when the file was written."""
    return whole(case, json.loads(line))


def compact(case: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a result what repeats the case."""
    again = {"schema": case.get("schema"), "value": case.get("value"), "again": result.get("bytes", case.get("bytes"))}
    small = {name: "=" if name in again and part == again[name] else part for name, part in result.items()}
    small.pop("message", None)
    return small


def whole(case: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Undo `compact`."""
    again = {"schema": case.get("schema"), "value": case.get("value"), "again": small.get("bytes", case.get("bytes"))}
    return {name: again[name] if part == "=" else part for name, part in small.items()}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    wanted = cases()
    java, results = java_results(folder, wanted)
    head = {"java": java, "kafka": VERSION, "cases": digest(wanted)}
    small = [compact(case, result) for case, result in zip(wanted, results, strict=True)]
    lines = [json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in [head, *small]]
    RESULTS.write_bytes(lzma.compress("\n".join(lines).encode()))
    print(f"{len(results)} cases on JDK {java}, {RESULTS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
