"""One question after the other against a scripted cluster: who is asked, what is asked again, what ends."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ottla.client._core.asking import ANY, CONTROLLER, Ask, AskMachine, AskSettings, CallTimeoutError
from ottla.client._core.connections import Connect
from ottla.client._core.requests import Send
from ottla.errors import BrokerNotAvailableError, KafkaError, NetworkError, UnsupportedVersionError
from ottla.protocol.api import APIS, VERSIONS, ApiKey
from ottla.protocol.messages.list_groups import ListGroupsRequest, ListGroupsResponse
from ottla.protocol.messages.metadata import MetadataResponse, MetadataResponseBroker

EVERYTHING = {int(key): span for key, span in VERSIONS.items()}


class Cluster:
    """Brokers 1 to 3 behind one bootstrap address; what is sent waits in `sent` until the test answers it."""

    def __init__(self, settings: AskSettings | None = None, seed: int = 1) -> None:
        self.machine = AskMachine(settings or AskSettings(), [("bootstrap", 9092)], random.Random(seed))
        self.now_ms = 0.0
        self.wake_ms = 0.0
        self.controller = 1
        self.down: set[int] = set()
        self.versions = dict(EVERYTHING)
        self.sent: list[Send] = []

    def ask(self, target: int | str = ANY, timeout_ms: float = 60_000) -> Ask:
        ask = Ask(
            ApiKey.LIST_GROUPS,
            lambda _version: ListGroupsRequest(),
            target,  # type: ignore[arg-type]
            self.now_ms + timeout_ms,
        )
        self.machine.add(ask)
        return ask

    def turn(self) -> None:
        """Do what the core asks for until it asks for nothing more; Metadata is answered at once."""
        while True:
            actions, self.wake_ms = self.machine.poll(self.now_ms)
            for callback in self.machine.take_fired():
                callback()
            if not actions:
                return
            for action in actions:
                match action:
                    case Connect(node):
                        if node.id in self.down:
                            self.machine.on_down(node.id, NetworkError(f"{node.id} is down"), self.now_ms)
                        else:
                            self.machine.on_connected(node.id, self.versions, {}, self.now_ms)
                    case Send(purpose="metadata"):
                        action.build(action.version)
                        self.machine.on_response(action, self.metadata(), self.now_ms)
                    case Send():
                        self.sent.append(action)

    def metadata(self) -> MetadataResponse:
        brokers = [MetadataResponseBroker(node_id=number, host="host", port=9090 + number) for number in (1, 2, 3)]
        return MetadataResponse(brokers=brokers, controller_id=self.controller)

    def later(self, milliseconds: float) -> None:
        self.now_ms += milliseconds
        self.turn()

    def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass from one moment that matters to the next."""
        for _ in range(10_000):
            self.turn()
            if condition():
                return
            self.now_ms = max(self.wake_ms, self.now_ms + 1)
        raise AssertionError(f"nothing came of it by {self.now_ms} ms")

    def answer(self, send: Send) -> ListGroupsResponse:
        response = ListGroupsResponse()
        self.machine.on_response(send, response, self.now_ms)
        self.turn()
        return response

    def lose(self, send: Send, error: Exception | None = None) -> None:
        self.machine.on_failed(send, error or NetworkError("the connection broke"), self.now_ms)
        self.turn()


def test_any_broker_answers() -> None:
    cluster = Cluster()
    ask = cluster.ask()
    cluster.turn()
    (send,) = cluster.sent
    assert (send.key, send.version) == (ApiKey.LIST_GROUPS, APIS[ApiKey.LIST_GROUPS].max_version)
    answer = cluster.answer(send)
    assert ask.done
    assert ask.answer is answer
    assert ask.version == send.version


def test_the_controller_is_looked_up_and_asked() -> None:
    cluster = Cluster()
    cluster.controller = 2
    cluster.ask(CONTROLLER)
    cluster.turn()
    assert [send.node_id for send in cluster.sent] == [2]


def test_a_question_waits_while_there_is_no_controller() -> None:
    cluster = Cluster()
    cluster.controller = -1
    ask = cluster.ask(CONTROLLER)
    cluster.later(0)
    assert cluster.sent == []
    cluster.controller = 3
    cluster.until(lambda: bool(cluster.sent))
    assert cluster.sent[0].node_id == 3
    assert not ask.done


def test_a_broker_that_is_not_in_the_cluster_is_an_error_that_names_the_others() -> None:
    cluster = Cluster()
    ask = cluster.ask(7)
    cluster.until(lambda: ask.done)
    assert isinstance(ask.error, BrokerNotAvailableError)
    assert "no broker 7 in the cluster, only 1, 2, 3" in str(ask.error)


def test_a_question_is_asked_again_when_its_connection_breaks() -> None:
    cluster = Cluster()
    ask = cluster.ask()
    cluster.turn()
    cluster.lose(cluster.sent.pop())
    cluster.until(lambda: bool(cluster.sent))
    assert cluster.now_ms >= 80  # retry.backoff.ms with its jitter
    cluster.answer(cluster.sent.pop())
    assert ask.done
    assert ask.error is None


def test_a_failure_that_cannot_be_repaired_ends_the_question() -> None:
    cluster = Cluster()
    ask = cluster.ask()
    cluster.turn()
    cluster.lose(cluster.sent.pop(), UnsupportedVersionError("no"))
    assert isinstance(ask.error, UnsupportedVersionError)


def test_the_controller_that_moved_is_followed() -> None:
    cluster = Cluster()
    ask = cluster.ask(CONTROLLER)
    cluster.turn()
    cluster.down.add(1)
    cluster.controller = 2
    cluster.machine.on_down(1, NetworkError("gone"), cluster.now_ms)
    cluster.lose(cluster.sent.pop())
    cluster.until(lambda: bool(cluster.sent))
    assert cluster.sent[0].node_id == 2
    assert not ask.done


def test_a_question_ends_at_its_deadline_and_says_what_was_in_the_way() -> None:
    cluster = Cluster()
    cluster.down = {1, 2, 3, -1}
    ask = cluster.ask(timeout_ms=5_000)
    cluster.until(lambda: ask.done)
    assert 5_000 <= cluster.now_ms < 5_100
    assert isinstance(ask.error, CallTimeoutError)
    assert isinstance(ask.error, TimeoutError)
    assert "-1 is down" in str(ask.error)


def test_an_answer_that_never_comes_ends_at_the_deadline_and_is_ignored_afterwards() -> None:
    cluster = Cluster()
    ask = cluster.ask(timeout_ms=1_000)
    cluster.turn()
    cluster.later(1_000)
    assert isinstance(ask.error, CallTimeoutError)
    cluster.answer(cluster.sent.pop())
    assert ask.answer is None


@pytest.mark.parametrize(("span", "text"), [(None, "does not serve ListGroups"), ((90, 91), "in no version")])
def test_an_api_the_broker_does_not_serve(span: tuple[int, int] | None, text: str) -> None:
    cluster = Cluster()
    del cluster.versions[ApiKey.LIST_GROUPS]
    if span is not None:
        cluster.versions[ApiKey.LIST_GROUPS] = span
    ask = cluster.ask()
    cluster.turn()
    assert isinstance(ask.error, UnsupportedVersionError)
    assert text in str(ask.error)
    assert ask.error.hint


def test_no_more_than_five_questions_wait_at_one_broker() -> None:
    cluster = Cluster()
    asks = [cluster.ask(2) for _ in range(8)]
    cluster.turn()
    assert len(cluster.sent) == 5
    while cluster.sent:
        cluster.answer(cluster.sent.pop(0))
    assert all(ask.done for ask in asks)


def test_a_cancelled_question_is_not_sent_and_a_closed_client_ends_all() -> None:
    cluster = Cluster()
    given_up, waiting = cluster.ask(), cluster.ask()
    cluster.machine.cancel(given_up)
    cluster.turn()
    assert len(cluster.sent) == 1
    cluster.machine.fail_all(KafkaError("closed"))
    assert str(waiting.error) == "closed"
    assert not given_up.done


@pytest.mark.parametrize("seed", range(20))
def test_every_question_ends_whatever_breaks(seed: int) -> None:
    """Brokers go and come, the controller moves, answers get lost: each question has an outcome by its deadline."""
    cluster = Cluster(seed=seed)
    dice = random.Random(seed)
    asks: list[Ask] = []
    for _ in range(400):
        match dice.randrange(8):
            case 0:
                targets: list[int | str] = [ANY, CONTROLLER, 1, 2, 3]
                asks.append(cluster.ask(dice.choice(targets), dice.choice([500, 5_000, 60_000])))
            case 1:
                cluster.down ^= {dice.choice([1, 2, 3, -1])}
            case 2:
                cluster.controller = dice.choice([-1, 1, 2, 3])
            case 3:
                node_id = dice.choice([1, 2, 3])
                cluster.machine.on_down(node_id, NetworkError("broke"), cluster.now_ms)
                for send in [send for send in cluster.sent if send.node_id == node_id]:
                    cluster.sent.remove(send)
                    cluster.lose(send)
            case _ if cluster.sent:
                send = cluster.sent.pop(dice.randrange(len(cluster.sent)))
                cluster.lose(send) if dice.random() < 0.3 else cluster.answer(send)
            case _:
                cluster.later(dice.random() * 300)
    cluster.later(61_000)
    cluster.turn()
    assert asks
    for ask in asks:
        assert ask.done
        assert (ask.answer is not None) != (ask.error is not None)
