"""Connectors to HTTP servers."""

from __future__ import annotations

from ottla.connect.library.http.sink import HttpSinkConnector

__all__ = ["HttpSinkConnector"]
