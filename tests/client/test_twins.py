"""Both faces have the same names and arguments; what is public is complete and cheap to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import ottla
import ottla.aio
import ottla.client.aio_producer
import ottla.client.producer


def public(kind: type) -> dict[str, inspect.Signature]:
    names = [name for name in dir(kind) if not name.startswith("_")]
    found = {name: getattr(kind, name) for name in names}
    return {name: inspect.signature(member) for name, member in found.items() if callable(member)}


@pytest.mark.parametrize(
    ("blocking", "asynchronous"),
    [
        (ottla.Producer, ottla.aio.Producer),
        (ottla.Consumer, ottla.aio.Consumer),
        (ottla.ShareConsumer, ottla.aio.ShareConsumer),
        (ottla.GroupMembership, ottla.aio.GroupMembership),
        (ottla.Admin, ottla.aio.Admin),
        (ottla.client.producer.Transaction, ottla.client.aio_producer.Transaction),
    ],
)
def test_twins_have_the_same_signatures(blocking: type, asynchronous: type) -> None:
    ours, theirs = public(blocking), public(asynchronous)
    ours.pop("commit_async", None)  # where waiting is awaiting, `commit` in a task does it
    assert ours.keys() == theirs.keys()
    for name, signature in ours.items():
        assert list(signature.parameters) == list(theirs[name].parameters), name
        for parameter, twin in zip(signature.parameters.values(), theirs[name].parameters.values(), strict=True):
            assert (parameter.kind, parameter.default) == (twin.kind, twin.default), (name, parameter.name)
            same = str(parameter.annotation) == str(twin.annotation)
            assert same or (name, parameter.name) == ("send_many", "values"), (name, parameter.name)
    made = [inspect.signature(kind.__init__) for kind in (blocking, asynchronous)]  # type: ignore[misc]
    assert [str(parameter) for parameter in made[0].parameters.values()][1:] == [
        str(parameter) for parameter in made[1].parameters.values()
    ][1:] or blocking is ottla.client.producer.Transaction


def test_every_public_name_is_there_and_documented() -> None:
    for name in ottla.__all__:
        found = getattr(ottla, name)
        assert name in dir(ottla)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert inspect.getdoc(found), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ottla.nonsense  # noqa: B018  # type: ignore[attr-defined]


def test_importing_ottla_imports_no_client_and_serving_neither() -> None:
    script = "import sys, ottla; assert not [m for m in sys.modules if m.startswith(('ottla.client', 'asyncio'))]"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    script = "import sys, ottla.cli.serve; assert not [m for m in sys.modules if m.startswith('ottla.client')]"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
