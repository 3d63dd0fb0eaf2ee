"""Ways to a database: addresses as JDBC has them, engines, and which errors may be gone next time."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from ottla.connect.config_def import NOT_EMPTY, ConfigError, ConfigKey, ConfigType, Importance, Password

#: What a name in an address means here: SQLAlchemy's dialect and driver.
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "sqlite": "sqlite",
}
#: SQLSTATE classes of PostgreSQL that end by themselves: no connection, conflicts, no resources, shutting down.
_PASSING = ("08", "40", "53", "55P03", "57P", "58030")
#: MySQL and MariaDB: lock wait timeout, deadlock, too many connections, shutting down.
_PASSING_MYSQL = (1040, 1053, 1205, 1213, 1927)

KEYS = (
    ConfigKey(
        name="connection.url",
        validator=NOT_EMPTY,
        importance=Importance.HIGH,
        documentation="jdbc:postgresql://host:5432/shop, jdbc:mariadb://host/shop, jdbc:mysql://host/shop, "
        "jdbc:sqlite:/path/shop.db; without jdbc: it is an address of SQLAlchemy's.",
    ),
    ConfigKey(name="connection.user", default=None, importance=Importance.HIGH, documentation="The user."),
    ConfigKey(
        name="connection.password",
        type=ConfigType.PASSWORD,
        default=None,
        importance=Importance.HIGH,
        documentation="The user's password.",
    ),
)


def url_of(text: str, user: str | None, password: Password | None) -> URL:
    """Return an address as SQLAlchemy takes it.

    Raises:
        ConfigError: there is no driver for it. The message does not show the address: it may hold a password.
    """
    path = re.fullmatch(r"jdbc:sqlite:(.*)", text)
    try:
        url = URL.create("sqlite", database=path[1]) if path else make_url(text.removeprefix("jdbc:"))
    except ArgumentError:
        raise ConfigError("connection.url is no address such as jdbc:postgresql://host:5432/database") from None
    if "+" not in url.drivername:
        if url.drivername not in _DRIVERS:
            known = ", ".join(sorted(_DRIVERS))
            raise ConfigError(f"connection.url names the database {url.drivername}; there are {known}")
        url = url.set(drivername=_DRIVERS[url.drivername])
    given = {name: str(url.query[name]) for name in ("user", "password") if name in url.query}
    return url.difference_update_query(given).set(
        username=user or given.get("user") or url.username,
        password=password.value if password is not None else given.get("password") or url.password,
    )


def open_engine(text: str, user: str | None, password: Password | None) -> Engine:
    """Return an engine; it connects when it is used.

    Raises:
        ConfigError: the address is wrong, or the driver is not installed.
    """
    url = url_of(text, user, password)
    try:
        engine = create_engine(url, pool_size=2)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigError(f"{error}: pip install 'ottla[sql]' brings drivers") from error
    if engine.dialect.name == "sqlite":
        # Python's own handling of transactions commits behind the back of savepoints (SQLAlchemy's page on pysqlite).
        @event.listens_for(engine, "connect")
        def on_connect(connection: Any, _: object) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA busy_timeout = 10000")

        @event.listens_for(engine, "begin")
        def on_begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    if engine.dialect.name == "postgresql":

        @event.listens_for(engine, "connect")
        def on_postgres_connect(connection: Any, _: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET TIME ZONE 'UTC'")
            connection.commit()

    if engine.dialect.name in ("mysql", "mariadb"):

        @event.listens_for(engine, "connect")
        def on_mysql_connect(connection: Any, _: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET time_zone = '+00:00'")

    return engine


def may_pass(error: BaseException) -> bool:
    """Whether what a database said may be gone next time: no connection, a lock, a conflict."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state:
        return str(state).startswith(_PASSING)
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    arguments = getattr(error.orig, "args", ())
    if arguments and isinstance(arguments[0], int):  # PyMySQL; from 2000 on: the client's errors, about connections
        return arguments[0] in _PASSING_MYSQL or arguments[0] >= 2000
    told = str(error.orig)
    if "sqlite3" in type(error.orig).__module__:
        return "locked" in told or "disk I/O" in told or "full" in told
    return True  # psycopg's errors of connections have no state


def told(error: BaseException) -> str:
    """Return what a database said, without the statement and its values: these may be secret."""
    return str(error.orig).strip() if isinstance(error, DBAPIError) else str(error)
