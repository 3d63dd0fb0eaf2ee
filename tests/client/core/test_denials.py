"""What an error says when a broker answers "not authorized"."""

from __future__ import annotations

from typing import Any

import pytest

from ottla.client._core.denials import error_of
from ottla.client.admin_base import bounded
from ottla.client.admin_errors import AdminErrors
from ottla.errors import ErrorCode, KafkaError, error_for


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (ErrorCode.TOPIC_AUTHORIZATION_FAILED, "Not authorized: READ on topic 'orders'."),
        (ErrorCode.GROUP_AUTHORIZATION_FAILED, "Not authorized: DESCRIBE on group 'billing'."),
        (ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "Not authorized: WRITE on transactional id 'copy'."),
        (ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "as the broker says"),
        (ErrorCode.NOT_COORDINATOR, "as the broker says"),
    ],
)
def test_a_denial_names_the_operation_and_the_resource(code: ErrorCode, text: str) -> None:
    asked: dict[str, Any] = {"topic": ("READ", "orders"), "group": ("DESCRIBE", "billing"), "transactional_id": "copy"}
    error = error_of(code, "as the broker says", **asked)
    assert (error.code, str(error)) == (code, text)


class Refusing:
    """An admin client whose calls are all refused."""

    def __init__(self, code: ErrorCode) -> None:
        self.error = error_for(code, "Authorization failed.")

    @bounded
    async def delete_topic(self, name: str) -> None:
        await self.delete_topics([name])

    @bounded
    async def delete_topics(self, names: list[str]) -> None:
        if len(names) > 1:
            raise AdminErrors({name: error_for(self.error.code, "Authorization failed.") for name in names}, {})
        raise self.error

    @bounded
    async def describe_configs(self, topic: str) -> None:
        raise self.error

    @bounded
    async def list_acls(self) -> None:
        raise self.error


async def test_a_denied_admin_call_names_itself_and_its_subject() -> None:
    denied = Refusing(ErrorCode.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaError, match=r"^Not authorized to delete topic 'a'\.$"):
        await denied.delete_topic("a")
    with pytest.raises(AdminErrors, match=r"^2 of 2 failed: a: Not authorized to delete topic 'a'\.; b: ") as caught:
        await denied.delete_topics(["a", "b"])
    assert [error.message for error in caught.value.errors.values()] == [
        f"Not authorized to delete topic {name!r}." for name in "ab"
    ]
    with pytest.raises(KafkaError, match=r"^Not authorized to describe configs of 'a'\.$"):
        await Refusing(ErrorCode.TOPIC_AUTHORIZATION_FAILED).describe_configs("a")
    with pytest.raises(KafkaError, match=r"^Not authorized to list acls of the cluster\.$"):
        await Refusing(ErrorCode.CLUSTER_AUTHORIZATION_FAILED).list_acls()
    with pytest.raises(KafkaError, match=r"^Authorization failed\.$"):
        await Refusing(ErrorCode.INVALID_REQUEST).delete_topic("a")
