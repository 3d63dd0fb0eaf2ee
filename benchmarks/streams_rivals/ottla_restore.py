"""An application whose store comes back from its changelog (see benchmarks/streams_restore.py and streams_failover.py)."""

import os
import sys
from typing import Any

from ottla.streams import App, Record

env = os.environ
config: dict[str, object] = {
    "commit.interval.ms": 100,
    "state.dir": env["BENCH_STATE"],
    "auto.offset.reset": "earliest",
}
if protocol := env.get("BENCH_PROTOCOL"):  # benchmarks/streams_failover.py
    config |= {"application.server": env["BENCH_SERVER"], "transaction.timeout.ms": 6000}
    if protocol == "streams":  # whose times and copies are the group's
        config |= {"group.protocol": "streams"}
    else:
        config |= {
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 500,
            "num.standby.replicas": env["BENCH_COPIES"],
        }
app = App(
    env["BENCH_APP"],
    env["BENCH_BOOTSTRAP"],
    processing_guarantee="exactly_once_v2" if protocol else "at_least_once",
    config=config,
)


class Look:
    """Forwards each record, once its store is there."""

    def init(self, context: Any) -> None:
        self.context, self.store = context, context.store("rows")

    def process(self, record: Record) -> None:
        if b"." in record.value:  # a time: it is kept, and comes out as it is
            self.store.put(record.key, record.value)
            self.context.forward(record)
        else:
            self.context.forward(record._replace(value=b"there" if self.store.get(b"%016d" % 0) else b"empty"))


app.add_store("rows", key=bytes, value=bytes, home=sys.argv[1])
app.stream(f"in-{env['BENCH_APP']}").process(Look, stores=["rows"], key=bytes, value=bytes).to(
    f"out-{env['BENCH_APP']}"
)

if __name__ == "__main__":
    app.run()
