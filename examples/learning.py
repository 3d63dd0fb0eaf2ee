"""A model that learns from a topic while it is being filled, and tells two other topics how it is doing.

    python examples/learning.py                      # starts a broker of its own; the picture is learning.png
    python examples/learning.py --bootstrap-server localhost:9092

A producer sends 2,310 segments of outdoor photographs (the data set "Image segments" of the package river), four of five to
learn from, the fifth to be tested on. A consumer learns one record at a time, and writes its accuracy to the topic
`accuracy` and what it does to the topic `learning-log`. Then both are read back and drawn.

Needs: pip install ottla[examples].
"""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ottla
from ottla.testing import Broker

#: The share of the records that the model is tested on, and never learns from.
TEST_EVERY = 5
REPORT_EVERY = 100


def send_samples(servers: str) -> int:
    """Send every segment as JSON; the header says what it is for. Return how many there are."""
    from river import datasets

    with ottla.Producer(servers, value_serializer=ottla.serde.json(), compression_type="zstd") as producer:
        number = 0
        for number, (features, label) in enumerate(datasets.ImageSegments(), 1):
            use = b"test" if number % TEST_EVERY == 0 else b"train"
            producer.send("samples", {"features": features, "label": label}, headers={"use": use})
    return number


def learn(servers: str, total: int) -> float:
    """Learn from the topic as it fills; return the accuracy on the records that were only tested on."""
    from river import linear_model, metrics, preprocessing

    model = preprocessing.StandardScaler() | linear_model.SoftmaxRegression()
    accuracy = metrics.Accuracy()
    seen = learned = 0
    with (
        ottla.Consumer(
            servers,
            group_id="learner",
            topics=["samples"],
            auto_offset_reset="earliest",
            value_deserializer=ottla.serde.json(),
        ) as consumer,
        ottla.Producer(servers, value_serializer=ottla.serde.json()) as producer,
    ):
        producer.send("learning-log", {"seen": 0, "text": "the model knows nothing yet"})
        for record in consumer:
            sample: Any = record.value
            seen += 1
            if record.headers["use"] == b"train":
                model.learn_one(sample["features"], sample["label"])
                learned += 1
            else:
                accuracy.update(sample["label"], model.predict_one(sample["features"]))
            if seen % REPORT_EVERY == 0 or seen == total:
                producer.send("accuracy", {"seen": seen, "accuracy": accuracy.get()})
                text = f"learned {learned}, tested {seen - learned}: {accuracy.get():.1%} right"
                producer.send("learning-log", {"seen": seen, "text": text})
            if seen == total:
                break
    return float(accuracy.get())


def read(servers: str, topic: str) -> list[Any]:
    """Return what a topic holds now."""
    with ottla.Consumer(
        servers, topics=[topic], auto_offset_reset="earliest", value_deserializer=ottla.serde.json()
    ) as consumer:
        return [record.value for record in consumer.records(until="end")]


def draw(points: list[Any], log: list[Any], path: Path) -> None:
    """Draw the accuracy, and write the log beside it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (curve, text) = pyplot.subplots(1, 2, figsize=(11, 5), width_ratios=(3, 2))
    curve.plot([point["seen"] for point in points], [point["accuracy"] for point in points], marker=".")
    curve.set(xlabel="records", ylabel="accuracy on records it never learned from", ylim=(0, 1), title="topic accuracy")
    curve.grid(alpha=0.3)
    text.axis("off")
    text.set_title("topic learning-log")
    lines = [f"{entry['seen']:>5}  {entry['text']}" for entry in log]
    text.text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> int:
    """Run it; return 0 if everything was seen and something was learned."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bootstrap-server", help="a running broker instead of one of its own")
    parser.add_argument("--picture", type=Path, default=Path("learning.png"))
    options = parser.parse_args()
    total = 2_310
    with ExitStack() as stack:
        servers = options.bootstrap_server or stack.enter_context(Broker()).bootstrap_servers
        sending = threading.Thread(target=send_samples, args=[servers])
        sending.start()
        accuracy = learn(servers, total)
        sending.join()
        points, log = read(servers, "accuracy"), read(servers, "learning-log")
    draw(points, log, options.picture)
    print(f"{'records':>8} {'accuracy':>9}")
    for point in points:
        print(f"{point['seen']:>8} {point['accuracy']:>9.1%}")
    print(f"{log[-1]['text']}; the picture is {options.picture}")
    return int(points[-1]["seen"] != total or accuracy < 0.7)


if __name__ == "__main__":
    sys.exit(main())
