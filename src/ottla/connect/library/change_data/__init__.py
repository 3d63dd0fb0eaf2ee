"""PostgresConnector: changes of PostgreSQL's tables into topics, by logical replication, in Debezium's envelope.

`pgoutput.py` reads the protocol, `columns.py` makes schemas and values, `envelope.py` records, `places.py` decides where
reading may go on; none of them knows a connection. `server.py`, `stream.py` and `source.py` are the shells.
"""

from ottla.connect.library.change_data.source import PostgresConnector

__all__ = ["PostgresConnector"]
