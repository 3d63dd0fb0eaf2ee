"""A standalone worker with its REST interface."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ottla
from ottla.connect.config_def import ConfigError
from ottla.connect.rest.login import EXTENSION, BasicLogin
from ottla.connect.rest.routes import Routes
from ottla.connect.rest.server import RestServer
from ottla.connect.runtime.herder import HerderError
from ottla.connect.runtime.standalone import StandaloneWorker, worker_settings
from ottla.connect.settings import client_config
from ottla.errors import KafkaError

_LIMIT_S = 10.0


class ServedWorker:
    """Runs connectors, and answers requests about them. `run` and `stop` are the worker's.

    Args:
        tls: makes what an https listener needs.
        users: returns the users of the REST interface with their passwords, given `rest.basic.auth.file`.

    Raises:
        ConnectError: the configuration is wrong, or an address cannot be listened on.
    """

    def __init__(
        self,
        worker: Mapping[str, str],
        connectors: Sequence[Mapping[str, str]],
        on_event: Callable[[str, dict[str, Any]], None] = lambda name, event: None,
        *,
        tls: Callable[[], ssl.SSLContext],
        users: Callable[[str | None], Mapping[str, str]],
    ) -> None:
        settings = worker_settings(worker)
        self._worker_config = dict(worker)
        self._rest = RestServer(settings, tls=tls, login=_login(settings, users))
        try:
            self.worker = StandaloneWorker(worker, connectors, on_event, self._rest.worker_id)
        except BaseException:
            self._rest.close()
            raise
        if not self.urls and not connectors:
            raise ConfigError("There is nothing to do: no connector is given, and without listeners none can be added")
        self._cluster_lock = threading.Lock()
        self._cluster: str | None = None
        commit = f"ottla-{ottla.__version__}"
        self._routes = Routes(self.worker, commit=commit, cluster_id=self._cluster_id, is_ready=self.worker.is_ready)

    @property
    def urls(self) -> Sequence[str]:
        """Where the REST interface is."""
        return self._rest.urls

    @property
    def is_open(self) -> bool:
        """Whether other machines may ask there without a login."""
        return self._rest.is_open

    def stop(self) -> None:
        """Have `run` end."""
        self.worker.stop()

    def run(self) -> int:
        """Run all connectors; return 0 after `stop`, 1 if one was refused, or nothing runs any more and nothing can come."""
        self._rest.start(self._routes.answer)
        try:
            return self.worker.run(goes_on=bool(self.urls))
        finally:
            self._rest.close()

    def _cluster_id(self) -> str:
        with self._cluster_lock:
            if self._cluster is None:
                servers = self._worker_config.get("bootstrap.servers", "localhost:9092")
                try:
                    with ottla.Admin(servers, config=client_config(self._worker_config, "admin")) as admin:
                        self._cluster = admin.describe_cluster(timeout=_LIMIT_S).cluster_id
                except KafkaError as error:
                    raise HerderError(500, f"The cluster at {servers} does not answer: {error}") from error
            return self._cluster


def _login(settings: Mapping[str, Any], users: Callable[[str | None], Mapping[str, str]]) -> BasicLogin | None:
    extensions = settings["rest.extension.classes"]
    strange = [name for name in extensions if name not in (EXTENSION, EXTENSION.rpartition(".")[2])]
    if strange:
        raise ConfigError.of("rest.extension.classes", strange[0], f"there is only {EXTENSION}")
    return BasicLogin(users(settings["rest.basic.auth.file"])) if extensions else None
