"""FilesSinkConnector: records of topics as files, in a folder or an object store.

`plan.py` decides which records make a file, and which intent makes it exactly once; `rows.py` makes bytes of them; `sink.py`
is the shell on a store.
"""

from ottla.connect.library.files.sink import FilesSinkConnector

__all__ = ["FilesSinkConnector"]
