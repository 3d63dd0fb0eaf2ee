"""A worker with its REST interface."""

from __future__ import annotations

import http.client
import logging
import ssl
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ottla
from ottla.connect.config_def import ConfigError
from ottla.connect.distributed.worker import DistributedWorker, distributed_settings
from ottla.connect.rest.forwarding import INSTANCE, forwarding, instance_at
from ottla.connect.rest.login import EXTENSION, BasicLogin
from ottla.connect.rest.routes import Routes
from ottla.connect.rest.server import RestServer
from ottla.connect.runtime.herder import HerderError
from ottla.connect.runtime.standalone import StandaloneWorker, worker_settings
from ottla.connect.runtime.worker import ConnectWorker
from ottla.connect.settings import client_config
from ottla.errors import KafkaError

log = logging.getLogger(__name__)
_LIMIT_S = 10.0
Users = Callable[[str | None], Mapping[str, str]]


class Served:
    """A worker that answers requests. `run` and `stop` are the worker's.

    Attributes:
        instance: an id that no other worker has.
    """

    worker: ConnectWorker

    def __init__(self, worker: Mapping[str, str], rest: RestServer) -> None:
        self.instance = uuid.uuid4().hex
        self._worker_config = dict(worker)
        self._rest = rest
        self._cluster_lock = threading.Lock()
        self._cluster: str | None = None

    def _routes(self) -> Routes:
        commit = f"ottla-{ottla.__version__}"
        return Routes(self.worker, commit=commit, cluster_id=self._cluster_id, is_ready=self.worker.is_ready)

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


class ServedWorker(Served):
    """Runs connectors, and answers requests about them.

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
        users: Users,
    ) -> None:
        settings = worker_settings(worker)
        super().__init__(worker, RestServer(settings, tls=tls, login=_login(settings, users)))
        try:
            self.worker = StandaloneWorker(worker, connectors, on_event, self._rest.worker_id)
        except BaseException:
            self._rest.close()
            raise
        if not self.urls and not connectors:
            raise ConfigError("There is nothing to do: no connector is given, and without listeners none can be added")

    def run(self) -> int:
        """Run all connectors; return 0 after `stop`, 1 if one was refused, or nothing runs any more and nothing can come."""
        self._rest.start(self._routes().answer)
        try:
            return self.worker.run(goes_on=bool(self.urls))
        finally:
            self._rest.close()


class ServedGroupWorker(Served):
    """Runs its share of a group's connectors, and answers requests about all of them.

    Args:
        tls: makes what an https listener needs.
        users: returns the users of the REST interface with their passwords, given `rest.basic.auth.file`.
        client_tls: makes what is needed to ask other workers by https.

    Raises:
        ConnectError: the configuration is wrong, an address cannot be listened on, or a topic is not what it has to be.
        KafkaError: the cluster does not answer.
    """

    def __init__(
        self,
        worker: Mapping[str, str],
        on_event: Callable[[str, dict[str, Any]], None] = lambda name, event: None,
        *,
        tls: Callable[[], ssl.SSLContext],
        users: Users,
        client_tls: Callable[[], ssl.SSLContext],
    ) -> None:
        settings = distributed_settings(worker)
        super().__init__(worker, RestServer(settings, tls=tls, login=_login(settings, users)))
        self._client_tls = client_tls
        url = self._rest.advertised_url
        try:
            self.worker = DistributedWorker(worker, on_event, worker_id=self._rest.worker_id, url=url)
        except BaseException:
            self._rest.close()
            raise

    def run(self) -> int:
        """Run what the group gives this worker, until `stop`; return 0.

        Raises:
            ConnectError: another worker has this one's address, or why it cannot go on.
        """
        answer = forwarding(self._routes().answer, self._client_tls)
        self._rest.start(answer, {INSTANCE: self.instance})
        try:
            self._check_address()
            return self.worker.run()
        finally:
            self._rest.close()

    def _check_address(self) -> None:
        url = self._rest.advertised_url
        try:
            found = instance_at(url, self._client_tls)
        except (OSError, http.client.HTTPException) as error:
            log.warning(
                "this worker does not reach itself at %s, the address that it gives to others (rest.advertised.host.name, "
                "rest.advertised.port): %s",
                url,
                error,
            )
            return
        if found != self.instance:
            raise ConfigError(
                f"Another worker answers at {url}, the address that this one gives to others: requests would go there. Give "
                "it rest.advertised.host.name and rest.advertised.port of its own."
            )


def _login(settings: Mapping[str, Any], users: Callable[[str | None], Mapping[str, str]]) -> BasicLogin | None:
    extensions = settings["rest.extension.classes"]
    strange = [name for name in extensions if name not in (EXTENSION, EXTENSION.rpartition(".")[2])]
    if strange:
        raise ConfigError.of("rest.extension.classes", strange[0], f"there is only {EXTENSION}")
    return BasicLogin(users(settings["rest.basic.auth.file"])) if extensions else None
