"""FilesSinkConnector: records of topics as files, in a folder, HDFS or an object store.

`plan.py` decides which records make a file, and which intent makes it exactly once; `rows.py` makes bytes of them;
`stores.py` and `webhdfs.py` keep them; `sink.py` is the shell.
"""

from ottla.connect.library.files.sink import FilesSinkConnector

__all__ = ["FilesSinkConnector"]
