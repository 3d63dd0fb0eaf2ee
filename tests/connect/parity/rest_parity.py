"""Puts the requests of `rest_cases.py` to a worker, and compares answers with those of Apache Kafka's standalone worker.

`python -m tests.connect.parity.rest_parity` writes Java's answers anew (rest_answers.jsonl.xz): it needs a JDK and
Kafka's jars (OTTLA_KAFKA_HOME, or Maven). Documentation, which is prose, and traces are left out.
"""

from __future__ import annotations

import http.client
import json
import lzma
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from tests.connect.parity.oracle import find_jars
from tests.connect.parity.rest_cases import Case, cases
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

import ottla

ANSWERS = Path(__file__).with_name("rest_answers.jsonl.xz")
VERSION = "4.3.1"
_LIMIT_S = 60.0


class Answer(NamedTuple):
    """What came back. `place` is the path of Location, `allow` the methods of Allow."""

    status: int
    body: Any
    place: str | None = None
    allow: list[str] | None = None


def ask(url: str, folder: Path, case: Case) -> Answer:
    """Put one request, until the answer is what the case waits for."""
    deadline = time.monotonic() + _LIMIT_S
    while True:
        answer = _ask(url, folder, case)
        if case.until is None or _states(answer.body) == list(case.until):
            return answer
        assert time.monotonic() < deadline, f"{case} did not come about: {answer}"
        time.sleep(0.1)


def _states(status: Any) -> list[str]:
    if not isinstance(status, dict) or "connector" not in status:
        return []
    return [status["connector"]["state"], *(task["state"] for task in status["tasks"])]


def _ask(url: str, folder: Path, case: Case) -> Answer:
    parts = urlsplit(url)
    assert parts.hostname is not None
    text = None if case.text is None else case.text.replace("{folder}", str(folder))
    headers = {"Accept": "*/*"} | ({} if text is None else {"Content-Type": "application/json"}) | (case.headers or {})
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
    try:
        connection.request(case.method, case.path, body=None if text is None else text.encode(), headers=headers)
        response = connection.getresponse()
        data = response.read().decode()
    finally:
        connection.close()
    if "json" in (response.getheader("Content-Type") or "") or data.startswith("{"):
        body = json.loads(data) if data else ""
    else:
        body = "<html>" if data.startswith("<html>") else data
    if case.method == "OPTIONS":
        body = sorted(name.strip() for name in data.split(","))
    place, allow = response.getheader("Location"), response.getheader("Allow")
    return Answer(
        response.status,
        _plain(body, str(folder), f"{parts.hostname}:{parts.port}"),
        None if place is None else quote(urlsplit(place).path, safe="/%"),
        None if allow is None else sorted(name.strip() for name in allow.split(",")),
    )


def _plain(body: Any, folder: str, worker: str) -> Any:
    """Return a body without what is different each time."""
    match body:
        case dict():
            found = {name: _plain(value, folder, worker) for name, value in body.items() if name != "documentation"}
            for name in ("trace", "commit", "kafka_cluster_id", "task.class"):
                if found.get(name) is not None:
                    found[name] = f"<{name}>"
            if "configs" in found and "groups" in found:  # Java has them in the order of its HashMaps
                found["configs"].sort(key=lambda row: row["value"]["name"])
                found["groups"].sort()
            if found.get("last_modified") is not None:
                found["last_modified"] = "<time>"
            return found
        case list():
            return [_plain(value, folder, worker) for value in body]
        case str():
            text = body.replace(folder, "{folder}").replace(worker, "<worker>")
            text = re.sub(r"column: [0-9]+", "column: N", text)  # it depends on the length of the folder's name
            return VERSION if text == ottla.__version__ else text
    return body


# What is different on purpose

Rule = Callable[[Case, Answer, Answer], bool]


def _message(answer: Answer) -> str:
    return str(answer.body.get("message", "")) if isinstance(answer.body, dict) else ""


def _is_bad_body(case: Case, java: Answer, ours: Answer) -> bool:
    marks = ("at [Source: REDACTED", "Cannot invoke ", "Cannot deserialize", "Cannot construct", "No content to map")
    return java.status == 500 and ours.status == 400 and any(mark in _message(java) for mark in marks)


def _is_unknown(case: Case, java: Answer, ours: Answer) -> bool:
    marks = ("Cannot invoke ", "No connector `", "not a recognizable type")
    return java.status == 500 and ours.status == 404 and any(mark in _message(java) for mark in marks)


def _is_listing(case: Case, java: Answer, ours: Answer) -> bool:
    one, other = (_message(answer).partition("available connectors are") for answer in (java, ours))
    return bool(one[1]) and other[1] == one[1] and one[0].endswith(other[0]) and ours.status == 400


def _shows_configuration(case: Case, java: Answer, ours: Answer) -> bool:
    mark = "contains no connector type"
    return (
        java.status in (400, 500)
        and ours.status == 400
        and _message(java).endswith(mark)
        and _message(ours).endswith(mark)
    )


def _is_plugins(case: Case, java: Answer, ours: Answer) -> bool:
    if not case.path.startswith("/connector-plugins") or not isinstance(java.body, list) or "/config" in case.path:
        return False
    return (
        java.body == [row for row in ours.body if row["class"].startswith("org.apache.")] and java.status == ours.status
    )


def _is_more_lenient(case: Case, java: Answer, ours: Answer) -> bool:
    """Java knows neither `Cast$Key` nor names with a percent sign in an address."""
    return ("Cast$Key" in f"{case.path} {case.text}" or "%25" in case.path) and ours.status in (200, 204)


def _is_null(case: Case, java: Answer, ours: Answer) -> bool:
    return java.status == ours.status and _without_errors(java, "") == _without_errors(
        ours, "Null value can not be supplied as the configuration value."
    )


def _is_null_pattern(case: Case, java: Answer, ours: Answer) -> bool:
    mark = 'because "this.pattern" is null'
    return _has_error(java, mark) and _without_errors(java, mark) == _without_errors(ours, "")


def _has_error(answer: Answer, mark: str) -> bool:
    rows = answer.body.get("configs", ()) if isinstance(answer.body, dict) else ()
    return any(error.endswith(mark) for row in rows for error in row["value"]["errors"])


def _without_errors(answer: Answer, mark: str) -> Any:
    """Return an answer of a validation without errors that end in a text, and without their number."""
    if not isinstance(answer.body, dict) or "configs" not in answer.body:
        return mark  # no validation: equal to nothing
    found = json.loads(json.dumps(answer.body))
    for row in found["configs"]:
        errors = row["value"]["errors"]
        row["value"]["errors"] = [error for error in errors if not mark or not error.endswith(mark)]
    del found["error_count"]
    return found


def _is_client(case: Case, java: Answer, ours: Answer) -> bool:
    if ".override." not in (case.text or "") or java.status != ours.status:
        return False
    found = json.loads(json.dumps(java.body))
    for row in found["configs"]:
        if ".override." in row["value"]["name"]:
            row["definition"] = None
    return bool(found == ours.body)


def _is_loggers(case: Case, java: Answer, ours: Answer) -> bool:
    if case.path.rstrip("/") != "/admin/loggers" or case.method != "GET":
        return False
    return bool(java.body["parity.own"] == ours.body["parity.own"])


def _is_no_plugin(case: Case, java: Answer, ours: Answer) -> bool:
    return "java.lang" in case.path and java.status == 500 and ours.status == 404


EXPLANATIONS: dict[str, Rule] = {
    "a body that is wrong: Java's parser has it answer 500, ottla answers 400": _is_bad_body,
    "a connector or a body that is not there: Java answers 500 for its own NullPointerException, ottla 404": _is_unknown,
    "which connectors there are, in a message: each worker's own; Java wraps it, in a validation as 500": _is_listing,
    "Java's message shows the values of a configuration, ottla's its keys": _shows_configuration,
    "ottla has more connectors, its own": _is_plugins,
    "what Java does not take: short names of transforms, names of connectors with %": _is_more_lenient,
    "a key of the connector itself that is null: Java finds nothing wrong, and fails later": _is_null,
    "a pattern that is missing: Java adds the text of a NullPointerException": _is_null_pattern,
    "definitions of clients' settings: ottla gives none": _is_client,
    "names of loggers are each worker's": _is_loggers,
    "a class of Java's that is no plugin": _is_no_plugin,
}


def compare(case: Case, java: Answer, ours: Answer) -> tuple[bool, str]:
    """Return whether answers are equal or explained, and which explanation it is, or what is different."""
    if java == ours:
        return True, ""
    for sentence, holds in EXPLANATIONS.items():
        if holds(case, java, ours):
            return True, sentence
    return False, f"{case.method} {case.path} {case.text}:\n  Java:  {java}\n  ottla: {ours}"


# Java


def kept_answers() -> list[Answer]:
    """Return Java's answers as they were written down, one for each case."""
    lines = lzma.decompress(ANSWERS.read_bytes()).decode().splitlines()
    answers = [Answer(*json.loads(line)) for line in lines]
    return [answer._replace(body=_plain(answer.body, "\0", "\0")) for answer in answers]


@contextmanager
def java_standalone(folder: Path, servers: str) -> Iterator[str]:
    """Run Apache Kafka's standalone worker; yields its address."""
    port = free_port()
    settings = {
        "bootstrap.servers": servers,
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "offset.storage.file.filename": str(folder / "java.offsets"),
        "offset.flush.interval.ms": "500",
        "listeners": f"http://127.0.0.1:{port}",
    }
    path = folder / "java.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    command = [
        "java",
        "-Xmx256m",
        "-cp",
        find_jars(folder / "jars"),
        "org.apache.kafka.connect.cli.ConnectStandalone",
        str(path),
    ]
    with (folder / "java.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until_it_answers(f"http://127.0.0.1:{port}", folder)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until_it_answers(url: str, folder: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            if ask(url, folder, Case("GET", "/health")).status == 200:
                return
        except (OSError, ValueError):
            pass
        assert time.monotonic() < deadline, "the worker does not answer"
        time.sleep(0.3)


def prepare(folder: Path, servers: str) -> None:
    """Make what the requests are about."""
    (folder / "in.txt").write_text("")
    with ottla.Admin(servers) as admin:
        if "rest-lines" not in {topic.name for topic in admin.list_topics()}:
            admin.create_topics([ottla.NewTopic(name="rest-lines", partitions=1, replication_factor=1)])


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    broker = BrokerProcess({"group.initial.rebalance.delay.ms": "0"})
    try:
        broker.start(timeout_s=120)
        prepare(folder, broker.address)
        with java_standalone(folder, broker.address) as url:
            answers = [ask(url, folder, case) for case in cases()]
    finally:
        broker.close()
    lines = [json.dumps(answer, separators=(",", ":"), ensure_ascii=False) for answer in answers]
    ANSWERS.write_bytes(lzma.compress("\n".join(lines).encode()))
    print(f"{len(answers)} answers, {ANSWERS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
