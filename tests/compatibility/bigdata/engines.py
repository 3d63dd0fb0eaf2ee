"""Spark and Flink, each installed into a Python environment of its own with its connector for Kafka.

PyPI has the engines, Maven Central the connectors. They are installed once, into `build/bigdata` or where OTTLA_BIGDATA_HOME
says; tests that need them skip where a JDK, Maven or a package is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
HOME = Path(os.environ.get("OTTLA_BIGDATA_HOME") or REPOSITORY / "build" / "bigdata").absolute()
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
INSTALL_TIMEOUT_S = 1_800.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to install: a package of PyPI, and of a Maven artifact and its dependencies the jars that the engine lacks."""

    name: str
    package: str
    connector: str
    jars: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    python: Path
    jars: list[Path]


SPARK = Recipe(
    name="spark",
    package="pyspark==4.3.0",
    connector="org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",
    jars=("spark-sql-kafka-0-10_2.13", "spark-token-provider-kafka-0-10_2.13", "kafka-clients", "commons-pool2"),
)
FLINK = Recipe(
    name="flink",
    package="apache-flink==2.3.0",
    connector="org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",
    jars=("flink-sql-connector-kafka",),
)


def require(recipe: Recipe) -> Engine:
    """Return the installed engine; skip the calling test where it cannot be had."""
    engine, reason = installed(recipe)
    if engine is None:
        pytest.skip(reason)
    return engine


@cache
def installed(recipe: Recipe) -> tuple[Engine | None, str]:
    """The engine, installed if it is not yet; or None and the reason."""
    directory = HOME / recipe.name
    ready = directory / "READY"
    contents = f"{recipe.package} {recipe.connector}\n"
    if shutil.which("java") is None:
        return None, f"no {recipe.name}: no java on PATH"
    if not ready.exists() or ready.read_text() != contents:
        if shutil.which("mvn") is None:
            return None, f"no {recipe.name}: no mvn on PATH, which loads its connector"
        try:
            _install(recipe, directory)
        except subprocess.SubprocessError as error:
            said = getattr(error, "output", None) or ""
            return None, f"no {recipe.name}: {error} {said[-500:]}"
        ready.write_text(contents)
    return Engine(directory / "bin" / "python", sorted((directory / "jars").glob("*.jar"))), ""


def _install(recipe: Recipe, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(directory))
    _run(str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", recipe.package)
    group, artifact, version = recipe.connector.split(":")
    (directory / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>ottla</groupId><artifactId>bigdata</artifactId>"
        "<version>1</version><dependencies><dependency>"
        f"<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        "</dependency></dependencies></project>"
    )
    options = [f"-DincludeArtifactIds={','.join(recipe.jars)}", f"-DoutputDirectory={directory / 'jars'}"]
    _run("mvn", "-B", "-q", "-f", str(directory / "pom.xml"), COPY, "-DincludeScope=runtime", *options)


def _run(*command: str) -> None:
    subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=INSTALL_TIMEOUT_S, check=True
    )
