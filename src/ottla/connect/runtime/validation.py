"""What is right and wrong with a connector's configuration, key by key: the answer of `PUT /connector-plugins/.../validate`.

Runs where plugins may be imported, so not in the worker's own process. The rows of a connector, in Java's order: what all
connectors have, what sources or sinks have, what the named transforms and predicates have, the connector's own; then
overridden settings of clients and those of its converters (Java: `AbstractHerder.validateConnectorConfig`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import ottla
from ottla.connect.config_def import (
    NO_DEFAULT,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    ConfigValue,
    Importance,
    Password,
    Width,
    check,
    shown,
)
from ottla.connect.connectors import Connector, SinkConnector, SourceConnector
from ottla.connect.plugins import (
    CONVERTERS,
    HEADER_CONVERTERS,
    converter_class,
    java_name,
    predicate_class,
    predicate_names,
    transform_class,
    transform_names,
)
from ottla.connect.settings import CONNECTOR, OWN, SINK, SOURCE, below, sink_errors

_PARTS = ("key", "value", "header")
_NOT_SAID = (
    "The connector does not implement the API required for preflight validation of exactly-once source support. Please "
    "consult the documentation for the connector to determine whether it supports exactly-once semantics, and then consider "
    'reconfiguring the connector to use the value "requested" for this property (which will disable this preflight check '
    "and allow the connector to be created)."
)
_NOT_ONCE = "The connector does not support exactly-once semantics with the provided configuration."
_NO_BOUNDARIES = (
    "The connector does not support connector-defined transaction boundaries with the given configuration. "
    "Please reconfigure it to use a different transaction boundary definition."
)
_TYPES = {"Transformation": "transforms", "Predicate": "predicates"}
_IMPORTANCES = list(Importance)
#: Secrets in settings of clients that a connector overrides.
_CLIENT_SECRETS = ("password", "sasl.jaas.config", "ssl.keystore.key")


def version_of(kind: type[Connector]) -> str | None:
    """Return the version that is shown of a connector."""
    if kind.VERSION is not None:
        return kind.VERSION
    return ottla.__version__ if kind.__module__.startswith("ottla.") else None


def validate(kind: type[Connector], props: Mapping[str, str | None], worker: Mapping[str, str]) -> dict[str, Any]:
    """Return Java's `ConfigInfos`, as JSON has it."""
    rows = ConfigDef(*_common_rows(kind, props, worker))
    for title in _TYPES:
        for row in _step_rows(title, props):
            rows.define(row)
    values = {value.name: value for value in rows.validate(props)}
    if issubclass(kind, SinkConnector):
        given = {**props, "topics": props.get("topics") or ",".join(_declared_topics(kind))}
        if (props.get("topics.regex") or "").strip() and not (props.get("topics") or "").strip():
            given["topics"] = ""
        for name, errors in sink_errors(given).items():
            values[name].errors += errors
    own = {value.name: value for value in kind.CONFIG.validate(props)}
    for name, text in props.items():
        if text is None:
            value = values.get(name) or own.get(name) or values.setdefault(name, ConfigValue(name))
            value.errors.append("Null value can not be supplied as the configuration value.")
    if issubclass(kind, SourceConnector):
        _check_exactly_once(kind, props, worker, values)
    _recommend(values, props)
    converters = [info for part in ("header", "key", "value") for info in _converter_infos(part, props, values)]
    keys = rows.keys | kind.CONFIG.keys
    merged = values | own
    infos = [_info(None, value) for name, value in merged.items() if name not in keys]
    infos += [_info(key, merged[name]) for name, key in keys.items()]
    infos += [info for part in _client_parts(kind, props) for info in _override_infos(part, props)]
    groups = [*rows.groups, *kind.CONFIG.groups]
    count = sum(len(info["value"]["errors"]) for info in infos) + sum(bool(i["value"]["errors"]) for i in converters)
    groups += [group for info in converters if (group := info["definition"]["group"]) is not None]
    return {
        "name": props.get("connector.class"),
        "error_count": count,
        "groups": list(dict.fromkeys(groups)),
        "configs": infos + converters,
    }


def _check_exactly_once(
    kind: type[Connector], props: Mapping[str, str | None], worker: Mapping[str, str], values: dict[str, ConfigValue]
) -> None:
    """Find what a source is asked for and cannot give: exactly once, transactions that it ends itself (KIP-618)."""
    if "config.storage.topic" not in worker:
        return  # as Java: without a group these keys mean nothing
    required, boundary = values["exactly.once.support"], values["transaction.boundary"]
    is_on = worker.get("exactly.once.source.support", "disabled").strip().lower() == "enabled"
    is_required = str(required.value).upper() == "REQUIRED" and not required.errors
    own_boundaries = str(boundary.value).upper() == "CONNECTOR" and not boundary.errors
    topic = values["offsets.storage.topic"]
    if is_on and topic.value not in (None, worker.get("offset.storage.topic")):
        topic.errors.append(
            "Offsets of exactly-once sources are in the worker's offset.storage.topic, and in no other topic."
        )
    if is_required and not is_on:
        required.errors.append("This worker does not have exactly-once source support enabled.")
        is_required = False
    if not is_required and not own_boundaries:
        return
    texts = {name: text for name, text in props.items() if text is not None}
    try:
        connector = kind(texts, kind.CONFIG.parse(texts))
    except ConfigError:
        return  # other rows say what is wrong
    assert isinstance(connector, SourceConnector)
    if is_required and (supports := connector.exactly_once_support()) is not True:
        required.errors.append(_NOT_SAID if supports is None else _NOT_ONCE)
    if own_boundaries and not connector.can_define_transaction_boundaries():
        boundary.errors.append(_NO_BOUNDARIES)


def secrets_of(kind: type[Connector], props: Mapping[str, str | None]) -> list[str]:
    """Return the keys whose values nobody is to see."""
    keys = dict(kind.CONFIG.keys)
    for title in _TYPES:
        keys |= {row.name: row for row in _step_rows(title, props)}
    return sorted(
        name
        for name in props
        if (name in keys and keys[name].type is ConfigType.PASSWORD) or name.endswith(_CLIENT_SECRETS)
    )


def definition_infos(name: str, kind: type[Connector] | None) -> list[dict[str, Any]]:
    """Return the rows of a plugin, as JSON has them.

    Raises:
        ConfigError: there is none of that name.
    """
    if kind is not None:
        keys = dict(kind.CONFIG.keys)
        for key in (*CONNECTOR, *(SINK if issubclass(kind, SinkConnector) else SOURCE)):
            version = version_of(kind)
            shown_key = replace(key, default=version) if key.name == "connector.plugin.version" and version else key
            keys.setdefault(key.name, shown_key)
        return [_definition(key) for key in keys.values()]
    found: ConfigDef
    try:
        found = converter_class(name).CONFIG
    except ConfigError:
        try:
            found = transform_class(name)[0].CONFIG
        except ConfigError:
            found = predicate_class(name)[0].CONFIG
    return [_definition(key) for key in found.keys.values()]


def plugin_infos(connectors: Iterable[tuple[str, type[Connector]]]) -> list[dict[str, Any]]:
    """Return all plugins, as JSON has them."""
    rows = sorted((0 if issubclass(kind, SinkConnector) else 1, name, version_of(kind)) for name, kind in connectors)
    found = [(name, ("sink", "source")[order], version) for order, name, version in rows]
    for kind, names in (
        ("transformation", transform_names()),
        ("predicate", predicate_names()),
        ("converter", CONVERTERS),
        ("header_converter", HEADER_CONVERTERS),
    ):
        found += [(name, kind, ottla.__version__) for name in sorted(names)]
    return [
        {"class": name, "type": kind} | ({} if version is None else {"version": version})
        for name, kind, version in found
    ]


# Rows


def _common_rows(kind: type[Connector], props: Mapping[str, str | None], worker: Mapping[str, str]) -> list[ConfigKey]:
    is_sink = issubclass(kind, SinkConnector)
    found = []
    for key in (*CONNECTOR, *(SINK if is_sink else SOURCE), *(key for key in OWN if key.name in props)):
        part, _, rest = key.name.partition(".")
        if key.name == "connector.plugin.version":
            key = replace(key, default=version_of(kind))
        elif key.name == "topics":
            key = replace(key, default=",".join(_declared_topics(kind)))
        elif part in _PARTS and rest == "converter":
            default = worker.get(key.name)
            if part == "header":
                default = default or HEADER_CONVERTERS[-2]
            key = replace(key, default=default, validator=None)
        elif part in _PARTS and rest == "converter.plugin.version":
            name: str | bool | None = props.get(f"{part}.converter")
            if name is None:
                name = worker.get(f"{part}.converter") or (part == "header" or None)
            key = replace(key, default=ottla.__version__ if name is True or _converter(name) is not None else None)
        found.append(key)
    return found


def _declared_topics(kind: type[Connector]) -> tuple[str, ...]:
    """Return the topics that a decorator gave to a sink."""
    found: tuple[str, ...] = getattr(kind, "TOPICS", ())
    return found


def _converter(name: str | bool | None) -> str | None:
    """Return Java's name of a converter; None if there is none of that name."""
    try:
        return None if not isinstance(name, str) else java_name(converter_class(name.strip()))
    except ConfigError:
        return None


def _step_rows(title: str, props: Mapping[str, str | None]) -> list[ConfigKey]:
    """Return the rows of transforms or predicates: of each its class, its version, and what it has itself."""
    field, noun = _TYPES[title], "transformation" if title == "Transformation" else "predicate"
    found = []
    for alias in _aliases(field, props):
        prefix, group = f"{field}.{alias}.", f"{field.capitalize()}: {alias}"
        given = props.get(f"{prefix}type")
        own, problem = _step_config(title, given)
        if f"{prefix}negate" in props and f"{prefix}predicate" not in props and title == "Transformation":
            problem = problem or (
                f"Config '{prefix}negate' was provided but there is no config '{prefix}predicate' defining a predicate "
                "to be negated."
            )

        def no_problem(name: str, value: Any, problem: str | None = problem) -> None:
            if problem is not None:
                raise ConfigError(problem)

        found.append(
            ConfigKey(
                name=f"{prefix}type", type=ConfigType.CLASS, importance=Importance.HIGH, group=group, order=0,
                validator=check(no_problem, f"valid configs for {alias} {noun}"), width=Width.LONG,
                display_name=f"{title} type for {alias}", documentation=f"The class of the {noun} {alias}.",
            )
        )  # fmt: skip
        found.append(
            ConfigKey(
                name=f"{prefix}plugin.version", default=None if own is None else ottla.__version__, group=group, order=1,
                importance=Importance.HIGH, width=Width.LONG, display_name=f"{title} version for {alias}",
                documentation=f"The version of the {noun} {alias}.",
            )
        )  # fmt: skip
        if own is not None:
            found += [_embedded(key, prefix, group, 2 + place) for place, key in enumerate(_sorted(own))]
    return found


def _aliases(field: str, props: Mapping[str, str | None]) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in (props.get(field) or "").split(",") if name.strip()))


def _step_config(title: str, name: str | None) -> tuple[ConfigDef | None, str | None]:
    """Return the rows of a transform or predicate, and what is wrong with its name."""
    if name is None:
        return None, None
    try:
        if title == "Predicate":
            return predicate_class(name.strip())[0].CONFIG, None
        own = transform_class(name.strip())[0].CONFIG
    except ConfigError as error:
        return None, None if "could not be found" in str(error) else str(error)
    implied = (
        ConfigKey(
            name="predicate", default=None, documentation="The predicate that says to which records this applies."
        ),
        ConfigKey(
            name="negate", type=ConfigType.BOOLEAN, default=False, documentation="To those about which it says no."
        ),
    )
    return ConfigDef(*implied, *(key for key in own.keys.values() if key.name not in ("predicate", "negate"))), None


def _sorted(own: ConfigDef) -> list[ConfigKey]:
    """Java's order within a group: by order, required ones first, by importance, by name."""

    def place(key: ConfigKey) -> tuple[int, int, bool, int, str]:
        group = -1 if key.group is None else own.groups.index(key.group)
        return group, key.order, not key.required, _IMPORTANCES.index(key.importance), key.name

    return sorted(own.keys.values(), key=place)


def _embedded(key: ConfigKey, prefix: str, group: str, order: int) -> ConfigKey:
    own = key.validator
    validator = None

    if own is not None:

        def function(name: str, value: Any) -> None:
            own(name.removeprefix(prefix), value)

        validator = check(function, str(own))
    return replace(
        key,
        name=prefix + key.name,
        group=group if key.group is None else f"{group}: {key.group}",
        order=order,
        validator=validator,
        display_name=key.display_name or key.name,
        dependents=[prefix + name for name in key.dependents],
    )


def _recommend(values: dict[str, ConfigValue], props: Mapping[str, str | None]) -> None:
    """Put in what forms offer, Java's names for classes, and what is wrong with names of classes."""
    version = ottla.__version__
    types = {f"{field}.{alias}.type" for field in _TYPES.values() for alias in _aliases(field, props)}
    for name, value in values.items():
        part, _, rest = name.partition(".")
        if name == "connector.plugin.version":
            value.recommended_values = [version] if value.value is not None else []
        elif part in _PARTS and rest == "converter":
            value.recommended_values = list(HEADER_CONVERTERS if part == "header" else CONVERTERS)
            _resolve(value, props, _converter)
            versions = values[f"{name}.plugin.version"]
            versions.visible = value.value is not None
            versions.recommended_values = [version] if value.value is not None else []
        elif name in types:
            is_transform = part == "transforms"
            value.recommended_values = sorted(transform_names() if is_transform else predicate_names())
            _resolve(value, props, _transform if is_transform else _predicate)
            versions = values[f"{name.removesuffix('type')}plugin.version"]
            versions.recommended_values = [version] if versions.value is not None else []


def _transform(name: str | bool | None) -> str | None:
    try:
        return None if not isinstance(name, str) else transform_class(name.strip())[2]
    except ConfigError:
        return None


def _predicate(name: str | bool | None) -> str | None:
    try:
        return None if not isinstance(name, str) else predicate_class(name.strip())[1]
    except ConfigError:
        return None


def _resolve(value: ConfigValue, props: Mapping[str, str | None], find: Any) -> None:
    given = value.value if isinstance(value.value, str) else props.get(value.name)
    if given is None:
        return
    value.value = find(given)
    other = _predicate(given) if find is _transform else None
    if other is not None:
        value.value = other
        value.errors.append(f"Class class {other} does not implement the Transformation interface")
    if value.value is None and not value.errors:
        value.errors.append(str(ConfigError.of(value.name, given, f"Class {given} could not be found.")))


# Converters and clients


def _converter_infos(
    part: str, props: Mapping[str, str | None], values: Mapping[str, ConfigValue]
) -> list[dict[str, Any]]:
    name = props.get(f"{part}.converter")
    if name is None or values[f"{part}.converter"].errors:
        return []
    prefix = f"{part}.converter."
    rows = converter_class(name.strip()).CONFIG
    given = {"converter.type": part} | below(props, prefix)
    found = []
    for value in rows.validate(given):
        key = rows.keys[value.name]
        value.name = prefix + value.name
        found.append(_info(key, value, prefix))
    return found


def _client_parts(kind: type[Connector], props: Mapping[str, str | None]) -> list[str]:
    if not issubclass(kind, SinkConnector):
        return ["producer", *(["admin"] if any(name.startswith("topic.creation.") for name in props) else [])]
    dead = bool((props.get("errors.deadletterqueue.topic.name") or "").strip())
    return [*(["producer", "admin"] if dead else []), "consumer"]


def _override_infos(part: str, props: Mapping[str, str | None]) -> list[dict[str, Any]]:
    prefix = f"{part}.override."
    found = []
    for name, text in below(props, prefix).items():
        value = Password(text) if text is not None and name.endswith(_CLIENT_SECRETS) else text
        found.append(_info(None, ConfigValue(prefix + name, value)))
    return found


# JSON


def _text(value: Any, kind: ConfigType | None) -> str | None:
    """Return a value as Java's `convertToString` does."""
    if value is None:
        return None
    if kind is ConfigType.LIST or isinstance(value, list):
        return ",".join(shown(item) for item in value)
    return shown(value)


def _definition(key: ConfigKey, prefix: str = "") -> dict[str, Any]:
    return {
        "name": prefix + key.name,
        "type": key.type.value,
        "required": key.required,
        "default_value": None if key.default is NO_DEFAULT else _text(_parsed_default(key), key.type),
        "importance": key.importance.value,
        "documentation": key.documentation,
        "group": key.group,
        "order_in_group": key.order,
        "width": key.width.value,
        "display_name": key.display_name or key.name,
        "dependents": list(key.dependents),
    }


def _parsed_default(key: ConfigKey) -> Any:
    if key.type is ConfigType.LIST and isinstance(key.default, str):
        return [key.default] if key.default else []
    return key.default


def _info(key: ConfigKey | None, value: ConfigValue, prefix: str = "") -> dict[str, Any]:
    kind = None if key is None else key.type
    return {
        "definition": None if key is None else _definition(key, prefix),
        "value": {
            "name": value.name,
            "value": _text(value.value, kind),
            "recommended_values": [_text(item, None) for item in value.recommended_values],
            "errors": list(value.errors),
            "visible": value.visible,
        },
    }
