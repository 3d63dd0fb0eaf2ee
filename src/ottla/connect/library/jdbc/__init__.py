"""JdbcSinkConnector and JdbcSourceConnector: tables of PostgreSQL, MariaDB, MySQL and SQLite, by SQLAlchemy.

The keys are those of the JDBC connectors that people know. `plan.py` decides which rows a batch leaves and which columns a
table lacks, `pages.py` which rows come next; neither knows a database. `sink.py` and `source.py` are the shells.
"""

from ottla.connect.library.jdbc.sink import JdbcSinkConnector
from ottla.connect.library.jdbc.source import JdbcSourceConnector

__all__ = ["JdbcSinkConnector", "JdbcSourceConnector"]
