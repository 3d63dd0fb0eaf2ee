"""Who answers a question, from what, and when it does not."""

from __future__ import annotations

import pytest
from tests.streams.queries.world import SESSION_MS, Instance

from ottla.streams.errors import QuestionError, StoreMovingError, UnknownStoreError
from ottla.streams.queries.answers import Answer, Question
from ottla.streams.queries.store import StoreView
from ottla.streams.topology import TaskId


def ask(instance: Instance, key: str = "anna") -> Answer:
    (answer,) = instance.desk.ask(Question(store="users", key=key.encode()))
    return answer


def owner_of_all() -> Instance:
    instance = Instance()
    for partition in range(2):
        instance.open("users", partition)
        instance.open("by-minute", partition)
    return instance


def test_a_key_is_answered_with_positions_lag_and_time() -> None:
    instance = owner_of_all()
    instance.put_user("anna", b'{"country":"NL"}')
    answer = ask(instance)
    assert [(row.value, row.timestamp) for row in answer.rows] == [(b'{"country":"NL"}', 1234)]
    where = f"users-{answer.task.partition}"
    assert (answer.standing.positions, answer.standing.lag) == ({where: 7}, {where: 2})
    assert answer.standing.time_ms == 1_700_000_000_000


def test_zombie_refuses_query() -> None:
    """An owner that the coordinator has not confirmed for a session does not answer; confirmed again, it does."""
    instance = owner_of_all()
    instance.put_user("anna", b"{}")
    instance.now_ms += SESSION_MS - 1
    assert ask(instance).rows
    instance.now_ms += 1
    with pytest.raises(StoreMovingError, match="moving"):
        ask(instance)
    instance.confirmed_ms = instance.now_ms
    assert ask(instance).rows


def test_an_instance_that_was_never_confirmed_does_not_answer() -> None:
    instance = owner_of_all()
    instance.confirmed_ms = None
    with pytest.raises(StoreMovingError):
        ask(instance)


def test_no_forward_loop() -> None:
    """Two instances take each other for the owner: the question makes one hop, and is refused there."""
    hops: list[str] = []

    def to_second(endpoint: str, task: TaskId, question: Question) -> Answer:
        hops.append(endpoint)
        return second.desk.ask(question, forwarded=True)[0]

    def to_first(endpoint: str, task: TaskId, question: Question) -> Answer:
        hops.append(endpoint)
        return first.desk.ask(question, forwarded=True)[0]

    first, second = Instance("a:1", to_second), Instance("b:2", to_first)
    users = first.sub("users").id
    first.routes.owners = {f"{users}_{partition}": "b:2" for partition in range(2)}
    second.routes.owners = {f"{users}_{partition}": "a:1" for partition in range(2)}
    with pytest.raises(StoreMovingError):
        ask(first)
    assert hops == ["b:2"]


def test_a_question_makes_one_hop_to_the_owner() -> None:
    owner = owner_of_all()
    owner.put_user("anna", b"{}")
    asked = Instance("b:2", lambda endpoint, task, question: owner.desk.ask(question, forwarded=True)[0])
    asked.routes.owners = {f"{asked.sub('users').id}_{partition}": "a:1" for partition in range(2)}
    assert ask(asked).rows


def test_a_task_that_restores_or_is_gone_is_moving() -> None:
    instance = owner_of_all()
    instance.put_user("anna", b"{}")
    task = ask(instance).task
    instance.board.tell(task, None)
    with pytest.raises(StoreMovingError):
        ask(instance)
    instance.tell(task)
    assert ask(instance).rows
    instance.board.close(task)
    with pytest.raises(StoreMovingError):
        ask(instance)


def test_a_range_goes_through_all_tasks_and_ends_at_the_limit() -> None:
    instance = owner_of_all()
    names = [f"user{number}" for number in range(6)]
    for name in names:
        instance.put_user(name, b"{}")
    answers = instance.desk.ask(Question(store="users", since=b"user1", until=b"user4"))
    assert sorted(row.key for answer in answers for row in answer.rows) == [b"user1", b"user2", b"user3", b"user4"]
    assert all(answer.complete for answer in answers)
    limited = instance.desk.ask(Question(store="users", limit=1))
    assert all(len(answer.rows) == 1 and not answer.complete for answer in limited)


def test_windows_of_a_key_that_have_not_expired() -> None:
    instance = owner_of_all()
    for minute in range(8):
        instance.put_window("nl", minute * 60_000, minute, 7 * 60_000)
    view = StoreView(instance.desk, instance.routes.spec("by-minute"))
    # Kept for 5 minutes of stream time.
    assert [(each.start, each.end, each.value) for each in view.fetch("nl")] == [
        (minute * 60_000, (minute + 1) * 60_000, minute) for minute in range(3, 8)
    ]
    assert [each.value for each in view.fetch("nl", 240_000, 300_000)] == [4, 5]
    with pytest.raises(QuestionError, match="fetch"):
        view["nl"]
    with pytest.raises(QuestionError, match="fetch"):
        view.get("nl")


def test_a_view_is_asked_like_a_dict() -> None:
    instance = owner_of_all()
    instance.put_user("anna", b'{"age":30}')
    users = StoreView(instance.desk, instance.routes.spec("users"))
    assert users["anna"] == {"age": 30}
    assert users.get("bob") is None
    assert list(users.range("a", "b")) == [("anna", {"age": 30})]
    with pytest.raises(KeyError):
        users["bob"]


def test_what_cannot_be_asked_says_so() -> None:
    instance = owner_of_all()
    with pytest.raises(UnknownStoreError, match="there are: by-minute, users"):
        instance.desk.ask(Question(store="nobody", key=b"a"))
    with pytest.raises(QuestionError, match="ask for the windows of one key"):
        instance.desk.ask(Question(store="by-minute"))
    with pytest.raises(QuestionError, match="has no windows"):
        instance.desk.ask(Question(store="users", key=b"a", window_since=1))
    with pytest.raises(QuestionError, match="partitions 0 to 1"):
        instance.desk.ask(Question(store="users", key=b"a", partition=2))
