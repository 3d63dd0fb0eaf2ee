"""Admin calls about configurations: of topics, brokers, groups, loggers and client metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ottla.client._core.asking import ANY, Target
from ottla.client.admin_base import AdminBase, bounded, check
from ottla.client.admin_results import ConfigEntry
from ottla.client.admin_settings import ConfigValue, config_text
from ottla.client.admin_words import CONFIG_RESOURCES, CONFIG_SOURCES, CONFIG_TYPES, config_resource, word
from ottla.client.errors import ConfigurationError
from ottla.client.keys import Duration
from ottla.errors import ErrorCode
from ottla.protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
)
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from ottla.protocol.messages.list_config_resources import ListConfigResourcesRequest, ListConfigResourcesResponse

_SET, _DELETE, _APPEND, _SUBTRACT = range(4)
_DEFAULT_SOURCE = 5
_OF_ONE_BROKER = ("broker", "broker-logger")


class ConfigCalls(AdminBase):
    """Configurations. A resource is a kind and a name: ("topic", "orders"), ("broker", 1), ("group", "billing")."""

    @bounded
    async def describe_configs(
        self,
        kind: str,
        name: str | int = "",
        *,
        keys: Iterable[str] | None = None,
        synonyms: bool = False,
        documentation: bool = False,
        timeout: Duration | None = None,
    ) -> dict[str, ConfigEntry]:
        """Return the configuration of a resource by key.

        Args:
            kind: "topic", "broker", "group", "broker-logger" or "client-metrics".
            name: of the topic or group, or id of the broker; "" for a broker is the default of all.
            keys: only these.
            synonyms: with where each value comes from.
            documentation: with what each key means.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
        """
        wanted = None if keys is None else list(keys)

        def build(version: int) -> DescribeConfigsRequest:
            return DescribeConfigsRequest(
                resources=[
                    DescribeConfigsResource(
                        resource_type=config_resource(kind), resource_name=str(name), configuration_keys=wanted
                    )
                ],
                include_synonyms=synonyms,
                include_documentation=documentation and version >= 3,
            )

        config_resource(kind)

        async def attempt(deadline_ms: float) -> DescribeConfigsResponse:
            answer = await self._ask(build, DescribeConfigsResponse, _target(kind, name), deadline_ms=deadline_ms)
            for result in answer.results:
                gone = result.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                check(result.error_code, f"The {kind} {name!r} does not exist." if gone else result.error_message)
            return answer

        answer = await self._once(attempt)
        return {row.name: _entry(row) for result in answer.results for row in result.configs}

    @bounded
    async def alter_configs(
        self,
        kind: str,
        name: str | int,
        changes: Mapping[str, ConfigValue | None] | None = None,
        *,
        append: Mapping[str, ConfigValue] | None = None,
        subtract: Mapping[str, ConfigValue] | None = None,
        validate_only: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Change some keys and leave the others as they are (KIP-339).

        Args:
            changes: new values; None takes the key back to its default. Durations and sizes in words, too.
            append, subtract: elements that a list gets, or loses.

        Raises:
            InvalidConfigError: a key or a value is not valid; nothing was changed.
        """
        rows = [
            AlterableConfig(name=key, config_operation=_DELETE)
            if value is None
            else AlterableConfig(name=key, config_operation=_SET, value=config_text(key, value))
            for key, value in (changes or {}).items()
        ]
        for operation, elements in ((_APPEND, append), (_SUBTRACT, subtract)):
            rows += [
                AlterableConfig(name=key, config_operation=operation, value=config_text(key, value))
                for key, value in (elements or {}).items()
            ]
        if not rows:
            raise ConfigurationError("There is nothing to change.")
        request = IncrementalAlterConfigsRequest(
            resources=[
                AlterConfigsResource(resource_type=config_resource(kind), resource_name=str(name), configs=rows)
            ],
            validate_only=validate_only,
        )

        async def attempt(deadline_ms: float) -> None:
            answer = await self._ask(
                request, IncrementalAlterConfigsResponse, _target(kind, name), deadline_ms=deadline_ms
            )
            for row in answer.responses:
                check(row.error_code, row.error_message)

        await self._once(attempt)

    @bounded
    async def list_config_resources(
        self, kinds: Iterable[str] | None = None, *, timeout: Duration | None = None
    ) -> list[tuple[str, str]]:
        """Return (kind, name) of everything that has a configuration of its own (KIP-1142).

        Args:
            kinds: only these, for example ["client-metrics"].
        """
        wanted = [config_resource(kind) for kind in kinds or ()]
        names = {number: kind for kind, number in CONFIG_RESOURCES.items()}

        def build(version: int) -> ListConfigResourcesRequest:
            if version == 0 and wanted != [CONFIG_RESOURCES["client-metrics"]]:
                raise ConfigurationError(
                    "This broker lists client metrics only.", 'Pass kinds=["client-metrics"]; others need Kafka 4.1.'
                )
            return ListConfigResourcesRequest(resource_types=wanted) if version else ListConfigResourcesRequest()

        answer = await self._ask(build, ListConfigResourcesResponse)
        check(answer.error_code)
        return sorted((names.get(row.resource_type, "unknown"), row.resource_name) for row in answer.config_resources)


def _target(kind: str, name: str | int) -> Target:
    """A broker's own configuration is asked of that broker, all others of any."""
    if kind.replace("_", "-") not in _OF_ONE_BROKER or name == "":
        return ANY
    if not str(name).isdecimal():
        raise ConfigurationError(f"{name!r} is no id of a broker.", "Ids are numbers; '' stands for all brokers.")
    return int(name)


def _entry(row: DescribeConfigsResourceResult) -> ConfigEntry:
    return ConfigEntry(
        name=row.name,
        value=None if row.is_sensitive else row.value,
        source=word(CONFIG_SOURCES, row.config_source),
        is_default=row.config_source == _DEFAULT_SOURCE,
        is_sensitive=row.is_sensitive,
        is_read_only=row.read_only,
        type=word(CONFIG_TYPES, row.config_type),
        documentation=row.documentation,
        synonyms=tuple((entry.name, entry.value, word(CONFIG_SOURCES, entry.source)) for entry in row.synonyms),
    )
