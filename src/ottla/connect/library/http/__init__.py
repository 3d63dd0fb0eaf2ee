"""Connectors to HTTP servers."""

from __future__ import annotations

from ottla.connect.library.http.sink import HttpSinkConnector
from ottla.connect.library.http.source import HttpSourceConnector

__all__ = ["HttpSinkConnector", "HttpSourceConnector"]
