"""/kafka-acl and /kafka-acl-extended: access rules, one node for each pattern of names, as in Kafka <= 3.9 (ZkAclStore)."""

from __future__ import annotations

from typing import Final

from ottla.cluster.nodes.encoding import BadNodeError, desanitize, dump, read, sanitize
from ottla.security.acls import Operation, Pattern, PatternType, Permission, ResourceType, Rule

ACLS: Final = "/kafka-acl"
PREFIXED_ACLS: Final = "/kafka-acl-extended/prefixed"

#: Names of types and operations as they stand in the tree.
RESOURCE_NAMES: Final = {
    ResourceType.TOPIC: "Topic",
    ResourceType.GROUP: "Group",
    ResourceType.CLUSTER: "Cluster",
    ResourceType.TRANSACTIONAL_ID: "TransactionalId",
    ResourceType.DELEGATION_TOKEN: "DelegationToken",
    ResourceType.USER: "User",
}
_TYPES: Final = {name: kind for kind, name in RESOURCE_NAMES.items()}


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


_OPERATION_NAMES: Final = {operation: _camel(operation.name) for operation in Operation if operation > Operation.ANY}
_OPERATIONS: Final = {name: operation for operation, name in _OPERATION_NAMES.items()}

#: Nodes that always exist, parents first.
ACL_PATHS: Final = (
    ACLS,
    *(f"{ACLS}/{name}" for name in RESOURCE_NAMES.values()),
    "/kafka-acl-extended",
    PREFIXED_ACLS,
    *(f"{PREFIXED_ACLS}/{name}" for name in RESOURCE_NAMES.values()),
)


class AclNode:
    """The rules about one pattern of names."""

    @staticmethod
    def parent(pattern_type: PatternType, kind: ResourceType) -> str:
        root = ACLS if pattern_type is PatternType.LITERAL else PREFIXED_ACLS
        return f"{root}/{RESOURCE_NAMES[kind]}"

    @staticmethod
    def path(pattern: Pattern) -> str:
        name = "*" if pattern.name == "*" else sanitize(pattern.name)
        return f"{AclNode.parent(pattern.pattern_type, pattern.resource_type)}/{name}"

    @staticmethod
    def name(node_name: str) -> str:
        return desanitize(node_name)

    @staticmethod
    def pattern(path: str) -> Pattern:
        """Return the pattern that a path stands for."""
        parent, _, name = path.rpartition("/")
        root, _, kind = parent.rpartition("/")
        if kind not in _TYPES or root not in (ACLS, PREFIXED_ACLS):
            raise BadNodeError(path, "it is no path of access rules")
        return Pattern(_TYPES[kind], PatternType.LITERAL if root == ACLS else PatternType.PREFIXED, AclNode.name(name))

    @staticmethod
    def encode(rules: tuple[Rule, ...]) -> bytes:
        return dump(
            {
                "version": 1,
                "acls": [
                    {
                        "principal": rule.principal,
                        "permissionType": rule.permission.name.capitalize(),
                        "operation": _OPERATION_NAMES[rule.operation],
                        "host": rule.host,
                    }
                    for rule in rules
                ],
            }
        )

    @staticmethod
    def decode(path: str, data: bytes) -> tuple[Rule, ...]:
        """Return the rules. One that cannot be understood is an error: to leave out a denial would open what it closes."""
        return read(
            path,
            data,
            lambda value: tuple(
                Rule(
                    row["principal"],
                    row["host"],
                    _OPERATIONS[row["operation"]],
                    Permission[row["permissionType"].upper()],
                )
                for row in value["acls"]
            ),
        )
