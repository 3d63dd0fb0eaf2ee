"""Connect: Kafka Connect's data model, converters and transforms, byte for byte.

    from ottla.connect import INT64, STRING, JsonConverter, Schema, Struct

    ORDER = Schema.struct({"id": INT64, "note": STRING}, name="order")
    data = JsonConverter().from_connect("orders", ORDER, Struct(ORDER, id=7, note="gift"))

Kafka Connect's model and words. docs/connect.md tells the rest.
"""

from __future__ import annotations

from ottla.connect.config_def import ConfigDef, ConfigError, ConfigKey, ConfigType, Importance, Password
from ottla.connect.connectors import (
    Connector,
    SinkConnector,
    SinkContext,
    SinkTask,
    SourceConnector,
    SourceContext,
    SourceTask,
    Task,
    TransactionContext,
)
from ottla.connect.converters.base import Converter, SchemaAndValue
from ottla.connect.converters.json_converter import JsonConverter
from ottla.connect.converters.simple import (
    BooleanConverter,
    ByteArrayConverter,
    DoubleConverter,
    FloatConverter,
    IntegerConverter,
    LongConverter,
    ShortConverter,
    SimpleHeaderConverter,
    StringConverter,
)
from ottla.connect.decorators import Batch, Row, sink, source
from ottla.connect.errors import ConnectError, DataError, RetriableError, SchemaBuilderError
from ottla.connect.literals import parse_text
from ottla.connect.logical import DATE, TIME, TIMESTAMP, decimal_schema
from ottla.connect.plugins import converter_class, make_predicate, make_transform
from ottla.connect.records import Header, Position, Record, SinkRecord, SourceBatch, SourceRecord
from ottla.connect.schema import (
    BOOLEAN,
    BYTES,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    OPTIONAL_BOOLEAN,
    OPTIONAL_BYTES,
    OPTIONAL_FLOAT32,
    OPTIONAL_FLOAT64,
    OPTIONAL_INT8,
    OPTIONAL_INT16,
    OPTIONAL_INT32,
    OPTIONAL_INT64,
    OPTIONAL_STRING,
    STRING,
    Field,
    Schema,
    Struct,
    Type,
    validate_value,
)
from ottla.connect.transforms.base import Predicate, Transform
from ottla.connect.values import to_text

__all__ = [
    "BOOLEAN",
    "BYTES",
    "DATE",
    "FLOAT32",
    "FLOAT64",
    "INT16",
    "INT32",
    "INT64",
    "INT8",
    "OPTIONAL_BOOLEAN",
    "OPTIONAL_BYTES",
    "OPTIONAL_FLOAT32",
    "OPTIONAL_FLOAT64",
    "OPTIONAL_INT16",
    "OPTIONAL_INT32",
    "OPTIONAL_INT64",
    "OPTIONAL_INT8",
    "OPTIONAL_STRING",
    "STRING",
    "TIME",
    "TIMESTAMP",
    "Batch",
    "BooleanConverter",
    "ByteArrayConverter",
    "ConfigDef",
    "ConfigError",
    "ConfigKey",
    "ConfigType",
    "ConnectError",
    "Connector",
    "Converter",
    "DataError",
    "DoubleConverter",
    "Field",
    "FloatConverter",
    "Header",
    "Importance",
    "IntegerConverter",
    "JsonConverter",
    "LongConverter",
    "Password",
    "Position",
    "Predicate",
    "Record",
    "RetriableError",
    "Row",
    "Schema",
    "SchemaAndValue",
    "SchemaBuilderError",
    "ShortConverter",
    "SimpleHeaderConverter",
    "SinkConnector",
    "SinkContext",
    "SinkRecord",
    "SinkTask",
    "SourceConnector",
    "SourceContext",
    "SourceBatch",
    "SourceRecord",
    "SourceTask",
    "StringConverter",
    "Struct",
    "Task",
    "TransactionContext",
    "Transform",
    "Type",
    "converter_class",
    "decimal_schema",
    "make_predicate",
    "make_transform",
    "parse_text",
    "sink",
    "source",
    "to_text",
    "validate_value",
]
