"""The nodes of the coordination tree: paths, and the JSON in them. Those of Kafka <= 3.9 in ZooKeeper, and some of ours.

One class per kind of node, with `path`, `encode` and `decode`; what Kafka's tools know of a cluster in ZooKeeper is found in
the same places with the same version numbers. Source: Kafka's ZkData.scala. Pure: values and bytes.

Ours are /changes, /topic_ids, /deleted, and of /brokers epochs, unfit, ends and clocks; in Kafka's nodes `creating` of
a topic, topic id, broker epochs and eligible leaders of a partition's state, and the format of the tree in /feature.
"""

from ottla.cluster.nodes.acls import ACL_PATHS
from ottla.cluster.nodes.brokers import (
    BROKER_CLOCKS as BROKER_CLOCKS,
)
from ottla.cluster.nodes.brokers import (
    BROKER_ENDS as BROKER_ENDS,
)
from ottla.cluster.nodes.brokers import (
    BROKER_EPOCHS as BROKER_EPOCHS,
)
from ottla.cluster.nodes.brokers import (
    BROKER_IDS as BROKER_IDS,
)
from ottla.cluster.nodes.brokers import (
    BROKER_UNFIT as BROKER_UNFIT,
)
from ottla.cluster.nodes.brokers import (
    BrokerClockNode as BrokerClockNode,
)
from ottla.cluster.nodes.brokers import (
    BrokerEpoch as BrokerEpoch,
)
from ottla.cluster.nodes.brokers import (
    BrokerEpochNode as BrokerEpochNode,
)
from ottla.cluster.nodes.brokers import (
    BrokerNode as BrokerNode,
)
from ottla.cluster.nodes.brokers import (
    EndsNode as EndsNode,
)
from ottla.cluster.nodes.brokers import (
    UnfitNode as UnfitNode,
)
from ottla.cluster.nodes.changes import (
    CHANGE_PREFIX as CHANGE_PREFIX,
)
from ottla.cluster.nodes.changes import (
    CHANGES as CHANGES,
)
from ottla.cluster.nodes.changes import (
    Change as Change,
)
from ottla.cluster.nodes.changes import (
    ChangeNode as ChangeNode,
)
from ottla.cluster.nodes.changes import (
    merge_changes as merge_changes,
)
from ottla.cluster.nodes.cluster import (
    CLUSTER_ID as CLUSTER_ID,
)
from ottla.cluster.nodes.cluster import (
    CONFIG as CONFIG,
)
from ottla.cluster.nodes.cluster import (
    CONTROLLER as CONTROLLER,
)
from ottla.cluster.nodes.cluster import (
    CONTROLLER_EPOCH as CONTROLLER_EPOCH,
)
from ottla.cluster.nodes.cluster import (
    FEATURES as FEATURES,
)
from ottla.cluster.nodes.cluster import (
    PRODUCER_ID_BLOCK as PRODUCER_ID_BLOCK,
)
from ottla.cluster.nodes.cluster import (
    PRODUCER_ID_BLOCK_SIZE as PRODUCER_ID_BLOCK_SIZE,
)
from ottla.cluster.nodes.cluster import (
    TREE_FORMAT as TREE_FORMAT,
)
from ottla.cluster.nodes.cluster import (
    ClusterIdNode as ClusterIdNode,
)
from ottla.cluster.nodes.cluster import (
    ConfigNode as ConfigNode,
)
from ottla.cluster.nodes.cluster import (
    ControllerEpochNode as ControllerEpochNode,
)
from ottla.cluster.nodes.cluster import (
    ControllerNode as ControllerNode,
)
from ottla.cluster.nodes.cluster import (
    Features as Features,
)
from ottla.cluster.nodes.cluster import (
    FeaturesNode as FeaturesNode,
)
from ottla.cluster.nodes.cluster import (
    ProducerIdBlockNode as ProducerIdBlockNode,
)
from ottla.cluster.nodes.encoding import (
    BadNodeError as BadNodeError,
)
from ottla.cluster.nodes.encoding import (
    desanitize as desanitize,
)
from ottla.cluster.nodes.encoding import (
    sanitize as sanitize,
)
from ottla.cluster.nodes.topics import (
    BROKER_TOPICS as BROKER_TOPICS,
)
from ottla.cluster.nodes.topics import (
    DELETED as DELETED,
)
from ottla.cluster.nodes.topics import (
    TOPIC_IDS as TOPIC_IDS,
)
from ottla.cluster.nodes.topics import (
    DeletedNode as DeletedNode,
)
from ottla.cluster.nodes.topics import (
    DeletedTopic as DeletedTopic,
)
from ottla.cluster.nodes.topics import (
    Maker as Maker,
)
from ottla.cluster.nodes.topics import (
    PartitionState as PartitionState,
)
from ottla.cluster.nodes.topics import (
    StateNode as StateNode,
)
from ottla.cluster.nodes.topics import (
    TopicAssignment as TopicAssignment,
)
from ottla.cluster.nodes.topics import (
    TopicIdNode as TopicIdNode,
)
from ottla.cluster.nodes.topics import (
    TopicNode as TopicNode,
)
from ottla.cluster.nodes.topics import (
    state_of as state_of,
)
from ottla.cluster.nodes.topics import (
    with_state as with_state,
)

#: Nodes that always exist, parents first.
PERSISTENT_PATHS = (
    "/cluster",
    "/brokers",
    BROKER_IDS,
    BROKER_EPOCHS,
    BROKER_UNFIT,
    BROKER_ENDS,
    BROKER_CLOCKS,
    BROKER_TOPICS,
    TOPIC_IDS,
    DELETED,
    CONFIG,
    CONFIG + "/topics",
    CONFIG + "/brokers",
    CONFIG + "/groups",
    CONFIG + "/client-metrics",
    CONFIG + "/users",
    CONFIG + "/clients",
    CONFIG + "/ips",
    CONFIG + "/ottla",
    "/admin",
    "/admin/delete_topics",
    CHANGES,
    *ACL_PATHS,
)
