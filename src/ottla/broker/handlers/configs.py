"""Configurations: DescribeConfigs (key 32, versions 1-4), AlterConfigs (33, 0-2), IncrementalAlterConfigs (44, 0-1),
ListConfigResources (74, 0-1).

DescribeConfigs v1: sources and synonyms instead of is_default (KIP-226). v3: types and documentation (KIP-569).
AlterConfigs replaces everything that was set; IncrementalAlterConfigs sets, deletes, appends, subtracts (KIP-339).
ListConfigResources v0 lists client metrics only; v1 any type (KIP-1142).
Resource types: topic 2, broker 4 ("" is the default of all), broker logger 8, client metrics 16, group 32.

Where we differ from Apache Kafka: documentation is in our own words; `listeners` cannot be changed on a running broker.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from ottla.broker.context import Route
from ottla.broker.handlers.config_entries import (
    ConfigEntry,
    broker_default_entries,
    broker_entries,
    client_metrics_entries,
    group_entries,
    topic_entries,
)
from ottla.cluster.decisions.configs import Alteration, check_request
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.topic_names import why_invalid
from ottla.cluster.image import BROKERS, CLIENT_METRICS, DEFAULT_ENTITY, GROUPS, TOPICS, ConfigResource
from ottla.config.effective import Source
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import alter_configs, incremental_alter_configs, list_config_resources
from ottla.protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ottla.broker.context import RequestContext, Routes
    from ottla.cluster.controller import Controller
    from ottla.cluster.image import ClusterImage

TOPIC = 2
BROKER = 4
BROKER_LOGGER = 8
CLIENT_METRICS_TYPE = 16
GROUP = 32

_KINDS = {TOPIC: TOPICS, BROKER: BROKERS, CLIENT_METRICS_TYPE: CLIENT_METRICS, GROUP: GROUPS}
#: The order in which ListConfigResources lists.
_LISTED_TYPES = (GROUP, CLIENT_METRICS_TYPE, BROKER_LOGGER, BROKER, TOPIC)

_MALFORMED = (
    "This most likely occurs because of a request being malformed by the client library or the message was sent to an "
    "incompatible broker. See the broker logs for more details."
)


class LoggerLevels(Protocol):
    """The levels of this process's loggers, in Kafka's words (TRACE, DEBUG, INFO, WARN, ERROR, FATAL)."""

    def levels(self) -> Mapping[str, str]:
        """Return the effective level of every logger, `root` among them."""
        ...

    def alter(self, alterations: Sequence[Alteration], *, validate_only: bool) -> Refusal | None:
        """Set or remove levels. Returns None if it was done."""
        ...


class ConfigHandlers:
    """Shows configurations, and changes them through the controller."""

    def __init__(
        self, image: Callable[[], ClusterImage], controller: Controller, loggers: LoggerLevels, *, node_id: int
    ) -> None:
        self._image = image
        self._controller = controller
        self._loggers = loggers
        self._node_id = node_id

    def routes(self) -> Routes:
        return {
            ApiKey.DESCRIBE_CONFIGS: Route(self.handle_describe_configs),
            ApiKey.ALTER_CONFIGS: Route(self.handle_alter_configs),
            ApiKey.INCREMENTAL_ALTER_CONFIGS: Route(self.handle_incremental_alter_configs),
            ApiKey.LIST_CONFIG_RESOURCES: Route(self.handle_list_config_resources),
        }

    def handle_describe_configs(
        self, context: RequestContext, request: DescribeConfigsRequest
    ) -> DescribeConfigsResponse:
        if any(r.resource_type not in (*_KINDS, BROKER_LOGGER) for r in request.resources):
            # Kafka finds this while it authorizes, before it looks at any resource: all get the same answer.
            return DescribeConfigsResponse(
                results=[
                    _described(r, Refusal(ErrorCode.INVALID_REQUEST, _MALFORMED), request) for r in request.resources
                ]
            )
        return DescribeConfigsResponse(
            results=[_described(resource, self._entries(resource), request) for resource in request.resources]
        )

    def _entries(self, resource: DescribeConfigsResource) -> list[ConfigEntry] | Refusal:
        kind, name = resource.resource_type, resource.resource_name
        # An empty list of keys means all of them, as null does.
        names = resource.configuration_keys or None
        image, levels = self._image(), self._controller.levels
        if kind == TOPIC:
            invalid = why_invalid(name)
            if invalid is not None:
                return Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, invalid)
            if name not in image.topics:
                return Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "")
            return topic_entries(image.topic_config(name), levels, names)
        if kind == BROKER:
            if not name:
                return broker_default_entries(levels, names)
            refusal = self._check_node(name, "Broker id", f"expected {self._node_id} or empty string, but received")
            return refusal or broker_entries(levels, names)
        if kind == BROKER_LOGGER:
            if not name:
                return Refusal(ErrorCode.INVALID_REQUEST, "Broker id must not be empty")
            refusal = self._check_node(name, "Broker id", f"expected {self._node_id} but received")
            return refusal or self._logger_entries(names)
        if kind == CLIENT_METRICS_TYPE:
            if not name:
                return Refusal(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
            return client_metrics_entries(image.config(CLIENT_METRICS, name), names)
        if not name:
            return Refusal(ErrorCode.INVALID_REQUEST, "Group name must not be empty")
        return group_entries(image.config(GROUPS, name), levels, names)

    def _check_node(self, name: str, word: str, expectation: str) -> Refusal | None:
        if not name.lstrip("+-").isdecimal():
            return Refusal(ErrorCode.INVALID_REQUEST, f"{word} must be an integer, but it is: {name}")
        if int(name) != self._node_id:
            return Refusal(ErrorCode.INVALID_REQUEST, f"Unexpected broker id, {expectation} {name}")
        return None

    def _logger_entries(self, names: Sequence[str] | None) -> list[ConfigEntry]:
        return [
            ConfigEntry(name, level, Source.BROKER_LOGGER, False, False, 0, (), None)
            for name, level in self._loggers.levels().items()
            if names is None or name in names
        ]

    async def handle_alter_configs(
        self, context: RequestContext, request: alter_configs.AlterConfigsRequest
    ) -> alter_configs.AlterConfigsResponse:
        counts = Counter((r.resource_type, r.resource_name) for r in request.resources)
        response = alter_configs.AlterConfigsResponse()
        for resource in request.resources:
            configs = [(config.name, config.value) for config in resource.configs]
            refusal = _check_once(counts[resource.resource_type, resource.resource_name])
            refusal = refusal or check_request([Alteration(name, 0, value) for name, value in configs])
            target = self._resource(resource.resource_type, resource.resource_name)
            if refusal is None and isinstance(target, ConfigResource):
                refusal = await _answer(
                    self._controller.alter_configs(target, configs, validate_only=request.validate_only)
                )
            elif refusal is None:
                assert isinstance(target, Refusal)
                refusal = target
            response.responses.append(
                alter_configs.AlterConfigsResourceResponse(
                    error_code=ErrorCode.NONE if refusal is None else refusal.error,
                    error_message=None if refusal is None else refusal.message,
                    resource_type=resource.resource_type,
                    resource_name=resource.resource_name,
                )
            )
        return response

    async def handle_incremental_alter_configs(
        self, context: RequestContext, request: incremental_alter_configs.IncrementalAlterConfigsRequest
    ) -> incremental_alter_configs.IncrementalAlterConfigsResponse:
        counts = Counter((r.resource_type, r.resource_name) for r in request.resources)
        response = incremental_alter_configs.IncrementalAlterConfigsResponse()
        for resource in request.resources:
            alterations = [Alteration(c.name, c.config_operation, c.value) for c in resource.configs]
            refusal = _check_once(counts[resource.resource_type, resource.resource_name])
            refusal = refusal or check_request(alterations)
            if refusal is None:
                refusal = await self._alter(
                    resource.resource_type, resource.resource_name, alterations, validate_only=request.validate_only
                )
            response.responses.append(
                incremental_alter_configs.AlterConfigsResourceResponse(
                    error_code=ErrorCode.NONE if refusal is None else refusal.error,
                    error_message=None if refusal is None else refusal.message,
                    resource_type=resource.resource_type,
                    resource_name=resource.resource_name,
                )
            )
        return response

    async def _alter(
        self, kind: int, name: str, alterations: Sequence[Alteration], *, validate_only: bool
    ) -> Refusal | None:
        if kind == BROKER_LOGGER:
            refusal = self._check_node(name, "Node id", f"expected {self._node_id}, but received")
            return refusal or self._loggers.alter(alterations, validate_only=validate_only)
        target = self._resource(kind, name)
        if isinstance(target, Refusal):
            return target
        return await _answer(
            self._controller.incremental_alter_configs(target, alterations, validate_only=validate_only)
        )

    def _resource(self, kind: int, name: str) -> ConfigResource | Refusal:
        if kind not in _KINDS:
            return Refusal(ErrorCode.INVALID_REQUEST, f"Unknown resource type {kind}")
        if kind == BROKER:
            if not name:
                return ConfigResource(BROKERS, DEFAULT_ENTITY)
            refusal = self._check_node(name, "Node id", f"expected {self._node_id}, but received")
            return refusal or ConfigResource(BROKERS, str(self._node_id))
        return ConfigResource(_KINDS[kind], name)

    def handle_list_config_resources(
        self, context: RequestContext, request: list_config_resources.ListConfigResourcesRequest
    ) -> list_config_resources.ListConfigResourcesResponse:
        wanted = request.resource_types or list(_LISTED_TYPES)
        if context.version == 0:
            wanted = [CLIENT_METRICS_TYPE]
        if any(kind not in _LISTED_TYPES for kind in wanted):
            return list_config_resources.ListConfigResourcesResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
        image = self._image()
        names: dict[int, list[str]] = {
            TOPIC: list(image.topics),
            BROKER: [str(node_id) for node_id in image.brokers],
            BROKER_LOGGER: [str(node_id) for node_id in image.brokers],
            CLIENT_METRICS_TYPE: sorted(name for kind, name in image.configs if kind == CLIENT_METRICS),
            GROUP: sorted(name for kind, name in image.configs if kind == GROUPS),
        }
        return list_config_resources.ListConfigResourcesResponse(
            config_resources=[
                list_config_resources.ConfigResource(resource_name=name, resource_type=kind)
                for kind in _LISTED_TYPES
                if kind in wanted
                for name in names[kind]
            ]
        )


async def _answer(change: Awaitable[Refusal | None]) -> Refusal | None:
    """Wait for a change; a controller that cannot make it is a refusal like others."""
    try:
        return await change
    except KafkaError as error:
        return Refusal(error.code, error.message)


def _check_once(count: int) -> Refusal | None:
    if count > 1:
        return Refusal(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
    return None


def _described(
    resource: DescribeConfigsResource, entries: list[ConfigEntry] | Refusal, request: DescribeConfigsRequest
) -> DescribeConfigsResult:
    result = DescribeConfigsResult(resource_type=resource.resource_type, resource_name=resource.resource_name)
    if isinstance(entries, Refusal):
        result.error_code = entries.error
        result.error_message = entries.message
        return result
    result.configs = [
        DescribeConfigsResourceResult(
            name=entry.name,
            value=entry.value,
            read_only=entry.read_only,
            config_source=entry.source,
            is_sensitive=entry.is_sensitive,
            synonyms=[
                DescribeConfigsSynonym(name=s.name, value=s.value, source=s.source)
                for s in (entry.synonyms if request.include_synonyms else ())
            ],
            config_type=entry.type,
            documentation=entry.documentation if request.include_documentation else None,
        )
        for entry in entries
    ]
    return result
