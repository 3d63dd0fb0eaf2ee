"""Requests to a standalone worker, good and bad, in an order that matters: connectors are made, changed and deleted.

`{folder}` stands for a directory of the run. A case with `until` is asked until the connector and its tasks are so.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import quote

FILE = "org.apache.kafka.connect.file."
SMT = "org.apache.kafka.connect.transforms."
CONVERTER = "org.apache.kafka.connect.converters."
VALIDATE = "/connector-plugins/{}/config/validate"


class Case(NamedTuple):
    """One request.

    Attributes:
        body: an object goes as JSON, a text as it is; None: no body.
        until: asked again until the states of the connector and of all tasks are these.
    """

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] | None = None
    until: tuple[str, ...] | None = None

    @property
    def text(self) -> str | None:
        """The body as it is sent."""
        return self.body if self.body is None or isinstance(self.body, str) else json.dumps(self.body)


def source(**more: Any) -> dict[str, Any]:
    return {"connector.class": "FileStreamSource", "topic": "rest-lines", "file": "{folder}/in.txt"} | keys(more)


def sink(**more: Any) -> dict[str, Any]:
    return {"connector.class": "FileStreamSink", "topics": "rest-lines", "file": "{folder}/out.txt"} | keys(more)


def keys(given: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "-").replace("_", "."): value for name, value in given.items()}


def cases() -> list[Case]:
    """Return all requests."""
    return [
        *first_look(),
        *unknown_connectors(),
        *bad_bodies(),
        *plugin_definitions(),
        *validations(),
        *life_of_a_source(),
        *life_of_a_sink(),
        *states(),
        *strange_names(),
        *loggers(),
    ]


def first_look() -> list[Case]:
    return [
        Case("GET", "/"),
        Case("HEAD", "/"),
        Case("GET", "/health"),
        Case("GET", "/connectors"),
        Case("GET", "/connectors/"),
        Case("GET", "/connectors?expand=info"),
        Case("GET", "/connectors?expand=status&expand=info"),
        Case("GET", "/connectors?expand=nothing"),
        Case("GET", "/connector-plugins"),
        Case("GET", "/connector-plugins?connectorsOnly=true"),
        Case("GET", "/connector-plugins?connectorsOnly=false"),
        Case("GET", "/connector-plugins/"),
        Case("OPTIONS", "/connectors"),
        Case("GET", "/nowhere"),
        Case("GET", "/connector"),
        Case("GET", "/connectors/a/b/c/d"),
        Case("GET", "/connectors/none/tasks-config"),
        Case("PUT", "/"),
        Case("DELETE", "/connectors"),
        Case("PUT", "/connectors"),
        Case("PATCH", "/connectors"),
        Case("POST", "/connectors/none"),
        Case("PUT", "/connectors/none"),
        Case("GET", "/connectors/none/pause"),
        Case("GET", "/connectors/none/restart"),
        Case("POST", "/connectors/none/config", {}),
        Case("DELETE", "/connectors/none/config"),
        Case("POST", "/connector-plugins"),
        Case("POST", VALIDATE.format("FileStreamSource"), {}),
        Case("GET", VALIDATE.format("FileStreamSource")),
        Case("POST", "/health"),
        Case("GET", "/connectors", headers={"Accept": "text/html"}),
        Case("GET", "/connectors", headers={"Accept": "application/json;q=0.5, text/plain"}),
        Case("GET", "/connectors", headers={"Accept": "*/*"}),
        Case("POST", "/connectors", {"name": "a", "config": {}}, headers={"Content-Type": "text/plain"}),
        Case("POST", "/connectors", {"name": "a", "config": {}}, headers={"Content-Type": "application/xml"}),
    ]


def unknown_connectors() -> list[Case]:
    pair = {"partition": {"filename": "x"}, "offset": {"position": 1}}
    return [
        Case("GET", "/connectors/none"),
        Case("GET", "/connectors/none/config"),
        Case("GET", "/connectors/none/status"),
        Case("GET", "/connectors/none/tasks"),
        Case("GET", "/connectors/none/tasks/0/status"),
        Case("GET", "/connectors/none/tasks/x/status"),
        Case("GET", "/connectors/none/tasks/-1/status"),
        Case("GET", "/connectors/none/tasks/99999999999/status"),
        Case("GET", "/connectors/none/topics"),
        Case("PUT", "/connectors/none/topics/reset"),
        Case("GET", "/connectors/none/offsets"),
        Case("DELETE", "/connectors/none/offsets"),
        Case("PATCH", "/connectors/none/offsets", {"offsets": [pair]}),
        Case("PATCH", "/connectors/none/offsets", {"offsets": []}),
        Case("PATCH", "/connectors/none/offsets", {}),
        Case("PATCH", "/connectors/none/config", {"a": "b"}),
        Case("PATCH", "/connectors/none/config", {}),
        Case("PUT", "/connectors/none/pause"),
        Case("PUT", "/connectors/none/resume"),
        Case("PUT", "/connectors/none/stop"),
        Case("POST", "/connectors/none/restart"),
        Case("POST", "/connectors/none/restart?includeTasks=true"),
        Case("POST", "/connectors/none/restart?onlyFailed=true"),
        Case("POST", "/connectors/none/restart?includeTasks=true&onlyFailed=true"),
        Case("POST", "/connectors/none/tasks/0/restart"),
        Case("POST", "/connectors/none/tasks/x/restart"),
        Case("DELETE", "/connectors/none"),
        Case("POST", "/connectors/none/tasks", []),
        Case("PUT", "/connectors/none/fence"),
        Case("GET", "/connectors/no%20ne"),
        Case("GET", "/connectors/%C3%BC/status"),
    ]


def bad_bodies() -> list[Case]:
    good = source()
    return [
        Case("POST", "/connectors", text)
        for text in ("", "{}", "[]", "null", "1", '"a"', "{", '{"name":"a",}', "nonsense", '{"name":"a"}')
    ] + [
        Case("POST", "/connectors", {"config": {}}),
        Case("POST", "/connectors", {"name": "a", "config": None}),
        Case("POST", "/connectors", {"name": "a", "config": []}),
        Case("POST", "/connectors", {"name": "a", "config": "text"}),
        Case("POST", "/connectors", {"name": "a", "config": {}}),
        Case("POST", "/connectors", {"name": "a", "config": {"a": {"b": "c"}}}),
        Case("POST", "/connectors", {"name": "a", "config": good, "more": 1}),
        Case("POST", "/connectors", {"name": "a", "config": good, "initial_state": "BAD"}),
        Case("POST", "/connectors", {"name": "a", "config": good | {"name": "b"}}),
        Case("POST", "/connectors", {"name": "a", "config": {"connector.class": "Nope"}}),
        Case("POST", "/connectors", {"name": "a", "config": {"connector.class": ""}}),
        Case("POST", "/connectors", {"name": "a", "config": {"connector.class": "FileStreamSource"}}),
        Case("POST", "/connectors", {"name": "a", "config": {"connector.class": "FileStreamSink"}}),
        Case("POST", "/connectors", {"name": "a", "config": good | {"tasks.max": "0"}}),
        Case("POST", "/connectors", {"name": "a", "config": good | {"tasks.max": "x", "errors.tolerance": "y"}}),
        Case("POST", "/connectors", {"name": "", "config": good}),
        Case("POST", "/connectors", {"name": "  ", "config": good}),
        Case("POST", "/connectors", {"name": "a\nb", "config": good}),
        Case("PUT", "/connectors/a/config", ""),
        Case("PUT", "/connectors/a/config", "[]"),
        Case("PUT", "/connectors/a/config", {}),
        Case("PUT", "/connectors/a/config", {"connector.class": "Nope"}),
        Case("PUT", "/connectors/a/config", {"connector.class": "FileStreamSource"}),
        Case("PUT", "/connectors/a/config", good | {"name": "b"}),
        Case("PATCH", "/connectors/a/config", "[1]"),
        Case("PATCH", "/connectors/a/offsets", ""),
        Case("PATCH", "/connectors/a/offsets", '{"offsets": 1}'),
        Case("PUT", VALIDATE.format("FileStreamSource"), "[]"),
        Case("PUT", VALIDATE.format("FileStreamSource"), "{"),
    ]


def plugin_definitions() -> list[Case]:
    sided = ["Cast", "ExtractField", "Flatten", "HeaderFrom", "HoistField", "InsertField", "MaskField", "ReplaceField"]
    sided += ["SetSchemaMetadata", "TimestampConverter"]
    names = ["FileStreamSource", "FileStreamSink", f"{FILE}FileStreamSourceConnector", "FileStreamSinkConnector"]
    names += [f"{SMT}{name}$Value" for name in sided] + [
        "Cast$Key",
        "ValueToKey",
        "DropHeaders",
        "Filter",
        "InsertHeader",
    ]
    names += ["RegexRouter", "TimestampRouter", "HasHeaderKey", "RecordIsTombstone", "TopicNameMatches"]
    names += ["JsonConverter", "StringConverter", f"{CONVERTER}ByteArrayConverter", f"{CONVERTER}IntegerConverter"]
    names += ["SimpleHeaderConverter", "BooleanConverter", "Nope", "a.b.Nope", "java.lang.String"]
    return [Case("GET", f"/connector-plugins/{quote(name, safe='$')}/config") for name in names]


def validations() -> list[Case]:
    sources: list[dict[str, Any]] = [
        {},
        {"name": ""},
        {"name": None},
        {"topic": ""},
        {"topic": None},
        {"file": None},
        {"batch.size": "0"},
        {"batch.size": "x"},
        {"batch.size": "2147483648"},
        {"batch.size": 7},
        {"tasks.max": "0"},
        {"tasks.max": "-1"},
        {"tasks.max": "1.5"},
        {"tasks.max": ""},
        {"tasks.max": None},
        {"tasks.max": " 2 "},
        {"tasks.max.enforce": "maybe"},
        {"tasks.max.enforce": "FALSE"},
        {"errors.tolerance": "some"},
        {"errors.tolerance": "ALL"},
        {"errors.retry.timeout": "soon"},
        {"errors.retry.timeout": "-1"},
        {"errors.retry.delay.max.ms": "1e3"},
        {"errors.log.enable": "yes"},
        {"errors.log.enable": True},
        {"config.action.reload": "later"},
        {"config.action.reload": "none"},
        {"key.converter": "Nope"},
        {"key.converter": ""},
        {"key.converter": f"{CONVERTER}LongConverter"},
        {"value.converter": "org.apache.kafka.connect.storage.StringConverter"},
        {"value.converter": "JsonConverter"},
        {"value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "x"},
        {"value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.decimal.format": "BAD"},
        {"header.converter": "org.apache.kafka.connect.storage.SimpleHeaderConverter"},
        {"header.converter": "Nope"},
        {"topic.creation.groups": "a,a"},
        {"topic.creation.groups": "a,b"},
        {"exactly.once.support": "REQUIRED "},
        {"exactly.once.support": "never"},
        {"exactly.once.support": "Requested"},
        {"transaction.boundary": "now"},
        {"transaction.boundary.interval.ms": "-5"},
        {"transaction.boundary.interval.ms": "5"},
        {"offsets.storage.topic": ""},
        {"offsets.storage.topic": "mine"},
        {"unknown": "kept"},
        {"unknown": None},
        {"producer.override.acks": "1", "producer.override.linger.ms": "5"},
        {"transforms": "a,a"},
        {"transforms": "a"},
        {"transforms": "a", "transforms.a.type": "Nope"},
        {"transforms": "a", "transforms.a.type": f"{SMT}Filter"},
        {"transforms": "a", "transforms.a.type": f"{SMT}Filter", "transforms.a.negate": "true"},
        {
            "transforms": "a",
            "transforms.a.type": f"{SMT}Filter",
            "transforms.a.negate": "x",
            "transforms.a.predicate": "p",
        },
        {"transforms": "a", "transforms.a.type": f"{SMT}Cast$Value"},
        {"transforms": "a", "transforms.a.type": f"{SMT}Cast$Value", "transforms.a.spec": "int8"},
        {"transforms": "a", "transforms.a.type": "Cast$Key", "transforms.a.spec": "x:int8"},
        {"transforms": "a", "transforms.a.type": f"{SMT}InsertField$Value", "transforms.a.static.field": "f"},
        {"transforms": "a", "transforms.a.type": f"{SMT}HoistField$Key"},
        {"transforms": "a", "transforms.a.type": f"{SMT}ValueToKey", "transforms.a.fields": "a,b"},
        {"transforms": "a", "transforms.a.type": f"{SMT}ValueToKey"},
        {"transforms": "a", "transforms.a.type": f"{SMT}TimestampConverter$Value"},
        {"transforms": "a", "transforms.a.type": f"{SMT}TimestampConverter$Value", "transforms.a.target.type": "moon"},
        {"transforms": "a", "transforms.a.type": f"{SMT}InsertHeader", "transforms.a.header": "h"},
        {"transforms": "a", "transforms.a.type": f"{SMT}HeaderFrom$Value"},
        {"transforms": "a", "transforms.a.type": f"{SMT}MaskField$Value"},
        {"transforms": "a", "transforms.a.type": f"{SMT}ReplaceField$Value", "transforms.a.renames": "a:b,a:c"},
        {
            "transforms": "a",
            "transforms.a.type": f"{SMT}RegexRouter",
            "transforms.a.regex": "x",
            "transforms.a.replacement": "y",
        },
        {"transforms": "a", "transforms.a.type": f"{SMT}predicates.RecordIsTombstone"},
        {"predicates": "p", "predicates.p.type": f"{SMT}predicates.RecordIsTombstone"},
        {"predicates": "p", "predicates.p.type": f"{SMT}predicates.TopicNameMatches"},
        {"predicates": "p", "predicates.p.type": f"{SMT}predicates.HasHeaderKey", "predicates.p.name": "h"},
        {"predicates": "p", "predicates.p.type": f"{SMT}predicates.HasHeaderKey", "predicates.p.name": ""},
        {"predicates": "p"},
        {"predicates": "p,p"},
    ]
    sinks: list[dict[str, Any]] = [
        {},
        {"topics": ""},
        {"topics": None},
        {"topics": "a,a"},
        {"topics": "a,,b"},
        {"topics": "a, b ,c"},
        {"topics.regex": "x.*"},
        {"topics": "", "topics.regex": "x.*"},
        {"topics": "", "topics.regex": " "},
        {"errors.deadletterqueue.topic.name": "dead"},
        {"errors.deadletterqueue.topic.name": "rest-lines"},
        {"topics": "", "topics.regex": "de.*", "errors.deadletterqueue.topic.name": "dead"},
        {"errors.deadletterqueue.topic.replication.factor": "x"},
        {"errors.deadletterqueue.topic.replication.factor": "40000"},
        {"errors.deadletterqueue.context.headers.enable": "on"},
        {"consumer.override.max.poll.records": "7"},
        {"file": None},
        {"tasks.max": "many"},
        {
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "key.converter.converter.encoding": "UTF-8",
        },
    ]
    found = [Case("PUT", VALIDATE.format("FileStreamSource"), source(name="v") | more) for more in sources]
    found += [Case("PUT", VALIDATE.format("FileStreamSink"), sink(name="v") | more) for more in sinks]
    found += [
        Case("PUT", VALIDATE.format("FileStreamSource"), {}),
        Case("PUT", VALIDATE.format("FileStreamSource"), {"connector.class": "FileStreamSink"}),
        Case("PUT", VALIDATE.format("FileStreamSourceConnector"), source(name="v")),
        Case("PUT", VALIDATE.format(f"{FILE}FileStreamSourceConnector"), source(name="v")),
        Case("PUT", VALIDATE.format("Nope"), {"connector.class": "Nope"}),
        Case("PUT", VALIDATE.format("FileStreamSource"), {"connector.class": f"{FILE}FileStreamSourceConnector"}),
        Case("PUT", VALIDATE.format("FileStreamSource"), {"name": "v", "connector.class": "FileStreamSource"}),
    ]
    return found


def life_of_a_source() -> list[Case]:
    name, running, paused = "/connectors/src", ("RUNNING", "RUNNING"), ("PAUSED", "PAUSED")
    file = {"filename": "{folder}/in.txt"}

    def alter(*pairs: tuple[Any, Any]) -> Case:
        rows = [{"partition": partition, "offset": offset} for partition, offset in pairs]
        return Case("PATCH", f"{name}/offsets", {"offsets": rows})

    return [
        Case("POST", "/connectors", {"name": "src", "config": source(tasks_max=3)}),
        Case("GET", f"{name}/status", until=running),
        Case("POST", "/connectors", {"name": "src", "config": source()}),
        Case("GET", name),
        Case("HEAD", name),
        Case("GET", f"{name}/"),
        Case("GET", f"{name}/config"),
        Case("GET", f"{name}/tasks"),
        Case("GET", f"{name}/tasks/0/status"),
        Case("GET", f"{name}/tasks/1/status"),
        Case("GET", f"{name}/topics"),
        Case("GET", "/connectors"),
        Case("GET", "/connectors?expand=info"),
        Case("GET", "/connectors?expand=status"),
        Case("GET", "/connectors?expand=info&expand=status&expand=more"),
        alter((file, {"position": 0})),
        Case("DELETE", f"{name}/offsets"),
        Case("PATCH", f"{name}/config", {"tasks.max": "2", "zzz": "1"}),
        Case("PATCH", f"{name}/config", {"zzz": None}),
        Case("PATCH", f"{name}/config", {"tasks.max": "0"}),
        Case("PATCH", f"{name}/config", {"topic": None}),
        Case("PATCH", f"{name}/config", {"connector.class": "Nope"}),
        Case("PUT", f"{name}/config", source(topic="other")),
        Case("GET", f"{name}/status", until=running),
        Case("GET", f"{name}/tasks"),
        Case("PUT", f"{name}/config", source(topic="other")),
        Case("PUT", f"{name}/config", source(tasks_max="none")),
        Case("GET", f"{name}/config"),
        Case("PUT", f"{name}/pause"),
        Case("GET", f"{name}/status", until=paused),
        Case("PUT", f"{name}/pause"),
        Case("POST", f"{name}/restart?includeTasks=true&onlyFailed=true"),
        Case("PUT", f"{name}/resume"),
        Case("GET", f"{name}/status", until=running),
        Case("PUT", f"{name}/resume"),
        Case("POST", f"{name}/restart"),
        Case("GET", f"{name}/status", until=running),
        Case("POST", f"{name}/restart?includeTasks=false"),
        Case("GET", f"{name}/status", until=running),
        Case("POST", f"{name}/restart?includeTasks=true"),
        Case("GET", f"{name}/status", until=running),
        Case("POST", f"{name}/tasks/0/restart"),
        Case("GET", f"{name}/status", until=running),
        Case("PUT", f"{name}/stop"),
        Case("GET", f"{name}/status", until=("STOPPED",)),
        Case("PUT", f"{name}/stop"),
        Case("GET", f"{name}/tasks"),
        Case("GET", name),
        Case("GET", f"{name}/offsets"),
        alter((file, {"position": 0})),
        Case("GET", f"{name}/offsets"),
        alter((file, {"position": 1}), ({"filename": "other"}, {"position": 2})),
        alter(({"filename": "other"}, None)),
        Case("GET", f"{name}/offsets"),
        alter(({"x": "y"}, {"position": 0})),
        alter((file, {"position": -1})),
        alter((file, {"place": 1})),
        alter((file, {"position": "1"})),
        alter((file, {"position": 1.5})),
        alter((file, None)),
        Case("GET", f"{name}/offsets"),
        Case("DELETE", f"{name}/offsets"),
        Case("DELETE", f"{name}/offsets"),
        Case("GET", f"{name}/offsets"),
        Case("PUT", f"{name}/topics/reset"),
        Case("GET", f"{name}/topics"),
        Case("PUT", f"{name}/resume"),
        Case("GET", f"{name}/status", until=running),
        Case("DELETE", name),
        Case("GET", name),
        Case("GET", f"{name}/status"),
        Case("GET", f"{name}/topics"),
        Case("DELETE", name),
        Case("PUT", f"{name}/config", source()),
        Case("GET", f"{name}/status", until=running),
        Case("DELETE", name),
    ]


def life_of_a_sink() -> list[Case]:
    name, place = "/connectors/snk", {"kafka_topic": "rest-lines", "kafka_partition": 0}

    def alter(*pairs: tuple[Any, Any]) -> Case:
        rows = [{"partition": partition, "offset": offset} for partition, offset in pairs]
        return Case("PATCH", f"{name}/offsets", {"offsets": rows})

    return [
        Case("POST", "/connectors", {"name": "snk", "config": sink(), "initial_state": "STOPPED"}),
        Case("GET", f"{name}/status", until=("STOPPED",)),
        Case("GET", name),
        Case("GET", f"{name}/tasks"),
        Case("GET", f"{name}/offsets"),
        alter((place, {"kafka_offset": 3})),
        Case("GET", f"{name}/offsets"),
        alter((place | {"kafka_partition": "0"}, {"kafka_offset": "4"})),
        Case("GET", f"{name}/offsets"),
        alter(({}, {"kafka_offset": 3})),
        alter((None, {"kafka_offset": 3})),
        alter((place, {})),
        alter((place | {"kafka_partition": "x"}, {"kafka_offset": 3})),
        alter((place | {"kafka_partition": None}, {"kafka_offset": 3})),
        alter((place | {"kafka_topic": None}, {"kafka_offset": 3})),
        alter((place, {"kafka_offset": "x"})),
        alter(({"kafka_topic": "rest-lines"}, {"kafka_offset": 3})),
        Case("DELETE", f"{name}/offsets"),
        Case("GET", f"{name}/offsets"),
        Case("DELETE", f"{name}/offsets"),
        Case("PUT", f"{name}/resume"),
        Case("GET", f"{name}/status", until=("RUNNING", "RUNNING")),
        Case("GET", f"{name}/tasks"),
        Case("PUT", f"{name}/config", sink(tasks_max=2)),
        Case("GET", f"{name}/status", until=("RUNNING", "RUNNING", "RUNNING")),
        Case("GET", f"{name}/tasks/1/status"),
        Case("DELETE", name),
        Case("GET", f"{name}/offsets"),
    ]


def states() -> list[Case]:
    """Connectors that begin paused or stopped, and one whose task fails."""
    return [
        Case("POST", "/connectors", {"name": "later", "config": source(), "initial_state": "PAUSED"}),
        Case("GET", "/connectors/later/status", until=("PAUSED",)),
        Case("PUT", "/connectors/later/resume"),
        Case("GET", "/connectors/later/status", until=("RUNNING", "RUNNING")),
        Case("DELETE", "/connectors/later"),
        Case("POST", "/connectors", {"name": "bad", "config": sink(file="{folder}/no/such/folder/out.txt")}),
        Case("GET", "/connectors/bad/status", until=("RUNNING", "FAILED")),
        Case("GET", "/connectors/bad/tasks/0/status"),
        Case("POST", "/connectors/bad/restart?onlyFailed=true"),
        Case("POST", "/connectors/bad/restart?onlyFailed=true&includeTasks=true"),
        Case("GET", "/connectors/bad/status", until=("RUNNING", "FAILED")),
        Case("PUT", "/connectors/bad/pause"),
        Case("PUT", "/connectors/bad/resume"),
        Case("GET", "/connectors/bad/status", until=("RUNNING", "FAILED")),
        Case("PUT", "/connectors/bad/stop"),
        Case("GET", "/connectors/bad/status", until=("STOPPED",)),
        Case("DELETE", "/connectors/bad"),
        Case("GET", "/connectors"),
    ]


def strange_names() -> list[Case]:
    found = []
    for name in ("with space", "ünï", "a.b-c_d", "100%", "q?x"):
        place = f"/connectors/{quote(name, safe='')}"
        found += [
            Case("POST", "/connectors", {"name": f" {name} ", "config": source(), "initial_state": "STOPPED"}),
            Case("GET", f"{place}/config"),
            Case("DELETE", place),
        ]
    return found


def loggers() -> list[Case]:
    return [
        Case("GET", "/admin/loggers/nope.nope"),
        Case("PUT", "/admin/loggers/parity.own", {"level": "DEBUG"}),
        Case("GET", "/admin/loggers/parity.own"),
        Case("PUT", "/admin/loggers/parity.own", {"level": "info"}),
        Case("GET", "/admin/loggers/parity.own"),
        Case("PUT", "/admin/loggers/parity.own", {"level": "TRACE"}),
        Case("PUT", "/admin/loggers/parity.own", {"level": "LOUD"}),
        Case("PUT", "/admin/loggers/parity.own", {}),
        Case("PUT", "/admin/loggers/parity.own", ""),
        Case("PUT", "/admin/loggers/parity.own?scope=cluster", {"level": "WARN"}),
        Case("GET", "/admin/loggers/parity.own"),
        Case("PUT", "/admin/loggers/parity.own?scope=galaxy", {"level": "ERROR"}),
        Case("POST", "/admin/loggers/parity.own", {"level": "ERROR"}),
        Case("GET", "/admin/loggers/"),
        Case("DELETE", "/admin/loggers"),
    ]
