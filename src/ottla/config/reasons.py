"""Why a key changes nothing, or is refused: the reasons that many rows share. They end up in the documentation."""

from __future__ import annotations

SHARE_ASSIGNOR = "There is one assignor of share groups, `simple`, and it runs at once, on the event loop."
STREAMS_ASSIGNOR = "There is one assignor of streams tasks, `sticky`, and it runs at once, on the event loop."
STREAMS_WARMUP = "As in Kafka 4.4, no task is warmed up yet."
ONE_BROKER = "A single broker has no followers; this is read once there are several."
TIERED_STORAGE = "Tiered storage is not served yet."
EVENT_LOOP = "There is no such pool: one event loop does this work, with a few threads for disks."
NO_PURGATORY = "A request that no longer waits is forgotten at once; nothing is left to purge."
JAVA_CLASS = "It names a Java class, and there is no JVM here to load it."
NO_KRAFT = "There is no KRaft quorum: the cluster's state is kept in a coordination tree."
THROTTLES = "Throttles of replication always look back over 11 windows of a second, the defaults of these keys."
NO_MOVES = "Each step of a move between log directories waits for its own bytes; there are no windows."
PROMETHEUS = "Java's reporters cannot be loaded; metrics are read at /metrics, as counters, without sampling."
KINIT = "The library of Kerberos gets and renews tickets itself, from the keytab; nothing runs kinit."
OAUTHBEARER = "It is about tokens that a client gets; a broker only checks them."
TLS_PROTOCOL = "It chooses Java's context; the versions are those of `ssl.enabled.protocols`."
PREALLOCATE = "Reserving space ahead helps old Windows file systems only; files grow as they are written."
TESTS_ONLY = "It exists for Kafka's own tests."
SOCKET_BUFFERS = (
    "The operating system adapts the buffers of each connection; a fixed size of Kafka's default costs two to three times "
    "the CPU for receiving large requests."
)
DEAD_LETTERS = "Dead-letter queues of share groups (KIP-1191) are not served yet."
NO_BUFFER = "Batches are built where they are needed; there is no buffer to keep."
