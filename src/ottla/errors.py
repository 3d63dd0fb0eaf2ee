"""Whose fault was it, and what does the answer say?

`RemoteProtocolError`: the peer sent something that is not Kafka; close the connection. `LocalProtocolError`: our own
caller asked for something that cannot be written. `StorageError`: this disk. `KafkaError` and its subclasses: an
answer with a code, one class per code of Kafka 4.4, named after the code (CORRUPT_MESSAGE is `CorruptMessageError`).

`retriable` is Kafka's own view of whether the same request may succeed later; clients decide by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar


class RemoteProtocolError(Exception):
    """The peer sent bytes that are not valid Kafka. There is nothing to answer; the connection is closed."""


class LocalProtocolError(ValueError):
    """A message cannot be encoded: a value does not fit its field, or the version lacks a field that is set."""


class StorageError(Exception):
    """This disk failed. The log directory is offline until the process is restarted."""


class ErrorCode(IntEnum):
    """The error codes of Kafka 4.4."""

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    INVALID_FETCH_SIZE = 4
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    BROKER_NOT_AVAILABLE = 8
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    STALE_CONTROLLER_EPOCH = 11
    OFFSET_METADATA_TOO_LARGE = 12
    NETWORK_EXCEPTION = 13
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC_EXCEPTION = 17
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    INVALID_REQUIRED_ACKS = 21
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    INVALID_COMMIT_OFFSET_SIZE = 28
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_SASL_MECHANISM = 33
    ILLEGAL_SASL_STATE = 34
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_REPLICA_ASSIGNMENT = 39
    INVALID_CONFIG = 40
    NOT_CONTROLLER = 41
    INVALID_REQUEST = 42
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTION_COORDINATOR_FENCED = 52
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    SECURITY_DISABLED = 54
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    LOG_DIR_NOT_FOUND = 57
    SASL_AUTHENTICATION_FAILED = 58
    UNKNOWN_PRODUCER_ID = 59
    REASSIGNMENT_IN_PROGRESS = 60
    DELEGATION_TOKEN_AUTH_DISABLED = 61
    DELEGATION_TOKEN_NOT_FOUND = 62
    DELEGATION_TOKEN_OWNER_MISMATCH = 63
    DELEGATION_TOKEN_REQUEST_NOT_ALLOWED = 64
    DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65
    DELEGATION_TOKEN_EXPIRED = 66
    INVALID_PRINCIPAL_TYPE = 67
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FETCH_SESSION_ID_NOT_FOUND = 70
    INVALID_FETCH_SESSION_EPOCH = 71
    LISTENER_NOT_FOUND = 72
    TOPIC_DELETION_DISABLED = 73
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    UNSUPPORTED_COMPRESSION_TYPE = 76
    STALE_BROKER_EPOCH = 77
    OFFSET_NOT_AVAILABLE = 78
    MEMBER_ID_REQUIRED = 79
    PREFERRED_LEADER_NOT_AVAILABLE = 80
    GROUP_MAX_SIZE_REACHED = 81
    FENCED_INSTANCE_ID = 82
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83
    ELECTION_NOT_NEEDED = 84
    NO_REASSIGNMENT_IN_PROGRESS = 85
    GROUP_SUBSCRIBED_TO_TOPIC = 86
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    THROTTLING_QUOTA_EXCEEDED = 89
    PRODUCER_FENCED = 90
    RESOURCE_NOT_FOUND = 91
    DUPLICATE_RESOURCE = 92
    UNACCEPTABLE_CREDENTIAL = 93
    INCONSISTENT_VOTER_SET = 94
    INVALID_UPDATE_VERSION = 95
    FEATURE_UPDATE_FAILED = 96
    PRINCIPAL_DESERIALIZATION_FAILURE = 97
    SNAPSHOT_NOT_FOUND = 98
    POSITION_OUT_OF_RANGE = 99
    UNKNOWN_TOPIC_ID = 100
    DUPLICATE_BROKER_REGISTRATION = 101
    BROKER_ID_NOT_REGISTERED = 102
    INCONSISTENT_TOPIC_ID = 103
    INCONSISTENT_CLUSTER_ID = 104
    TRANSACTIONAL_ID_NOT_FOUND = 105
    FETCH_SESSION_TOPIC_ID_ERROR = 106
    INELIGIBLE_REPLICA = 107
    NEW_LEADER_ELECTED = 108
    OFFSET_MOVED_TO_TIERED_STORAGE = 109
    FENCED_MEMBER_EPOCH = 110
    UNRELEASED_INSTANCE_ID = 111
    UNSUPPORTED_ASSIGNOR = 112
    STALE_MEMBER_EPOCH = 113
    MISMATCHED_ENDPOINT_TYPE = 114
    UNSUPPORTED_ENDPOINT_TYPE = 115
    UNKNOWN_CONTROLLER_ID = 116
    UNKNOWN_SUBSCRIPTION_ID = 117
    TELEMETRY_TOO_LARGE = 118
    INVALID_REGISTRATION = 119
    TRANSACTION_ABORTABLE = 120
    INVALID_RECORD_STATE = 121
    SHARE_SESSION_NOT_FOUND = 122
    INVALID_SHARE_SESSION_EPOCH = 123
    FENCED_STATE_EPOCH = 124
    INVALID_VOTER_KEY = 125
    DUPLICATE_VOTER = 126
    VOTER_NOT_FOUND = 127
    INVALID_REGULAR_EXPRESSION = 128
    REBOOTSTRAP_REQUIRED = 129
    STREAMS_INVALID_TOPOLOGY = 130
    STREAMS_INVALID_TOPOLOGY_EPOCH = 131
    STREAMS_TOPOLOGY_FENCED = 132
    SHARE_SESSION_LIMIT_REACHED = 133
    GROUP_DELETION_FAILED = 134
    STREAMS_TOPOLOGY_DESCRIPTION_UPDATE_FAILED = 135
    CONTROLLER_ID_NOT_REGISTERED = 136


class KafkaError(Exception):
    """An answer with an error code.

    `record_errors` names the offending records of a refused batch: (index in the batch, what is wrong with it).
    `hint` says what to do about it, where that is known; it is not part of the text.
    """

    code: ClassVar[ErrorCode] = ErrorCode.UNKNOWN_SERVER_ERROR
    retriable: ClassVar[bool] = False
    default_message: ClassVar[str] = ""
    hint: str = ""

    def __init__(self, message: str | None = None, *, record_errors: Sequence[tuple[int, str]] = ()) -> None:
        self.message: str = self.default_message if message is None else message
        self.record_errors: Sequence[tuple[int, str]] = record_errors
        super().__init__(self.message)

    def __init_subclass__(cls) -> None:
        if "code" in cls.__dict__:
            _CLASSES[cls.code] = cls


_CLASSES: dict[int, type[KafkaError]] = {}


def error_for(code: int, message: str | None = None) -> KafkaError:
    """Return an exception for an error code; UnknownServerError for a code Kafka 4.4 does not have.

    Raises:
        ValueError: `code` is NONE, which is no error.
    """
    if code == ErrorCode.NONE:
        raise ValueError("error code 0 means success")
    known = _CLASSES.get(code)
    return known(message) if known else UnknownServerError(message or f"Error code {code} is not known.")


class UnknownServerError(KafkaError):
    code = ErrorCode.UNKNOWN_SERVER_ERROR
    default_message = "The broker failed in a way it did not foresee; its log says more."


class OffsetOutOfRangeError(KafkaError):
    code = ErrorCode.OFFSET_OUT_OF_RANGE
    default_message = "The offset lies before the start or after the end of the partition's log."


class CorruptMessageError(KafkaError):
    code = ErrorCode.CORRUPT_MESSAGE
    retriable = True
    default_message = "The record batch is damaged, too large, or has a record without a key in a compacted topic."


class UnknownTopicOrPartitionError(KafkaError):
    code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    retriable = True
    default_message = "There is no such topic or partition on this broker."


class InvalidFetchSizeError(KafkaError):
    code = ErrorCode.INVALID_FETCH_SIZE
    default_message = "The fetch size is not valid."


class LeaderNotAvailableError(KafkaError):
    code = ErrorCode.LEADER_NOT_AVAILABLE
    retriable = True
    default_message = "The partition has no leader at the moment."


class NotLeaderOrFollowerError(KafkaError):
    code = ErrorCode.NOT_LEADER_OR_FOLLOWER
    retriable = True
    default_message = "This broker does not lead the partition, or holds no replica of it."


class RequestTimedOutError(KafkaError):
    code = ErrorCode.REQUEST_TIMED_OUT
    retriable = True
    default_message = "The request was not completed in time."


class BrokerNotAvailableError(KafkaError):
    code = ErrorCode.BROKER_NOT_AVAILABLE
    default_message = "The broker is not available."


class ReplicaNotAvailableError(KafkaError):
    code = ErrorCode.REPLICA_NOT_AVAILABLE
    retriable = True
    default_message = "The replica of the partition is not available."


class MessageTooLargeError(KafkaError):
    code = ErrorCode.MESSAGE_TOO_LARGE
    default_message = "The record batch is larger than max.message.bytes allows."


class StaleControllerEpochError(KafkaError):
    code = ErrorCode.STALE_CONTROLLER_EPOCH
    default_message = "Another broker has become the controller since."


class OffsetMetadataTooLargeError(KafkaError):
    code = ErrorCode.OFFSET_METADATA_TOO_LARGE
    default_message = "The metadata string of a committed offset is longer than offset.metadata.max.bytes."


class NetworkError(KafkaError):
    code = ErrorCode.NETWORK_EXCEPTION
    retriable = True
    default_message = "The connection broke before the answer came."


class CoordinatorLoadInProgressError(KafkaError):
    code = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    retriable = True
    default_message = "The coordinator is still reading its state."


class CoordinatorNotAvailableError(KafkaError):
    code = ErrorCode.COORDINATOR_NOT_AVAILABLE
    retriable = True
    default_message = "There is no coordinator at the moment."


class NotCoordinatorError(KafkaError):
    code = ErrorCode.NOT_COORDINATOR
    retriable = True
    default_message = "This broker does not coordinate that group or transactional id."


class InvalidTopicError(KafkaError):
    code = ErrorCode.INVALID_TOPIC_EXCEPTION
    default_message = "The topic name is not valid, or the topic does not allow this operation."


class RecordListTooLargeError(KafkaError):
    code = ErrorCode.RECORD_LIST_TOO_LARGE
    default_message = "The record batch is larger than a segment."


class NotEnoughReplicasError(KafkaError):
    code = ErrorCode.NOT_ENOUGH_REPLICAS
    retriable = True
    default_message = "Fewer replicas are in sync than min.insync.replicas demands; nothing was written."


class NotEnoughReplicasAfterAppendError(KafkaError):
    code = ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
    retriable = True
    default_message = "The records were written, but fewer replicas are in sync than demanded."


class InvalidRequiredAcksError(KafkaError):
    code = ErrorCode.INVALID_REQUIRED_ACKS
    default_message = "acks must be 0, 1 or -1."


class IllegalGenerationError(KafkaError):
    code = ErrorCode.ILLEGAL_GENERATION
    default_message = "The generation id is not the group's current one."


class InconsistentGroupProtocolError(KafkaError):
    code = ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    default_message = "The member's protocol type or protocols do not fit those of the group."


class InvalidGroupIdError(KafkaError):
    code = ErrorCode.INVALID_GROUP_ID
    default_message = "The group id is not valid."


class UnknownMemberIdError(KafkaError):
    code = ErrorCode.UNKNOWN_MEMBER_ID
    default_message = "The group has no such member."


class InvalidSessionTimeoutError(KafkaError):
    code = ErrorCode.INVALID_SESSION_TIMEOUT
    default_message = "The session timeout is outside group.min.session.timeout.ms and group.max.session.timeout.ms."


class RebalanceInProgressError(KafkaError):
    code = ErrorCode.REBALANCE_IN_PROGRESS
    default_message = "The group is rebalancing; the member has to join again."


class InvalidCommitOffsetSizeError(KafkaError):
    code = ErrorCode.INVALID_COMMIT_OFFSET_SIZE
    default_message = "The committed offsets do not fit into one record batch."


class TopicAuthorizationFailedError(KafkaError):
    code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
    default_message = "Not authorized for this operation on the topic."


class GroupAuthorizationFailedError(KafkaError):
    code = ErrorCode.GROUP_AUTHORIZATION_FAILED
    default_message = "Not authorized for this operation on the group."


class ClusterAuthorizationFailedError(KafkaError):
    code = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
    default_message = "Not authorized for this operation on the cluster."


class InvalidTimestampError(KafkaError):
    code = ErrorCode.INVALID_TIMESTAMP
    default_message = "A record's timestamp is outside the range the topic accepts."


class UnsupportedSaslMechanismError(KafkaError):
    code = ErrorCode.UNSUPPORTED_SASL_MECHANISM
    default_message = "The listener does not offer this SASL mechanism."


class IllegalSaslStateError(KafkaError):
    code = ErrorCode.ILLEGAL_SASL_STATE
    default_message = "The request does not fit the state of the SASL exchange."


class UnsupportedVersionError(KafkaError):
    code = ErrorCode.UNSUPPORTED_VERSION
    default_message = "The broker does not support this version of the API."


class TopicAlreadyExistsError(KafkaError):
    code = ErrorCode.TOPIC_ALREADY_EXISTS
    default_message = "A topic of this name exists already."


class InvalidPartitionsError(KafkaError):
    code = ErrorCode.INVALID_PARTITIONS
    default_message = "The number of partitions is not valid."


class InvalidReplicationFactorError(KafkaError):
    code = ErrorCode.INVALID_REPLICATION_FACTOR
    default_message = "The replication factor is below 1 or above the number of brokers."


class InvalidReplicaAssignmentError(KafkaError):
    code = ErrorCode.INVALID_REPLICA_ASSIGNMENT
    default_message = "The assignment of replicas to brokers is not valid."


class InvalidConfigError(KafkaError):
    code = ErrorCode.INVALID_CONFIG
    default_message = "A configuration value is not valid."


class NotControllerError(KafkaError):
    code = ErrorCode.NOT_CONTROLLER
    retriable = True
    default_message = "This broker is not the controller."


class InvalidRequestError(KafkaError):
    code = ErrorCode.INVALID_REQUEST
    default_message = "The request contradicts itself or the protocol."


class UnsupportedForMessageFormatError(KafkaError):
    code = ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT
    default_message = "The log's message format cannot do this."


class PolicyViolationError(KafkaError):
    code = ErrorCode.POLICY_VIOLATION
    default_message = "A policy of the cluster forbids this."


class OutOfOrderSequenceNumberError(KafkaError):
    code = ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    default_message = "The batch's first sequence number does not follow the producer's last one."


class DuplicateSequenceNumberError(KafkaError):
    code = ErrorCode.DUPLICATE_SEQUENCE_NUMBER
    default_message = "A batch with these sequence numbers was written earlier."


class InvalidProducerEpochError(KafkaError):
    code = ErrorCode.INVALID_PRODUCER_EPOCH
    default_message = "The producer's epoch is older than the one last seen."


class InvalidTxnStateError(KafkaError):
    code = ErrorCode.INVALID_TXN_STATE
    default_message = "The transaction is in a state that does not allow this."


class InvalidProducerIdMappingError(KafkaError):
    code = ErrorCode.INVALID_PRODUCER_ID_MAPPING
    default_message = "The producer id does not belong to this transactional id."


class InvalidTransactionTimeoutError(KafkaError):
    code = ErrorCode.INVALID_TRANSACTION_TIMEOUT
    default_message = "The transaction timeout is larger than transaction.max.timeout.ms."


class ConcurrentTransactionsError(KafkaError):
    code = ErrorCode.CONCURRENT_TRANSACTIONS
    retriable = True
    default_message = "Another operation on this transaction is still under way."


class TransactionCoordinatorFencedError(KafkaError):
    code = ErrorCode.TRANSACTION_COORDINATOR_FENCED
    default_message = "A newer coordinator is responsible for this producer."


class TransactionalIdAuthorizationFailedError(KafkaError):
    code = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    default_message = "Not authorized for this transactional id."


class SecurityDisabledError(KafkaError):
    code = ErrorCode.SECURITY_DISABLED
    default_message = "Security is not enabled on this broker."


class OperationNotAttemptedError(KafkaError):
    code = ErrorCode.OPERATION_NOT_ATTEMPTED
    default_message = "Another part of the request failed, so this part was not tried."


class KafkaStorageError(KafkaError):
    code = ErrorCode.KAFKA_STORAGE_ERROR
    retriable = True
    default_message = "The log directory of the partition is offline or cannot be written."


class LogDirNotFoundError(KafkaError):
    code = ErrorCode.LOG_DIR_NOT_FOUND
    default_message = "The broker has no such log directory."


class SaslAuthenticationFailedError(KafkaError):
    code = ErrorCode.SASL_AUTHENTICATION_FAILED
    default_message = "Authentication failed."


class UnknownProducerIdError(KafkaError):
    code = ErrorCode.UNKNOWN_PRODUCER_ID
    default_message = "Nothing is known about this producer id; its records may have expired."


class ReassignmentInProgressError(KafkaError):
    code = ErrorCode.REASSIGNMENT_IN_PROGRESS
    default_message = "The partition is being reassigned."


class DelegationTokenAuthDisabledError(KafkaError):
    code = ErrorCode.DELEGATION_TOKEN_AUTH_DISABLED
    default_message = "Delegation tokens are not enabled."


class DelegationTokenNotFoundError(KafkaError):
    code = ErrorCode.DELEGATION_TOKEN_NOT_FOUND
    default_message = "There is no such delegation token."


class DelegationTokenOwnerMismatchError(KafkaError):
    code = ErrorCode.DELEGATION_TOKEN_OWNER_MISMATCH
    default_message = "The principal may not renew or expire this delegation token."


class DelegationTokenRequestNotAllowedError(KafkaError):
    code = ErrorCode.DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
    default_message = "Delegation tokens cannot be managed over this connection."


class DelegationTokenAuthorizationFailedError(KafkaError):
    code = ErrorCode.DELEGATION_TOKEN_AUTHORIZATION_FAILED
    default_message = "Not authorized for this delegation token."


class DelegationTokenExpiredError(KafkaError):
    code = ErrorCode.DELEGATION_TOKEN_EXPIRED
    default_message = "The delegation token has expired."


class InvalidPrincipalTypeError(KafkaError):
    code = ErrorCode.INVALID_PRINCIPAL_TYPE
    default_message = "The type of principal is not supported."


class NonEmptyGroupError(KafkaError):
    code = ErrorCode.NON_EMPTY_GROUP
    default_message = "The group still has members."


class GroupIdNotFoundError(KafkaError):
    code = ErrorCode.GROUP_ID_NOT_FOUND
    default_message = "There is no such group."


class FetchSessionIdNotFoundError(KafkaError):
    code = ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    retriable = True
    default_message = "The broker has no such fetch session."


class InvalidFetchSessionEpochError(KafkaError):
    code = ErrorCode.INVALID_FETCH_SESSION_EPOCH
    retriable = True
    default_message = "The epoch of the fetch session is not the expected one."


class ListenerNotFoundError(KafkaError):
    code = ErrorCode.LISTENER_NOT_FOUND
    retriable = True
    default_message = "The leader has no listener of the name used for this request."


class TopicDeletionDisabledError(KafkaError):
    code = ErrorCode.TOPIC_DELETION_DISABLED
    default_message = "Deleting topics is disabled (delete.topic.enable)."


class FencedLeaderEpochError(KafkaError):
    code = ErrorCode.FENCED_LEADER_EPOCH
    retriable = True
    default_message = "The leader epoch is older than the partition's current one."


class UnknownLeaderEpochError(KafkaError):
    code = ErrorCode.UNKNOWN_LEADER_EPOCH
    retriable = True
    default_message = "The leader epoch is newer than the one this broker knows."


class UnsupportedCompressionTypeError(KafkaError):
    code = ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    default_message = "The client cannot read this compression type."


class StaleBrokerEpochError(KafkaError):
    code = ErrorCode.STALE_BROKER_EPOCH
    default_message = "The broker has registered again since."


class OffsetNotAvailableError(KafkaError):
    code = ErrorCode.OFFSET_NOT_AVAILABLE
    retriable = True
    default_message = "The new leader's high watermark is not known yet."


class MemberIdRequiredError(KafkaError):
    code = ErrorCode.MEMBER_ID_REQUIRED
    default_message = "The member has to join again with the member id of this answer."


class PreferredLeaderNotAvailableError(KafkaError):
    code = ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE
    retriable = True
    default_message = "The preferred leader is not alive or not in sync."


class GroupMaxSizeReachedError(KafkaError):
    code = ErrorCode.GROUP_MAX_SIZE_REACHED
    default_message = "The group has group.max.size members already."


class FencedInstanceIdError(KafkaError):
    code = ErrorCode.FENCED_INSTANCE_ID
    default_message = "Another member has registered with the same group.instance.id since."


class EligibleLeadersNotAvailableError(KafkaError):
    code = ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
    retriable = True
    default_message = "No replica may become leader."


class ElectionNotNeededError(KafkaError):
    code = ErrorCode.ELECTION_NOT_NEEDED
    retriable = True
    default_message = "The partition has the wanted leader already."


class NoReassignmentInProgressError(KafkaError):
    code = ErrorCode.NO_REASSIGNMENT_IN_PROGRESS
    default_message = "The partition is not being reassigned."


class GroupSubscribedToTopicError(KafkaError):
    code = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
    default_message = "The group is subscribed to the topic, so its offsets cannot be deleted."


class InvalidRecordError(KafkaError):
    code = ErrorCode.INVALID_RECORD
    default_message = "A record breaks a rule of the topic or of the record format."


class UnstableOffsetCommitError(KafkaError):
    code = ErrorCode.UNSTABLE_OFFSET_COMMIT
    retriable = True
    default_message = "An open transaction has offsets that are not decided yet."


class ThrottlingQuotaExceededError(KafkaError):
    code = ErrorCode.THROTTLING_QUOTA_EXCEEDED
    retriable = True
    default_message = "A quota is exceeded."


class ProducerFencedError(KafkaError):
    code = ErrorCode.PRODUCER_FENCED
    default_message = "A newer producer uses the same transactional id."


class ResourceNotFoundError(KafkaError):
    code = ErrorCode.RESOURCE_NOT_FOUND
    default_message = "The resource does not exist."


class DuplicateResourceError(KafkaError):
    code = ErrorCode.DUPLICATE_RESOURCE
    default_message = "The request names the same resource twice."


class UnacceptableCredentialError(KafkaError):
    code = ErrorCode.UNACCEPTABLE_CREDENTIAL
    default_message = "The credential does not meet the rules."


class InconsistentVoterSetError(KafkaError):
    code = ErrorCode.INCONSISTENT_VOTER_SET
    default_message = "Sender or receiver is not one of the expected voters."


class InvalidUpdateVersionError(KafkaError):
    code = ErrorCode.INVALID_UPDATE_VERSION
    default_message = "The version of the update is not valid."


class FeatureUpdateFailedError(KafkaError):
    code = ErrorCode.FEATURE_UPDATE_FAILED
    default_message = "The features could not be updated."


class PrincipalDeserializationFailureError(KafkaError):
    code = ErrorCode.PRINCIPAL_DESERIALIZATION_FAILURE
    default_message = "The principal of a forwarded request could not be read."


class SnapshotNotFoundError(KafkaError):
    code = ErrorCode.SNAPSHOT_NOT_FOUND
    default_message = "There is no such snapshot."


class PositionOutOfRangeError(KafkaError):
    code = ErrorCode.POSITION_OUT_OF_RANGE
    default_message = "The position lies outside the snapshot."


class UnknownTopicIdError(KafkaError):
    code = ErrorCode.UNKNOWN_TOPIC_ID
    retriable = True
    default_message = "There is no topic of this id on this broker."


class DuplicateBrokerRegistrationError(KafkaError):
    code = ErrorCode.DUPLICATE_BROKER_REGISTRATION
    default_message = "Another live broker has this broker id."


class BrokerIdNotRegisteredError(KafkaError):
    code = ErrorCode.BROKER_ID_NOT_REGISTERED
    default_message = "No broker of this id is registered."


class InconsistentTopicIdError(KafkaError):
    code = ErrorCode.INCONSISTENT_TOPIC_ID
    retriable = True
    default_message = "The log belongs to a topic with another id."


class InconsistentClusterIdError(KafkaError):
    code = ErrorCode.INCONSISTENT_CLUSTER_ID
    default_message = "The request is meant for another cluster."


class TransactionalIdNotFoundError(KafkaError):
    code = ErrorCode.TRANSACTIONAL_ID_NOT_FOUND
    default_message = "There is no such transactional id."


class FetchSessionTopicIdError(KafkaError):
    code = ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
    retriable = True
    default_message = "The fetch session mixes topic names and topic ids."


class IneligibleReplicaError(KafkaError):
    code = ErrorCode.INELIGIBLE_REPLICA
    default_message = "A replica of the new ISR may not be in it."


class NewLeaderElectedError(KafkaError):
    code = ErrorCode.NEW_LEADER_ELECTED
    default_message = "The change was made, and the partition has a new leader."


class OffsetMovedToTieredStorageError(KafkaError):
    code = ErrorCode.OFFSET_MOVED_TO_TIERED_STORAGE
    default_message = "The offset is in tiered storage only."


class FencedMemberEpochError(KafkaError):
    code = ErrorCode.FENCED_MEMBER_EPOCH
    default_message = "The member epoch is fenced; the member has to give up its partitions and join again."


class UnreleasedInstanceIdError(KafkaError):
    code = ErrorCode.UNRELEASED_INSTANCE_ID
    default_message = "Another member still uses this group.instance.id."


class UnsupportedAssignorError(KafkaError):
    code = ErrorCode.UNSUPPORTED_ASSIGNOR
    default_message = "The group does not support this assignor."


class StaleMemberEpochError(KafkaError):
    code = ErrorCode.STALE_MEMBER_EPOCH
    default_message = "The member epoch is not the current one; the next heartbeat tells it."


class MismatchedEndpointTypeError(KafkaError):
    code = ErrorCode.MISMATCHED_ENDPOINT_TYPE
    default_message = "The request was sent to the wrong kind of endpoint."


class UnsupportedEndpointTypeError(KafkaError):
    code = ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
    default_message = "This kind of endpoint is not supported."


class UnknownControllerIdError(KafkaError):
    code = ErrorCode.UNKNOWN_CONTROLLER_ID
    default_message = "There is no controller of this id."


class UnknownSubscriptionIdError(KafkaError):
    code = ErrorCode.UNKNOWN_SUBSCRIPTION_ID
    default_message = "The telemetry subscription is not the current one."


class TelemetryTooLargeError(KafkaError):
    code = ErrorCode.TELEMETRY_TOO_LARGE
    default_message = "The telemetry is larger than telemetry.max.bytes."


class InvalidRegistrationError(KafkaError):
    code = ErrorCode.INVALID_REGISTRATION
    default_message = "The registration of the broker is not valid."


class TransactionAbortableError(KafkaError):
    code = ErrorCode.TRANSACTION_ABORTABLE
    default_message = "The transaction failed and can be aborted."


class InvalidRecordStateError(KafkaError):
    code = ErrorCode.INVALID_RECORD_STATE
    default_message = "The record is not in a state that can be acknowledged."


class ShareSessionNotFoundError(KafkaError):
    code = ErrorCode.SHARE_SESSION_NOT_FOUND
    retriable = True
    default_message = "The broker has no such share session."


class InvalidShareSessionEpochError(KafkaError):
    code = ErrorCode.INVALID_SHARE_SESSION_EPOCH
    retriable = True
    default_message = "The epoch of the share session is not the expected one."


class FencedStateEpochError(KafkaError):
    code = ErrorCode.FENCED_STATE_EPOCH
    default_message = "The state epoch is older than the current one."


class InvalidVoterKeyError(KafkaError):
    code = ErrorCode.INVALID_VOTER_KEY
    default_message = "The voter key is not that of the receiving replica."


class DuplicateVoterError(KafkaError):
    code = ErrorCode.DUPLICATE_VOTER
    default_message = "The voter is in the set of voters already."


class VoterNotFoundError(KafkaError):
    code = ErrorCode.VOTER_NOT_FOUND
    default_message = "The voter is not in the set of voters."


class InvalidRegularExpressionError(KafkaError):
    code = ErrorCode.INVALID_REGULAR_EXPRESSION
    default_message = "The regular expression is not valid."


class RebootstrapRequiredError(KafkaError):
    code = ErrorCode.REBOOTSTRAP_REQUIRED
    default_message = "The client's metadata belongs to another cluster; it has to bootstrap again."


class StreamsInvalidTopologyError(KafkaError):
    code = ErrorCode.STREAMS_INVALID_TOPOLOGY
    default_message = "The topology is not valid."


class StreamsInvalidTopologyEpochError(KafkaError):
    code = ErrorCode.STREAMS_INVALID_TOPOLOGY_EPOCH
    default_message = "The topology epoch is not valid."


class StreamsTopologyFencedError(KafkaError):
    code = ErrorCode.STREAMS_TOPOLOGY_FENCED
    default_message = "The topology epoch is older than the group's."


class ShareSessionLimitReachedError(KafkaError):
    code = ErrorCode.SHARE_SESSION_LIMIT_REACHED
    retriable = True
    default_message = "The broker has as many share sessions as it allows."


class GroupDeletionFailedError(KafkaError):
    code = ErrorCode.GROUP_DELETION_FAILED
    default_message = "The group could not be deleted; its entry says why."


class StreamsTopologyDescriptionUpdateFailedError(KafkaError):
    code = ErrorCode.STREAMS_TOPOLOGY_DESCRIPTION_UPDATE_FAILED
    default_message = "The topology description could not be stored."


class ControllerIdNotRegisteredError(KafkaError):
    code = ErrorCode.CONTROLLER_ID_NOT_REGISTERED
    default_message = "No controller of this id is registered."
