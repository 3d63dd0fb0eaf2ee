"""What goes wrong in Connect, under Kafka's names."""

from __future__ import annotations


class ConnectError(Exception):
    """A connector, a converter or a transform cannot go on. The base class of all below (Java: `ConnectException`)."""


class DataError(ConnectError):
    """A record does not fit: its value and its schema, or bytes that do not convert (Java: `DataException`).

    With `errors.tolerance=all` such a record is dropped, or goes to the dead letters.
    """


class SchemaBuilderError(DataError):
    """A schema cannot be made as it is asked for (Java: `SchemaBuilderException`)."""


class RetriableError(ConnectError):
    """It may work next time: the same records are given to the task again (Java: `RetriableException`)."""
