"""How an admin client's calls reach the right broker, and when they are tried again.

The calls (`admin_topics`, `admin_groups`, ...) say what to send and what an answer means; this finds the controller, the
coordinators and the leaders, tries again what may succeed later, and gathers what failed. Rules of Kafka's Java client
(KafkaAdminClient): an answer that says "not me" or "not yet" is followed by another look, with back-off, until
`default.api.timeout.ms`; other errors are the caller's. One rule differs: a topic that the metadata does not know is
looked for a second and a half, not for a minute.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping, Set
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from ottla.client._core.asking import ANY, Ask, AskMachine, AskSettings, CallTimeoutError, Target
from ottla.client._core.denials import DENIED
from ottla.client._core.metadata import Node
from ottla.client.admin_errors import AdminErrors
from ottla.client.errors import ClosedError
from ottla.client.keys import Duration, duration_s
from ottla.errors import ErrorCode, KafkaError, UnknownServerError, error_for
from ottla.protocol.api import APIS, ApiKey
from ottla.protocol.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.schema import Message
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from random import Random

    from ottla.client.runtime import Runtime

T = TypeVar("T", bound=Hashable)
R = TypeVar("R")
A = TypeVar("A")
P = ParamSpec("P")
M = TypeVar("M", bound=Message)

#: Kinds of coordinators in FindCoordinator.
GROUP, TRANSACTION = 0, 1

#: What a broker says that does not coordinate the group, or not yet.
COORDINATOR_ERRORS: Final = frozenset(
    {ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR}
)
#: Codes that say "not me" or "not yet".
_AGAIN: Final = frozenset(
    {
        ErrorCode.NOT_CONTROLLER,
        ErrorCode.THROTTLING_QUOTA_EXCEEDED,
        *COORDINATOR_ERRORS,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.OFFSET_NOT_AVAILABLE,
        ErrorCode.UNSTABLE_OFFSET_COMMIT,
        ErrorCode.CONCURRENT_TRANSACTIONS,
        ErrorCode.NETWORK_EXCEPTION,
    }
)
#: A topic that was made a moment ago may not be known to every broker yet: so many more looks.
MISSING_LOOKS: Final = 4

#: How a refusal begins that names what was refused.
_NOT_AUTHORIZED: Final = "Not authorized to "

Outcomes = dict[T, "R | KafkaError"]


#: When the call under way has to end, as its caller said: (milliseconds of the loop, how long that was from its beginning).
_limit: ContextVar[tuple[float, float] | None] = ContextVar("limit", default=None)


def bounded(call: Callable[P, Coroutine[Any, Any, A]]) -> Callable[P, Coroutine[Any, Any, A]]:
    """Have an admin call end within its `timeout`, whatever it asks; without one within `default.api.timeout.ms`.

    A refusal for want of permission names the call and what it was about: brokers name neither.
    """

    @functools.wraps(call)
    async def bounded_call(*arguments: P.args, **options: P.kwargs) -> A:
        timeout = options.get("timeout")
        token = None
        if timeout is not None:
            limit_ms = duration_s("timeout", cast(Duration, timeout)) * 1000
            token = _limit.set((asyncio.get_running_loop().time() * 1000 + limit_ms, limit_ms))
        try:
            return await call(*arguments, **options)
        except AdminErrors as error:
            if DENIED.isdisjoint(each.code for each in error.errors.values()):
                raise
            for item, each in error.errors.items():
                _name_denied(each, call.__name__, item)
            raise AdminErrors(error.errors, error.results) from error.__cause__
        except KafkaError as error:
            _name_denied(error, call.__name__, arguments[1] if len(arguments) > 1 else None)
            raise
        finally:
            if token is not None:
                _limit.reset(token)

    return bounded_call


def _name_denied(error: KafkaError, call: str, item: object) -> None:
    """Have a refusal for want of permission say what was refused, unless it says so already."""
    if error.code not in DENIED or error.message.startswith(_NOT_AUTHORIZED):
        return
    if isinstance(item, list | tuple | Set | Mapping) and len(item) == 1:
        (item,) = item
    name = item.topic if isinstance(item, TopicPartition) else getattr(item, "name", item)
    words = call.replace("_", " ")
    if isinstance(name, str):
        one = words.removesuffix("s")
        words = f"{one} {name!r}" if one.endswith(("topic", "group", "transaction")) else f"{words} of {name!r}"
    elif error.code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED:
        words += " of the cluster"
    error.message = f"{_NOT_AUTHORIZED}{words}."
    error.args = (error.message,)


class AdminBase:
    """What all admin calls share. `start` and `close` are the faces' business."""

    _machine: AskMachine
    _settings: AskSettings
    _random: Random
    _runtime: Runtime | None
    _closed: KafkaError | None
    #: Topics that this client has made.
    _made: dict[str, None]

    async def start(self) -> None:
        raise NotImplementedError

    # -- one question -----------------------------------------------------------------------------------------------

    async def _ask(
        self,
        request: Message | Callable[[int], Message],
        answer: type[M],
        target: Target = ANY,
        *,
        at_most: int | None = None,
        deadline_ms: float | None = None,
    ) -> M:
        """Send a request, or what a function makes of the version, and return the answer.

        Raises:
            UnsupportedVersionError: the broker does not serve it.
            CallTimeoutError: no answer came in time.
        """
        return (await self._ask_version(request, answer, target, at_most=at_most, deadline_ms=deadline_ms))[0]

    async def _ask_version(
        self,
        request: Message | Callable[[int], Message],
        answer: type[M],
        target: Target = ANY,
        *,
        at_most: int | None = None,
        deadline_ms: float | None = None,
    ) -> tuple[M, int]:
        if self._closed is not None:
            raise self._closed
        limit = _limit.get()
        key = ApiKey(cast(int, answer.API_KEY))
        if self._runtime is None or not self._runtime.connected.done:
            try:
                async with asyncio.timeout_at(None if limit is None else limit[0] / 1000):
                    await self.start()
            except TimeoutError as error:
                if isinstance(error, KafkaError):
                    raise
                raise self._machine.too_late(APIS[key].name, limit[1] if limit is not None else 0.0) from None
        runtime = self._runtime
        assert runtime is not None
        if deadline_ms is None:
            deadline_ms = runtime.now_ms() + self._settings.api_timeout_ms if limit is None else limit[0]
        build = request if not isinstance(request, Message) else lambda _version: request
        ask = Ask(key, build, target, deadline_ms, at_most, None if limit is None else limit[1])
        done = asyncio.Event()
        ask.callbacks.append(done.set)
        self._machine.add(ask)
        runtime.wake()
        try:
            await done.wait()
        finally:
            self._machine.cancel(ask)
        if ask.error is not None:
            raise ask.error
        assert isinstance(ask.answer, answer)
        return ask.answer, ask.version

    # -- many things ------------------------------------------------------------------------------------------------

    async def _all(
        self,
        items: Iterable[T],
        attempt: Callable[[list[T], float], Awaitable[Mapping[T, R | KafkaError]]],
        *,
        missing_looks: int = 0,
    ) -> dict[T, R]:
        """Return the outcome of each item, as `attempt` gives it for those that are left.

        Raises:
            KafkaError: the only item failed.
            AdminErrors: some of several failed.
        """
        outcomes = await self._outcomes(items, attempt, missing_looks=missing_looks)
        return unwrap(outcomes)

    async def _outcomes(
        self,
        items: Iterable[T],
        attempt: Callable[[list[T], float], Awaitable[Mapping[T, R | KafkaError]]],
        *,
        missing_looks: int = 0,
    ) -> Outcomes[T, R]:
        wanted = list(dict.fromkeys(items))
        outcomes: Outcomes[T, R] = {}
        left = wanted
        loop = asyncio.get_running_loop()
        limit = _limit.get()
        deadline_ms = loop.time() * 1000 + self._settings.api_timeout_ms if limit is None else limit[0]
        failures = 0
        while left:
            try:
                found: Mapping[T, R | KafkaError] = await attempt(left, deadline_ms)
            except KafkaError as error:
                found = dict.fromkeys(left, error)
            again: list[T] = []
            for item in left:
                outcome: R | KafkaError = found.get(item, _LEFT_OUT)
                if isinstance(outcome, KafkaError) and _may_help(outcome, failures, missing_looks):
                    again.append(item)
                outcomes[item] = outcome
            left = again
            if not left:
                break
            failures += 1
            self._machine.metadata.request_update()
            delay_ms = self._settings.retry_backoff.delay_ms(failures, self._random)
            if loop.time() * 1000 + delay_ms >= deadline_ms:
                break
            await asyncio.sleep(delay_ms / 1000)
        return {item: outcomes[item] for item in wanted}

    async def _once(self, attempt: Callable[[float], Awaitable[R]]) -> R:
        """Do one thing, and again while the answer says "not me" or "not yet"."""

        async def only(items: list[str], deadline_ms: float) -> dict[str, R | KafkaError]:
            return {"": await attempt(deadline_ms)}

        return (await self._all([""], only))[""]

    # -- who --------------------------------------------------------------------------------------------------------

    async def _coordinators(self, kind: int, keys: Iterable[str], deadline_ms: float) -> dict[int, list[str]]:
        """Return the keys by the id of the broker that coordinates them.

        Raises:
            KafkaError: one has no coordinator now.
        """
        wanted = list(keys)

        def build(version: int) -> FindCoordinatorRequest:
            if version >= 4:
                return FindCoordinatorRequest(key_type=kind, coordinator_keys=wanted)
            if kind and not version:
                raise error_for(ErrorCode.UNSUPPORTED_VERSION, "The broker is older than transactions.")
            return FindCoordinatorRequest(key=wanted[0], key_type=kind)

        if len(wanted) > 1:
            # Brokers before 3.0 take one key a request.
            answer, version = await self._ask_version(build, FindCoordinatorResponse, deadline_ms=deadline_ms)
            if version < 4:
                each = [await self._coordinators(kind, [key], deadline_ms) for key in wanted]
                merged: dict[int, list[str]] = {}
                for part in each:
                    for node_id, found in part.items():
                        merged.setdefault(node_id, []).extend(found)
                return merged
        else:
            answer = await self._ask(build, FindCoordinatorResponse, deadline_ms=deadline_ms)
        by_node: dict[int, list[str]] = {}
        rows = answer.coordinators or [
            Coordinator(
                key=wanted[0],
                node_id=answer.node_id,
                host=answer.host,
                port=answer.port,
                error_code=answer.error_code,
                error_message=answer.error_message,
            )
        ]
        for row in rows:
            if row.error_code:
                raise error_for(row.error_code, row.error_message or None)
            self._machine.add_node(Node(row.node_id, row.host, row.port))
            by_node.setdefault(row.node_id, []).append(row.key)
        return by_node

    async def _for_groups(
        self,
        group_ids: Iterable[str],
        ask: Callable[[int, list[str], float], Awaitable[Mapping[str, R | KafkaError]]],
        *,
        kind: int = GROUP,
    ) -> Outcomes[str, R]:
        """Return the outcome by group (or transactional id); `ask` asks one coordinator about those it has."""

        async def attempt(left: list[str], deadline_ms: float) -> Outcomes[str, R]:
            by_node = await self._coordinators(kind, left, deadline_ms)
            parts = await asyncio.gather(*(ask(node_id, ids, deadline_ms) for node_id, ids in by_node.items()))
            return {group_id: outcome for part in parts for group_id, outcome in part.items()}

        return await self._outcomes(group_ids, attempt)

    async def _for_group(self, group_id: str, ask: Callable[[int, float], Awaitable[R]], *, kind: int = GROUP) -> R:
        """Ask the coordinator of one group."""

        async def attempt(deadline_ms: float) -> R:
            (node_id,) = await self._coordinators(kind, [group_id], deadline_ms)
            return await ask(node_id, deadline_ms)

        return await self._once(attempt)

    async def _for_leaders(
        self,
        partitions: Iterable[TopicPartition],
        ask: Callable[[int, list[TopicPartition], float], Awaitable[Mapping[TopicPartition, R | KafkaError]]],
    ) -> dict[TopicPartition, R]:
        """Return the outcome by partition; `ask` asks one leader about those it leads.

        Raises:
            KafkaError, AdminErrors: some failed.
        """

        async def attempt(left: list[TopicPartition], deadline_ms: float) -> Outcomes[TopicPartition, R]:
            leaders = await self._leaders(left, deadline_ms)
            outcomes: Outcomes[TopicPartition, R] = {}
            by_node: dict[int, list[TopicPartition]] = {}
            for where, leader in leaders.items():
                if isinstance(leader, KafkaError):
                    outcomes[where] = leader
                else:
                    by_node.setdefault(leader, []).append(where)
            parts = await asyncio.gather(*(ask(node_id, found, deadline_ms) for node_id, found in by_node.items()))
            for part in parts:
                outcomes.update(part)
            return outcomes

        return await self._all([TopicPartition(*where) for where in partitions], attempt, missing_looks=MISSING_LOOKS)

    async def _leaders(self, partitions: Iterable[TopicPartition], deadline_ms: float) -> Outcomes[TopicPartition, int]:
        """Return the id of the leader of each partition."""
        wanted = list(partitions)
        topics = await self._topics([where.topic for where in wanted], deadline_ms)
        found: Outcomes[TopicPartition, int] = {}
        for where in wanted:
            topic = topics.get(where.topic)
            if topic is None or topic.error_code:
                code = topic.error_code if topic is not None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                found[where] = topic_error(code, where.topic)
                continue
            leader = next((row.leader_id for row in topic.partitions if row.partition_index == where.partition), None)
            if leader is None:
                found[where] = error_for(
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                    f"Topic {where.topic!r} has {len(topic.partitions)} partitions, so none of number {where.partition}.",
                )
            elif leader < 0:
                found[where] = error_for(ErrorCode.LEADER_NOT_AVAILABLE, f"{where} has no leader at the moment.")
            else:
                found[where] = leader
        return found

    async def _topics(self, names: Iterable[str] | None, deadline_ms: float | None = None) -> dict[str, Any]:
        """Return what Metadata says of topics (of all), by name."""
        answer = await self._metadata(names, deadline_ms)
        return {row.name: row for row in answer.topics if row.name is not None}

    async def _metadata(
        self, names: Iterable[str] | None, deadline_ms: float | None = None, *, operations: bool = False
    ) -> MetadataResponse:
        wanted = None if names is None else [MetadataRequestTopic(name=name) for name in dict.fromkeys(names)]

        def build(version: int) -> MetadataRequest:
            request = MetadataRequest(topics=wanted)
            if version >= 4:
                request.allow_auto_topic_creation = False
            if version >= 8 and operations:
                request.include_topic_authorized_operations = True
            return request

        answer = await self._ask(build, MetadataResponse, deadline_ms=deadline_ms)
        if answer.error_code:
            raise error_for(answer.error_code)
        for broker in answer.brokers:
            self._machine.add_node(Node(broker.node_id, broker.host, broker.port, broker.rack))
        return answer


_LEFT_OUT: Final = UnknownServerError("The broker left it out of its answer.")


def _may_help(error: KafkaError, failures: int, missing_looks: int) -> bool:
    """Whether asking once more may help. A question that ran out of time has been asked again already."""
    if isinstance(error, CallTimeoutError | ClosedError):
        return False
    if error.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
        return failures < missing_looks
    return error.code in _AGAIN and error.retriable


def check(code: int, message: str | None = None) -> None:
    """Raise the error of a code, unless it is none."""
    if code:
        raise error_for(code, message or None)


def outcome(code: int, message: str | None, value: R) -> R | KafkaError:
    """Return a value, or the error of a code."""
    return error_for(code, message or None) if code else value


def unwrap(outcomes: Mapping[T, R | KafkaError]) -> dict[T, R]:
    """Return the values.

    Raises:
        KafkaError: the only one is an error.
        AdminErrors: some of several are.
    """
    errors = {item: found for item, found in outcomes.items() if isinstance(found, KafkaError)}
    results = {item: found for item, found in outcomes.items() if not isinstance(found, KafkaError)}
    if not errors:
        return results
    if len(outcomes) == 1:
        raise next(iter(errors.values()))
    raise AdminErrors(errors, results)


def topic_error(code: int, name: str) -> KafkaError:
    """Return an error that names the topic."""
    texts = {
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: f"There is no topic {name!r}.",
        ErrorCode.INVALID_TOPIC_EXCEPTION: f"{name!r} is no name for a topic: at most 249 letters, digits, '.', '_' and '-'.",
    }
    return error_for(code, texts.get(ErrorCode(code)) if code in ErrorCode._value2member_map_ else None)
