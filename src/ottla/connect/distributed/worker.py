"""A worker that shares connectors with others: a member of a group, with what they know in three topics.

What is to run is decided by the herder, of what was given to this worker (`membership.py`) by the group's leader
(`sharing.py`). The leader alone changes what there is; requests to others are passed on to it (`NotHereError`). It also asks
connectors for their tasks. Threads: one acts, one follows the group and renews the leases of processes, one asks
connectors, one reads each topic.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import ottla
from ottla.connect.config_def import ConfigError
from ottla.connect.distributed import config_records
from ottla.connect.distributed.config_store import ConfigStore
from ottla.connect.distributed.fencing import Place, Question, Questions, shut_out, where_of
from ottla.connect.distributed.membership import Membership, grace_s
from ottla.connect.distributed.offset_topic import OffsetTopic
from ottla.connect.distributed.sharing import PROTOCOL, PROTOCOL_TYPE, Assignment, Leader, WorkerState
from ottla.connect.distributed.status_store import Said, StatusStore, Used
from ottla.connect.distributed.topics import LogRecord, prepare
from ottla.connect.errors import ConnectError
from ottla.connect.runtime.changes import Change, PutConnector, Restart, Told
from ottla.connect.runtime.herder import Herder, HerderError, Standing
from ottla.connect.runtime.host import encode_entry
from ottla.connect.runtime.hosts import Event
from ottla.connect.runtime.inspection import InspectionError
from ottla.connect.runtime.levels import LEVELS, all_levels, set_level
from ottla.connect.runtime.metrics import Row
from ottla.connect.runtime.offsets import is_of
from ottla.connect.runtime.runs import HostView, StartHost, TaskId, Wanted, decide
from ottla.connect.runtime.worker import LOOK_S, ConnectWorker, typed
from ottla.connect.settings import DISTRIBUTED, client_config
from ottla.errors import InconsistentGroupProtocolError, KafkaError

log = logging.getLogger(__name__)
#: Seconds that a request waits for the group to have a leader.
_LEADER_S: Final = 10.0
_FLUSH_S: Final = 5.0
_SHORT_S: Final = 5.0


class NotHereError(Exception):
    """Another worker answers this request.

    Attributes:
        url: where it is.
    """

    def __init__(self, url: str) -> None:
        super().__init__(f"This is answered by {url}")
        self.url = url


class DistributedWorker(ConnectWorker):
    """Runs its share of connectors until `stop`.

    Args:
        worker: the worker's configuration.
        on_event: called with (connector, event) for people; in any thread.
        worker_id: what statuses call this worker: host and port of its REST interface.
        url: where others reach that.

    Raises:
        ConfigError: the worker's configuration is wrong, or a topic is not what it has to be.
        ConnectError, KafkaError: a topic cannot be made, or the cluster does not answer.
    """

    def __init__(
        self,
        worker: Mapping[str, str],
        on_event: Callable[[str, dict[str, Any]], None] = lambda name, event: None,
        *,
        worker_id: str,
        url: str,
    ) -> None:
        values = distributed_settings(worker)
        counts = prepare(worker, values)
        herder = Herder(worker_id, shows_secrets=values["rest.secrets"] == "java", shares=True)
        self._offset_topic = OffsetTopic(values["offset.storage.topic"], counts["offset"], worker)
        super().__init__(worker, values, on_event, herder, self._offset_topic)
        group = values["group.id"]
        self._configs = ConfigStore(values["config.storage.topic"], worker, group, self._take_configs)
        self._reader = config_records.Reader()
        self._read_offset = 0
        self._statuses = StatusStore(
            values["status.storage.topic"], counts["status"], worker, worker_id, self._take_status
        )
        self._flush_s = values["offset.flush.timeout.ms"] / 1000
        self._session_s = values["session.timeout.ms"] / 1000
        self._session = Membership(url, self._session_s)
        self._leader = Leader(
            delay_s=values["scheduled.rebalance.max.delay.ms"] / 1000, grace_s=grace_s(self._session_s)
        )
        #: Where the workers are, as the leader knows.
        self._urls: dict[str, str] = {}
        self._should_lead = False
        self._rebalances = 0
        self._rejoin: str | None = None
        #: The last word of what this worker knows of the classes of connectors: of which configuration.
        self._told: dict[str, tuple[dict[str, str], Told]] = {}
        self._asked: dict[str, dict[str, str]] = {}
        #: Whether it shuts out producers of tasks that are replaced, when it leads.
        self._shuts_out = values["exactly.once.source.support"].lower() != "disabled"
        self._questions = Questions()
        self._fatal: ConnectError | None = None
        #: Whether a state could not be written.
        self._unsaid = False
        self._group = ottla.GroupMembership(
            worker.get("bootstrap.servers", "localhost:9092"),
            protocol_type=PROTOCOL_TYPE,
            protocols=self._protocols,
            assign=self._share,
            config=client_config(worker, "")
            | {
                "group.id": group,
                "session.timeout.ms": str(values["session.timeout.ms"]),
                "heartbeat.interval.ms": str(values["heartbeat.interval.ms"]),
                "max.poll.interval.ms": str(values["rebalance.timeout.ms"]),
            },
        )

    # Life

    def run(self, *, goes_on: bool = True) -> int:
        """Run what the group gives this worker, until `stop`; return 0.

        Raises:
            ConnectError: why it cannot go on.
        """
        threads = [
            threading.Thread(target=self._follow_group, name="group", daemon=True),
            threading.Thread(target=self._ask_connectors, name="asker", daemon=True),
        ]
        self._nursery.begin()
        try:
            self._configs.log.start()
            self._statuses.start()
            self._offset_topic.start()
            for topic in (self._configs.log, self._statuses.log, self._offset_topic.log):
                topic.read_to_end()
            with self._changed:
                self._has_started = True
            for thread in threads:
                thread.start()
            while not self._stopping.is_set():
                self._act()
        finally:
            self._stopping.set()
            self._inspection.close()
            self._hosts.close()
            self._nursery.close()
            self._say_last()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self._group.close()
            self._configs.stop()
            self._statuses.stop(_FLUSH_S)
            self._offset_topic.stop(self._flush_s)
        if self._fatal is not None:
            raise self._fatal
        return 0

    def _say_last(self) -> None:
        """The tasks of this worker have ended: offsets are written, and then others may get them."""
        try:
            self._offset_topic.flush(self._flush_s)
        except TimeoutError as error:
            log.error("records come again, of which the offsets could not be written down at the end: %s", error)
        try:
            with self._changed:
                self.herder.assign(())
            self._statuses.write({}, self._session.generation, lambda name, task: True)
            self._statuses.flush(_FLUSH_S)
        except (KafkaError, TimeoutError) as error:
            log.error("the states of connectors could not be written down at the end: %s", error)

    def _end_with(self, error: ConnectError) -> None:
        self._fatal = self._fatal or error
        self._stopping.set()

    def is_ready(self) -> bool:
        """Whether it is a member of the group."""
        return super().is_ready() and self._session.leader_url is not None

    # The group

    def _follow_group(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._changed:
                    reason = self._rejoin
                if reason is not None:
                    self._group.rejoin(reason)  # the next event is Rebalancing
                event = self._group.wait(LOOK_S)
            except InconsistentGroupProtocolError:
                self._end_with(
                    ConnectError(
                        f"The group {self.settings['group.id']} has members that are no workers of ottla: Java's, for "
                        "example. Both kinds cannot share connectors. Stop those, or give this worker a group.id and topics "
                        "of its own."
                    )
                )
                return
            except Exception as error:  # without this thread tasks would end, and nobody would know why
                log.warning("the worker cannot join its group: %s", error, exc_info=not isinstance(error, KafkaError))
                event = None
                self._stopping.wait(LOOK_S)
            with self._changed:
                self._take_event(event)
                lease_s = self._session.lease_s(self._group.confirmed_at)
            self._hosts.lease(lease_s)

    def _take_event(self, event: object) -> None:
        match event:
            case ottla.Joined():
                given = Assignment.decode(event.assignment) if event.assignment else Assignment(leader_url="")
                self._session.on_joined(event.generation_id, event.is_leader, given)
                self._should_lead = event.is_leader
                self._rebalances += 1
                self.herder.assign(self._session.assigned)
                log.info("generation %d: %d tasks", event.generation_id, len(self._session.assigned))
            case ottla.Rebalancing():
                self._rejoin = None
                self._session.on_rebalancing()
            case ottla.Lost():
                self._rejoin = None
                log.warning("the group did not hear of this worker in time: its tasks are given to others")
                self._session.on_lost()
                self._should_lead = False
                self.herder.assign(())
                self._statuses.abandon()
            case _:
                return
        self._changed.notify_all()

    def _protocols(self) -> Sequence[tuple[str, bytes]]:
        with self._changed:
            return [
                (
                    PROTOCOL,
                    self._session.state(
                        self._read_offset, self._running(), is_member=self._group.generation_id >= 0
                    ).encode(),
                )
            ]

    def _share(self, protocol: str, members: Sequence[Any]) -> Mapping[str, bytes]:
        states = {member.member_id: WorkerState.decode(member.metadata) for member in members}
        with self._changed:
            tasks = self.herder.task_ids()
            if max(state.offset for state in states.values()) > self._read_offset:
                # Others know of more: what is missing here is shared out when it was read.
                tasks |= {task for state in states.values() for task in state.tasks}
            shared = self._leader.share(
                time.monotonic(),
                self._group.generation_id,
                states,
                tasks,
                self._statuses.last_workers(),
                self.herder.bound(),
            )
            self._urls = {state.worker_id: state.url for state in states.values()}
            url = self._session.url
            return {
                member: Assignment(leader_url=url, tasks=frozenset(given)).encode() for member, given in shared.items()
            }

    def _own_metrics(self) -> Sequence[Row]:
        group = "connect-worker-rebalance-metrics"
        is_rebalancing = self._session.leader_url is None
        return (
            Row(group, "epoch", "The generation of the group.", self._session.generation),
            Row(group, "rebalancing", "1 while the workers share connectors out.", is_rebalancing),
            Row(group, "completed-rebalances-total", "How often they have.", self._rebalances, True),
        )

    def _running(self) -> set[TaskId]:
        return {(view.connector, number) for view in self._hosts.snapshot().values() for number in view.runs}

    # What is done

    def _wanted(self) -> Mapping[TaskId, Wanted]:
        allowed = self._session.allowed(time.monotonic(), self._group.confirmed_at)
        return {task: what for task, what in self.herder.wanted().items() if task in allowed}

    def _act(self) -> None:
        for topic in (self._configs.log, self._statuses.log, self._offset_topic.log):
            if topic.failure is not None:
                self._end_with(
                    ConnectError(f"What stands in a topic of this worker is not understood: {topic.failure}")
                )
                return
        self._change_role()
        with self._changed:
            self.herder.tick(time.monotonic())
            actions = decide(self._wanted(), self._hosts.snapshot())
            if not actions:
                self._changed.wait(LOOK_S)
            lease_s = self._session.lease_s(self._group.confirmed_at)
        self._hosts.lease(lease_s)
        self._write_statuses()
        if any(isinstance(action, StartHost) for action in actions) and not self._may_start():
            actions = [action for action in actions if not isinstance(action, StartHost)]
        for action in actions:
            self._hosts.act(action)
        self._hosts.tick()
        self._answer_tasks()
        self._rejoin_if_due()

    def _may_start(self) -> bool:
        """Say that tasks are here now, and read where they go on. Until both is done they do not start."""
        if self._unsaid:
            return False
        try:
            self._statuses.flush(_SHORT_S)
            self._offset_topic.log.read_to_end(_SHORT_S)
        except (ConnectError, KafkaError, TimeoutError) as error:
            log.warning("tasks cannot start yet: %s", error)
            return False
        with self._changed:
            return not self._stopping.is_set() and bool(self._wanted())

    def _order(self, connector: str) -> dict[str, Any]:
        return super()._order(connector) | {"exactly_once": where_of(self.settings)}

    def _answer_tasks(self) -> None:
        """Let tasks that are exactly once take their next step."""
        asked = self._granted()
        if any(question.step == "go" for question in asked.values()):
            try:
                self._configs.log.read_to_end(_SHORT_S)
                self._offset_topic.log.read_to_end(_SHORT_S)
            except (ConnectError, KafkaError, TimeoutError) as error:
                log.warning("tasks cannot begin yet: %s", error)
                return
        now = self._granted()
        for place, question in asked.items():
            if now.get(place) != question:
                continue
            self._questions.answered(place)
            entries = self._offsets.entries.items() if question.step == "go" else ()
            offsets = [encode_entry(key, value) for key, value in entries if is_of(key, question.connector)]
            self._hosts.tell(place[0], {"may": question.step, "task": place[1], "offsets": offsets})

    def _granted(self) -> dict[Place, Question]:
        hosts = self._hosts.snapshot()
        with self._changed:
            return self._questions.granted(hosts, self._wanted(), self._reader.unfenced)

    def _write_statuses(self) -> None:
        with self._changed:
            standings: dict[tuple[str, int | None], Standing] = {}
            standings.update({(name, task): at for (name, task), at in self.herder.own_standings().items()})
            if self.herder.leads:
                standings |= {(name, None): at for name, at in self.herder.connector_standings().items()}
            tasks, names, generation = self.herder.task_ids(), set(self.herder.names()), self._session.generation
        if generation < 0:
            return
        try:
            self._statuses.write(
                standings, generation, lambda name, task: name in names if task is None else (name, task) in tasks
            )
        except (KafkaError, TimeoutError) as error:
            log.warning("states cannot be written now: %s", error)
            self._unsaid = True
        else:
            self._unsaid = False

    def _rejoin_if_due(self) -> None:
        """Have the group rebalance: what was to be given up has ended, or the leader has tasks to share out."""
        with self._changed:
            given_up = bool(self._session.giving_up) and self._session.giving_up.isdisjoint(self._running())
        if given_up:
            try:
                self._offset_topic.flush(self._flush_s)
            except TimeoutError as error:
                log.warning("tasks were given up, and their last offsets are not written yet: %s", error)
            try:
                self._statuses.flush(_SHORT_S)
            except (KafkaError, TimeoutError) as error:
                log.warning("tasks were given up, and it is not written yet that they are free: %s", error)
        with self._changed:
            if self._session.has_given_up(self._running()):
                self._rejoin = "tasks were given up"
            elif self._session.is_leader and self._configs.leads:
                due_s = self._leader.due_s()
                if self._leader.is_outdated(self.herder.task_ids(), self.herder.unasked(), self.herder.bound()):
                    self._rejoin = "tasks are new, or gone"
                elif due_s is not None and due_s <= time.monotonic():
                    self._rejoin = "tasks of a worker that has vanished are given to others"

    def _change_role(self) -> None:
        """Become the leader, or stop being it."""
        if self._should_lead and not self._configs.leads:
            try:
                self._configs.lead()
            except (ConnectError, KafkaError, HerderError, TimeoutError) as error:
                log.warning("this worker is the leader of its group and cannot write yet: %s", error)
                self._stopping.wait(LOOK_S)
                return
            self._asked.clear()
        elif not self._should_lead and self._configs.leads:
            self._configs.resign()
        with self._changed:
            if self.herder.leads != self._configs.leads:
                self.herder.lead(self._configs.leads)
                self._changed.notify_all()

    def _ask_connectors(self) -> None:
        """Ask connectors for tasks that have none, or older ones; the leader does."""
        while not self._stopping.wait(LOOK_S):
            with self._changed:
                names = self.herder.unasked() if self.herder.leads else []
            for name in names:
                try:
                    with self._operation(name):
                        with self._changed:
                            if name not in self.herder.unasked():
                                continue
                            config = dict(self.herder.known(name).config)
                        if self._asked.get(name) != config:
                            self._asked[name] = config
                            self._make_tasks(name)
                except HerderError as error:
                    self._asked.pop(name, None)
                    log.warning("connector %s has no tasks yet: %s", name, error)
                except Exception:
                    log.exception("connector %s was asked for tasks in vain", name)
            if self._shuts_out:
                self._shut_out_replaced()

    def _shut_out_replaced(self) -> None:
        """Have connectors' tasks begin whose tasks before them can write nothing any more; the leader does."""
        with self._changed:
            names = [name for name in self._unfenced() if self.herder.leads]
        if names:
            self._learn()
        for name in names:
            try:
                with self._operation(name):
                    self._configs.log.read_to_end(_SHORT_S)  # another one may lead by now, and have done it
                    with self._changed:
                        if not self.herder.leads or name not in self._unfenced():
                            continue
                        known = self.herder.known(name)
                        count, config = len(known.tasks), dict(known.config)
                    self._shut_out(name, config)
                    self._configs.write([config_records.fenced(name, count)])
            except (HerderError, ConnectError, KafkaError, TimeoutError) as error:
                log.warning("tasks of %s before the present ones cannot be shut out yet: %s", name, error)
            except Exception:
                log.exception("tasks of %s before the present ones were not shut out", name)

    def _unfenced(self) -> list[str]:
        """Return sources with tasks whose predecessors may still write. Called with the lock held."""
        found = {name for name, _ in self.herder.task_ids()} & self._reader.unfenced
        return [name for name in sorted(found) if self.herder.known(name).told.kind != "sink"]

    def _shut_out(self, name: str, config: Mapping[str, str]) -> None:
        shut_out(name, self._reader.fenced.get(name, 0), self.settings["group.id"], self._worker, config)

    # The topics

    def _take_configs(self, rows: list[LogRecord]) -> None:
        levels: list[config_records.SetLevel] = []
        with self._changed:
            for row in rows:
                for event in self._reader.read(row.key, row.value):
                    match event:
                        case config_records.LeaderRecord(key=key):
                            if self._configs.is_foreign(row.offset):
                                self._end_with(_two_clusters(self.settings["config.storage.topic"], key, row.offset))
                                return
                        case config_records.Fenced():
                            pass
                        case config_records.SetLevel():
                            if self._has_started:
                                levels.append(event)
                        case config_records.Strange(key=key, why=why):
                            log.warning("the topic of configurations has a record %r that is passed over: %s", key, why)
                        case Restart() if not self._has_started:
                            pass  # it was carried out by those who were there
                        case _:
                            self._apply(event)
            self._read_offset = rows[-1].offset + 1
            self._changed.notify_all()
        for event in levels:
            self._set_levels(event.logger, event.level)

    def _apply(self, change: Change) -> None:
        if isinstance(change, PutConnector):
            config, told = self._told.get(change.name, ({}, Told()))
            found = told if config == change.config else Told()
            change = PutConnector(name=change.name, config=change.config, told=found, target=change.target)
        self.herder.apply(change)
        if not isinstance(change, Restart):
            for said in self._statuses.all_said(change.name):  # it may have been read before the connector was
                self._note(said)

    def _take_status(self, found: Said | Used) -> None:
        with self._changed:
            self._note(found)

    def _note(self, found: Said | Used) -> None:
        match found:
            case Used(name=name, topic=topic, is_forgotten=True):
                if self.herder.knows(name):
                    self.herder.known(name).topics.discard(topic)
            case Used(name=name, topic=topic):
                self.herder.on_topics(name, [topic])
            case Said(name=name, task=int(task), state=None):
                self.herder.on_untold(name, task)
            case Said(name=name, task=task, state=str(state)):
                self.herder.on_told(name, task, Standing(state, found.trace, found.worker_id))

    def _take(self, number: int, view: HostView, event: Event) -> None:
        if event["event"] == "asks":
            with self._changed:
                question = Question(view.connector, event["run"], event["step"])
                self._questions.ask((number, event["task"]), question)
                self._changed.notify_all()
            return
        super()._take(number, view, event)
        if event["event"] == "topics" and self.settings["topic.tracking.enable"]:
            try:
                for topic in event["topics"]:
                    self._statuses.use(view.connector, topic, min(view.runs, default=0))
            except KafkaError as error:
                log.warning("which topics %s uses could not be written down: %s", view.connector, error)

    # Requests

    def _lead(self) -> None:
        def is_known() -> bool:
            is_other = self._session.leader_url is not None and not self._session.is_leader
            return self._stopping.is_set() or self.herder.leads or is_other

        self._check_started()
        with self._changed:
            self._changed.wait_for(is_known, _LEADER_S)
            leads = self.herder.leads and self._configs.leads
            url = self._session.leader_url
        if leads:
            self._learn()
            return
        if url and url != self._session.url:
            raise NotHereError(url)
        raise HerderError(409, "The workers are sharing connectors out at the moment (a rebalance): ask again")

    def _commit(self, *changes: Change) -> None:
        for change in changes:
            if isinstance(change, PutConnector):
                self._told[change.name] = dict(change.config), change.told
        self._configs.write([row for change in changes for row in config_records.written(change)])

    def _check_started(self) -> None:
        if not self._has_started:
            raise HerderError(503, "This worker is still starting up: it reads what there is. Ask again")

    def ask(self, question: Callable[[Herder], Any]) -> Any:
        self._check_started()
        self._learn()
        return super().ask(question)

    def _learn(self) -> None:
        """Look at the classes of connectors that others have brought: what is secret is not known before."""
        with self._changed:
            unknown = [
                (name, dict(known.config))
                for name in self.herder.names()
                if (known := self.herder.known(name)).told.kind == "unknown"
                and self._told.get(name, (None,))[0] != known.config
            ]
        for name, config in unknown:
            try:
                told = self._inspection.look(config)
            except InspectionError as error:
                log.warning("connector %s cannot be looked at here: %s", name, error)
                told = Told()
            with self._changed:
                self._told[name] = config, told
                self.herder.learn(name, config, told)

    def restart_task(self, name: str, number: int) -> None:
        """Start a task anew, in a process of its own.

        Raises:
            HerderError: there is no such task.
            NotHereError: another worker runs it.
        """
        with self._changed:
            is_here = (name, number) in self._session.assigned
            known = self.herder.known(name) if self.herder.knows(name) else None
            at = None if known is None else known.standings.get(number)
        if not is_here:
            self._lead()
            if at is not None and at.worker_id is not None and at.worker_id in self._urls:
                if self._urls[at.worker_id] != self._session.url:
                    raise NotHereError(self._urls[at.worker_id])
            elif known is not None and number < len(known.tasks):
                raise HerderError(409, f"Task {name}-{number} runs nowhere at the moment: ask again")
        super().restart_task(name, number)

    def delete(self, name: str) -> None:
        """Stop a connector and forget it; its offsets stay.

        Raises:
            HerderError: there is none of that name.
        """
        super().delete(name)
        self._statuses.forget(name)

    def _alter_source(self, name: str, config: Mapping[str, str], offsets: Sequence[tuple[Any, Any]] | None) -> bool:
        if self._shuts_out:  # a task that was believed to have ended must not commit older offsets after this
            try:
                self._shut_out(name, config)
            except (KafkaError, TimeoutError) as error:
                raise HerderError(500, f"Tasks of {name} cannot be shut out: {error}") from error
        return super()._alter_source(name, config, offsets)

    def reset_topics(self, name: str) -> None:
        super().reset_topics(name)
        self._statuses.forget_topics(name)

    def _runs_somewhere(self, name: str) -> bool:
        others = {said.worker_id for said in self._statuses.said(name) if said.state != "UNASSIGNED"}
        return super()._runs_somewhere(name) or not others.isdisjoint(self._urls.keys() - {self.herder.worker_id})

    def share_level(self, name: str, level: str) -> None:
        """Set the level of a logger on all workers.

        Raises:
            NotHereError: the leader does it.
        """
        self._lead()
        self._configs.write([config_records.level(name, level)])

    def _set_levels(self, name: str, level: str) -> None:
        if level not in LEVELS:
            return
        for each in [name, *(other for other in all_levels() if other.startswith(f"{name}.") or name == "root")]:
            set_level(each, level)
            self.set_level(each, level)


def distributed_settings(worker: Mapping[str, str]) -> dict[str, Any]:
    """Return a worker's configuration, typed.

    Raises:
        ConfigError: something in it is wrong, or misspelled.
    """
    found = typed(DISTRIBUTED, worker)
    if not found["listeners"]:
        raise ConfigError("listeners= is empty: workers of a group reach each other by their REST interfaces")
    if found["heartbeat.interval.ms"] * 2 > found["session.timeout.ms"]:
        raise ConfigError("heartbeat.interval.ms is more than half of session.timeout.ms: make it a third")
    names = [found[f"{part}.storage.topic"] for part in ("config", "offset", "status")]
    if len(set(names)) < len(names):
        raise ConfigError("config.storage.topic, offset.storage.topic and status.storage.topic are three topics")
    return found


def _two_clusters(topic: str, key: str, offset: int) -> ConnectError:
    return ConnectError(
        f"Somebody else writes to the topic {topic} ({key!r} at offset {offset}) while this worker leads its group: another "
        "group of workers has the same config.storage.topic. Each needs one of its own."
    )
