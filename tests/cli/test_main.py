"""The command line before a broker exists: commands, options, settings, messages and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ottla import __version__
from ottla.cli import serve
from ottla.cli.main import main


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "ottla serve" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ottla {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["start"], "ottla: there is no command 'start'; did you mean serve?; see ottla --help"),
        (["xyzzy"], "ottla: there is no command 'xyzzy'; see ottla --help"),
        (["serve", "--prot=1"], "ottla serve: unrecognized arguments: --prot=1; see ottla serve --help"),
        (
            ["serve", "--port", "http"],
            "ottla serve: argument --port: invalid int value: 'http'; see ottla serve --help",
        ),
        (
            ["serve", "-X", "num.partition=3"],
            "ottla: Unknown setting num.partition in -X; did you mean num.partitions?",
        ),
        (["serve", "/does/not/exist"], "ottla: cannot read /does/not/exist: No such file or directory"),
        (["serve", "--port", "70000"], "ottla: --port must be 0 to 65535, but it is 70000"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err == line + "\n"
    assert shown.out == ""


def test_all_mistakes_are_told_in_one_run_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "server.properties"
    file.write_text("num.partition=3\nmax.request.size=5\n")
    assert main(["serve", str(file), "--data-dir", " ", "--port", "70000"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "ottla: --data-dir is empty; name a directory, or leave the option out",
        "ottla: --port must be 0 to 65535, but it is 70000",
        f"ottla: Unknown setting num.partition in {file}; did you mean num.partitions?",
        f"ottla: Unknown setting max.request.size in {file}; it is a setting of producers, not of brokers (related settings "
        "of the broker: message.max.bytes, socket.request.max.bytes)",
    ]


def test_help_says_where_data_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    assert serve.default_data_dir(os.environ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("environment", "platform", "directory"),
    [
        ({"XDG_DATA_HOME": "/data/me"}, "linux", "/data/me/ottla"),
        ({"XDG_DATA_HOME": "relative"}, "linux", str(Path.home() / ".local/share/ottla")),
        ({}, "darwin", str(Path.home() / ".local/share/ottla")),
        ({"LOCALAPPDATA": "/c/Users/me/AppData/Local"}, "win32", "/c/Users/me/AppData/Local/ottla"),
    ],
)
def test_the_default_data_directory(environment: dict[str, str], platform: str, directory: str) -> None:
    assert serve.default_data_dir(environment, platform) == directory


def test_data_goes_where_the_strongest_source_says(tmp_path: Path) -> None:
    properties = tmp_path / "server.properties"
    properties.write_text("log.dirs=/from/file\n")

    def directories(*arguments: str, **environment: str) -> tuple[str, ...]:
        given = serve.parser().parse_args(arguments)
        return serve.read_config(given, {"XDG_DATA_HOME": "/home/data", **environment}).log_dirs

    assert directories() == ("/home/data/ottla",)
    assert directories(str(properties)) == ("/from/file",)
    assert directories(str(properties), KAFKA_LOG_DIRS="/from/env") == ("/from/env",)
    assert directories(str(properties), "-X", "log.dirs=/from/x", KAFKA_LOG_DIRS="/from/env") == ("/from/x",)
    assert directories(str(properties), "--data-dir", "/from/flag", "-X", "log.dirs=/from/x") == ("/from/flag",)


def test_serving_does_not_import_what_it_does_not_need() -> None:
    """Up to the loop: asyncio without ssl; afterwards ssl can be imported as ever."""
    script = (
        "import sys\n"
        "from ottla.cli import serve\n"
        "given = serve.parser().parse_args([])\n"
        "serve.read_config(given, {})\n"
        "assert 'asyncio' not in sys.modules\n"
        "serve._import_asyncio(tls=False)\n"
        "assert '_ssl' not in sys.modules and 'ssl' not in sys.modules\n"
        "import ssl\n"
        "assert ssl.create_default_context()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
