"""DescribeClientQuotas (key 48) and AlterClientQuotas (key 49), versions 0-1 (KIP-546; v1: flexible).

Of an entity that names one type twice the last name counts, as in Kafka.

Where we differ from Apache Kafka: the entity `ip` is an address; Kafka also takes names of hosts, which it looks up. A limit
that is no number (NaN) is refused.
Limits of replication are configurations of brokers and topics, not quotas of clients.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ottla.broker.context import Route
from ottla.broker.quotas.table import CONNECTION_RATE, ENTITY_KINDS, Sort, java_ip, owner_of, resource_of
from ottla.cluster.decisions.configs import Alteration, Operation
from ottla.cluster.image import DEFAULT_ENTITY, IPS, ConfigResource
from ottla.cluster.nodes import desanitize, sanitize
from ottla.errors import ErrorCode, InvalidRequestError, KafkaError, UnsupportedVersionError, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import alter_client_quotas, describe_client_quotas
from ottla.protocol.messages.alter_client_quotas import (
    AlterClientQuotasRequest,
    AlterClientQuotasRequestEntryData,
    AlterClientQuotasResponse,
    AlterClientQuotasResponseEntryData,
)
from ottla.protocol.messages.describe_client_quotas import (
    DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
    EntryData,
    ValueData,
)

if TYPE_CHECKING:
    from ottla.broker.context import RequestContext, Routes
    from ottla.cluster.controller import Controller
    from ottla.cluster.image import ClusterImage

USER: Final = "user"
CLIENT_ID: Final = "client-id"
IP: Final = "ip"
_TYPES: Final = (USER, CLIENT_ID, IP)
#: How a filter names an entity.
_EXACT, _DEFAULT, _ANY = range(3)

#: Limits that are whole numbers.
_WHOLE: Final = frozenset({Sort.PRODUCE, Sort.FETCH, CONNECTION_RATE})
_EPSILON: Final = 1e-6
#: Names are kept in the tree: longer ones are no names.
NAME_MAX: Final = 1024

Entity = dict[str, str | None]
"""Names by type; None is the default."""


class QuotaHandlers:
    """Answers from the image; changes the tree."""

    def __init__(self, image: Callable[[], ClusterImage], controller: Controller) -> None:
        self._image = image
        self._controller = controller

    def routes(self) -> Routes:
        return {
            ApiKey.DESCRIBE_CLIENT_QUOTAS: Route(self.handle_describe),
            ApiKey.ALTER_CLIENT_QUOTAS: Route(self.handle_alter),
        }

    # -- DescribeClientQuotas

    def handle_describe(
        self, context: RequestContext, request: DescribeClientQuotasRequest
    ) -> DescribeClientQuotasResponse:
        try:
            exact, any_of = _filter_of(request)
        except KafkaError as error:
            return DescribeClientQuotasResponse(error_code=error.code, error_message=error.message, entries=None)
        response = DescribeClientQuotasResponse(error_message=None, entries=[])
        assert response.entries is not None
        for resource, config in self._image().configs.items():
            if resource.kind not in ENTITY_KINDS:
                continue
            values = _values_of(config)
            entity = _entity_of(resource)
            if not values or (request.strict and len(entity) != len(exact) + len(any_of)):
                continue
            if not (entity.keys() >= exact.keys() | any_of and all(entity[kind] == exact[kind] for kind in exact)):
                continue
            response.entries.append(
                EntryData(
                    entity=[
                        describe_client_quotas.EntityData(entity_type=kind, entity_name=name)
                        for kind, name in entity.items()
                    ],
                    values=[ValueData(key=key, value=value) for key, value in values.items()],
                )
            )
        return response

    # -- AlterClientQuotas

    async def handle_alter(
        self, context: RequestContext, request: AlterClientQuotasRequest
    ) -> AlterClientQuotasResponse:
        response = AlterClientQuotasResponse()
        done: list[Entity] = []
        for entry in request.entries:
            entity: Entity = {part.entity_type: part.entity_name for part in entry.entity}
            try:
                if entity in done:
                    raise InvalidRequestError("The same entity is there twice in one request.")
                done.append(entity)
                resource, alterations = _alterations_of(entry, entity)
                if not request.validate_only:
                    refusal = await self._controller.alter_entity(resource, alterations)
                    if refusal is not None:
                        raise error_for(refusal.error, refusal.message)
                code, message = ErrorCode.NONE, None
            except KafkaError as error:
                code, message = error.code, error.message
            response.entries.append(
                AlterClientQuotasResponseEntryData(
                    error_code=code,
                    error_message=message,
                    entity=[
                        alter_client_quotas.EntityData(entity_type=part.entity_type, entity_name=part.entity_name)
                        for part in entry.entity
                    ],
                )
            )
        return response


def _filter_of(request: DescribeClientQuotasRequest) -> tuple[Entity, set[str]]:
    """Return the names that are asked for, and the types of which any name will do.

    Raises:
        InvalidRequestError: the filter contradicts itself.
        UnsupportedVersionError: there is no such type.
    """
    exact: Entity = {}
    any_of: set[str] = set()
    for part in request.components:
        kind = part.entity_type
        if not kind:
            raise InvalidRequestError("Invalid empty entity type.")
        if kind in exact or kind in any_of:
            raise InvalidRequestError(f"Entity type {kind} cannot appear more than once in the filter.")
        if kind not in _TYPES:
            raise UnsupportedVersionError(f"Unsupported entity type {kind}")
        if part.match_type == _EXACT:
            if part.match is None:
                raise InvalidRequestError("Request specified MATCH_TYPE_EXACT, but set match string to null.")
            exact[kind] = part.match
        elif part.match_type in (_DEFAULT, _ANY):
            word = "MATCH_TYPE_DEFAULT" if part.match_type == _DEFAULT else "MATCH_TYPE_SPECIFIED"
            if part.match is not None:
                raise InvalidRequestError(f"Request specified {word}, but also specified a match string.")
            if part.match_type == _DEFAULT:
                exact[kind] = None
            else:
                any_of.add(kind)
        else:
            raise InvalidRequestError(f"Unknown match type {part.match_type}")
    if IP in exact.keys() | any_of and len(exact) + len(any_of) > 1:
        raise InvalidRequestError(
            "Invalid entity filter component combination. IP filter component should not be used with user or clientId "
            "filter component."
        )
    return exact, any_of


def _values_of(config: Mapping[str, str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for key in (*Sort, CONNECTION_RATE):
        text = config.get(key)
        if text is not None:
            try:
                values[str(key)] = float(text)
            except ValueError:
                continue  # a foreign hand wrote it; it limits nothing, and the log says so
    return values


def _entity_of(resource: ConfigResource) -> Entity:
    if resource.kind == IPS:
        return {IP: _name_of(resource.name)}
    user, client_id = owner_of(resource)
    return {
        **({USER: _name_of(user)} if user else {}),
        **({CLIENT_ID: _name_of(client_id)} if client_id else {}),
    }


def _name_of(node: str) -> str | None:
    return None if node == DEFAULT_ENTITY else desanitize(node)


def _node_of(name: str | None) -> str:
    return DEFAULT_ENTITY if name is None else sanitize(name)


def _alterations_of(
    entry: AlterClientQuotasRequestEntryData, entity: Entity
) -> tuple[ConfigResource, list[Alteration]]:
    """Return what is to be changed, and where.

    Raises:
        InvalidRequestError: there is no such entity, or no such limit.
    """
    resource = _resource_of(entity)
    keys: frozenset[str] = frozenset({CONNECTION_RATE}) if resource.kind == IPS else frozenset(Sort)
    alterations: list[Alteration] = []
    for op in entry.ops:
        if any(op.key == earlier.key for earlier in alterations):
            raise InvalidRequestError(f"Duplicate quota key {op.key}")
        if op.remove:
            alterations.append(Alteration(op.key, Operation.DELETE, None))
            continue
        if op.key not in keys:
            raise InvalidRequestError(f"Invalid configuration key {op.key}")
        alterations.append(Alteration(op.key, Operation.SET, _text_of(op.key, op.value)))
    return resource, alterations


def _resource_of(entity: Entity) -> ConfigResource:
    if not entity:
        raise InvalidRequestError("Invalid empty client quota entity")
    for kind, name in entity.items():
        if kind not in _TYPES:
            raise InvalidRequestError(f"Unhandled client quota entity type: {kind}")
        if name == "":
            raise InvalidRequestError(f"Empty {kind} not supported")
        if name is not None and len(name) > NAME_MAX:
            raise InvalidRequestError(f"A {kind} has at most {NAME_MAX} characters")
    if IP in entity:
        if len(entity) > 1:
            raise InvalidRequestError("Invalid empty client quota entity")
        name = entity[IP]
        if name is None:
            return ConfigResource(IPS, DEFAULT_ENTITY)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            raise InvalidRequestError(f"{name} is not a valid IP or resolvable host.") from None
        return ConfigResource(IPS, java_ip(name))
    return resource_of(
        _node_of(entity[USER]) if USER in entity else None,
        _node_of(entity[CLIENT_ID]) if CLIENT_ID in entity else None,
    )


def _text_of(key: str, value: float) -> str:
    """Return a limit as Kafka writes it.

    Raises:
        InvalidRequestError: it cannot be one.
    """
    if not math.isfinite(value) or value <= 0:
        raise InvalidRequestError(f"Quota {key} must be greater than 0")
    if key not in _WHOLE:
        return repr(value)
    whole = int(value + _EPSILON)
    if abs(whole - value) > _EPSILON:
        raise InvalidRequestError(f"Configuration {key} must be a Long value")
    return str(whole)
