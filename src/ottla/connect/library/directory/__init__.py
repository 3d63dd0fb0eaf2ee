"""The connector to a folder of files."""

from __future__ import annotations

from ottla.connect.library.directory.source import DirectorySourceConnector

__all__ = ["DirectorySourceConnector"]
