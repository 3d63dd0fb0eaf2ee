"""deploy/: what can be checked of the container, the compose file and the systemd unit without running them.

The image is not built here, and compose.yaml is not run: that takes a Docker daemon.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess

from ottla.cli.serve import parser, read_config

DEPLOY = Path(__file__).parents[1] / "deploy"


def dockerfile(instruction: str) -> list[str]:
    """Return the last such instruction's arguments, which are JSON."""
    lines = re.findall(rf"^{instruction} .*?(\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    found: list[str] = json.loads(lines[-1])
    return found


def test_brokers_of_the_compose_file_have_a_configuration_without_mistakes() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    environment = dict(re.findall(r'^    (KAFKA_\w+): "(.*)"$', text, re.MULTILINE))
    assert len(environment) == 5
    commands = [json.loads(line) for line in re.findall(r"^    command: (\[.*\])$", text, re.MULTILINE)]
    entry = dockerfile("ENTRYPOINT")
    assert entry[:2] == ["ottla", "serve"]
    configs = []
    for command in commands:
        words = [re.sub(r"\$\{OTTLA_HOST:\?[^}]*\}", "kafka.example.com", word) for word in command]
        configs.append(read_config(parser().parse_args([*entry[2:], *words]), environment))
    assert [config.node_id for config in configs] == [1, 2, 3]
    assert {str(config.zookeeper) for config in configs} == {"zookeeper:2181/ottla"}
    addresses = [a for config in configs for a in config.advertised_listeners or ()]
    assert len({(address.host, address.port) for address in addresses}) == 6
    for config, number in zip(configs, (1, 2, 3), strict=True):
        assert f'ports: ["{number}9092:{number}9092"]' in text
        assert [listener.port for listener in config.listeners] == [9092, int(f"{number}9092")]
        assert {listener.host for listener in config.listeners} == {"0.0.0.0"}
        assert config.default_replication_factor == 3


def test_the_health_check_of_the_image_tells_a_broker_from_none() -> None:
    check = dockerfile("HEALTHCHECK")
    assert check[0] == "python"

    def run(port: int) -> int:
        words = [word.replace(":9092", f":{port}") for word in check[1:]]
        return subprocess.run([sys.executable, *words], capture_output=True, check=False).returncode

    with BrokerProcess(options=("--host", "0.0.0.0")) as broker:
        assert run(broker.port) == 0
        port = broker.port
    assert run(port) == 1


def test_the_unit_starts_a_command_that_there_is(tmp_path: Path) -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", (DEPLOY / "ottla.service").read_text(), re.MULTILINE)
    words = shlex.split(line)
    assert words[:2] == ["/opt/ottla/bin/ottla", "serve"]
    properties = tmp_path / "server.properties"
    properties.write_text("broker.id=3\nzookeeper.connect=zk1:2181/ottla\nlisteners=PLAINTEXT://:9092\n")
    given = parser().parse_args([str(properties) if word.startswith("/etc/") else word for word in words[2:]])
    config = read_config(given, {})
    assert (config.node_id, config.log_dirs) == (3, ("/var/lib/ottla",))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "ottla.service"
    unit.write_text((DEPLOY / "ottla.service").read_text().replace("/opt/ottla/bin/ottla", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "ottla.service" in line] == []
