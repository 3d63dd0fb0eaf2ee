"""Error codes and their exceptions."""

from __future__ import annotations

import pytest

from ottla import errors
from ottla.errors import ErrorCode, KafkaError, UnknownServerError, error_for


def test_every_code_but_none_has_one_exception_with_a_message_of_its_own() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, KafkaError)]
    classes.remove(KafkaError)
    assert [cls.code for cls in classes] == [code for code in ErrorCode if code != ErrorCode.NONE]
    assert all(cls.__name__.endswith("Error") for cls in classes)
    assert len({cls.default_message for cls in classes}) == len(classes)


def test_codes_are_those_of_kafka_4_4() -> None:
    assert list(ErrorCode) == list(range(-1, 137))


@pytest.mark.parametrize(
    ("code", "retriable"),
    [
        (ErrorCode.NOT_LEADER_OR_FOLLOWER, True),
        (ErrorCode.CORRUPT_MESSAGE, True),
        (ErrorCode.KAFKA_STORAGE_ERROR, True),
        (ErrorCode.REBALANCE_IN_PROGRESS, False),
        (ErrorCode.OFFSET_OUT_OF_RANGE, False),
        (ErrorCode.UNKNOWN_SERVER_ERROR, False),
    ],
)
def test_retriable_is_kafkas_view(code: ErrorCode, retriable: bool) -> None:
    assert error_for(code).retriable is retriable


def test_an_error_knows_its_code_and_message() -> None:
    error = error_for(3, "no topic x")
    assert isinstance(error, errors.UnknownTopicOrPartitionError)
    assert (error.code, error.message, str(error)) == (3, "no topic x", "no topic x")
    assert error_for(3).message == errors.UnknownTopicOrPartitionError.default_message


def test_a_code_kafka_does_not_have_is_an_unknown_server_error() -> None:
    error = error_for(9999)
    assert isinstance(error, UnknownServerError)
    assert "9999" in error.message


def test_success_is_no_error() -> None:
    with pytest.raises(ValueError, match="success"):
        error_for(ErrorCode.NONE)


def test_errors_of_a_refused_batch_name_its_records() -> None:
    assert errors.InvalidRecordError("bad", record_errors=[(3, "no key")]).record_errors == [(3, "no key")]
    assert errors.InvalidRecordError().record_errors == ()
