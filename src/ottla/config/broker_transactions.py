"""Broker keys: transactions."""

from __future__ import annotations

from ottla.config.keys import ANYTHING, ConfigType, Update, at_least, row

BOOLEAN = ConfigType.BOOLEAN
INT = ConfigType.INT
SHORT = ConfigType.SHORT
CLUSTER_WIDE = Update.CLUSTER_WIDE
HIGH = "HIGH"
LOW = "LOW"

# fmt: off
ROWS = (
    row("add.partitions.to.txn.retry.backoff.max.ms", INT, "100", at_least(0), HIGH,
        "Longest time for which a partition of a transaction is tried to be verified or added."),
    row("add.partitions.to.txn.retry.backoff.ms", INT, "20", at_least(1), HIGH,
        "Pause between tries to verify or add a partition of a transaction."),
    row("transaction.abort.timed.out.transaction.cleanup.interval.ms", INT, "10000", at_least(1), LOW,
        "How often overdue transactions are looked for."),
    row("transaction.max.timeout.ms", INT, "900000", at_least(1), HIGH,
        "Longest timeout a client may give a transaction."),
    row("transaction.partition.verification.enable", BOOLEAN, "true", ANYTHING, LOW,
        "Checks with the coordinator that a partition belongs to the transaction (KIP-890).", update=CLUSTER_WIDE),
    row("transaction.remove.expired.transaction.cleanup.interval.ms", INT, "3600000", at_least(1), LOW,
        "How often expired transactional ids are looked for."),
    row("transaction.state.log.load.buffer.size", INT, "5242880", at_least(1), HIGH,
        "Bytes read at once while loading."),
    row("transaction.state.log.min.isr", INT, "2", at_least(1), HIGH,
        "min.insync.replicas of `__transaction_state`, at most as many as there are replicas."),
    row("transaction.state.log.num.partitions", INT, "50", at_least(1), HIGH,
        "Partitions of `__transaction_state`."),
    row("transaction.state.log.replication.factor", SHORT, "3", at_least(1), HIGH,
        "Replicas of `__transaction_state`, at most as many as there are brokers."),
    row("transaction.state.log.segment.bytes", INT, "104857600", at_least(1), HIGH,
        "Segment size of `__transaction_state`; at least 1 MiB, as every topic's."),
    row("transaction.two.phase.commit.enable", BOOLEAN, "false", ANYTHING, LOW,
        "Lets clients take part in two-phase commits (KIP-939).", refused="Two-phase commit (KIP-939) is not served yet."),
    row("transactional.id.expiration.ms", INT, "604800000", at_least(1), HIGH,
        "How long an idle transactional id is remembered."),
)
