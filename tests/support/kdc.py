"""A realm of Kerberos for tests: a key distribution centre on a free port, with principals, keytabs and tickets.

It takes MIT's `krb5kdc`, `kdb5_util`, `kadmin.local` and `kinit` (Debian: krb5-kdc, krb5-admin-server, krb5-user) and the
extra `gssapi`; tests that need it skip where they are absent. Everything lies in one directory; nothing of the machine is
touched.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from tests.support.ports import free_port

REALM = "OTTLA.TEST"
START_TIMEOUT_S = 20.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")


def require() -> None:
    """Skip the calling test where there is no Kerberos."""
    if missing := [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]:
        pytest.skip(f"no Kerberos: {', '.join(missing)} not found (Debian: krb5-kdc, krb5-admin-server, krb5-user)")
    if find_spec("gssapi") is None:
        pytest.skip("no Kerberos: the extra gssapi is not installed (make test-kerberos)")


class Kdc:
    """A realm; use as a context manager.

    Attributes:
        environment: what programs need to find the realm.
        krb5_conf: the file that says where the realm is.
        directory: where everything of it lies.
    """

    def __init__(self, directory: Path, realm: str = REALM) -> None:
        self.realm = realm
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        self.krb5_conf = directory / "krb5.conf"
        self.environment = {
            "KRB5_CONFIG": str(self.krb5_conf),
            "KRB5_KDC_PROFILE": str(directory / "kdc.conf"),
            "KRB5RCACHENAME": f"dfl:{directory}",
            "KRB5RCACHEDIR": str(directory),
            "KRB5CCNAME": f"FILE:{directory / 'nobody.cc'}",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        here = self.directory
        self.write_conf()
        (here / "kdc.conf").write_text(
            f"[kdcdefaults]\n kdc_ports = {self._port}\n kdc_tcp_ports = {self._port}\n"
            f"[realms]\n {self.realm} = {{\n  database_name = {here}/principal\n  key_stash_file = {here}/stash\n"
            f"  acl_file = {here}/acl\n  max_life = 24h\n }}\n[logging]\n kdc = FILE:{here}/kdc.log\n"
        )
        self._run("kdb5_util", "create", "-s", "-r", self.realm, "-P", "of the tests")
        self._process = subprocess.Popen(
            [_program("krb5kdc"), "-n", "-r", self.realm], env=self._env(), stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return self
            except OSError:
                assert self._process.poll() is None, (here / "kdc.log").read_text()
                assert time.monotonic() < deadline, "the key distribution centre does not start"
                time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def write_conf(self, *, clock_skew: int = 300) -> None:
        """Write the file that says where the realm is; clocks may differ by so many seconds."""
        realm = f"{self.realm} = {{\n  kdc = 127.0.0.1:{self._port}\n }}"
        self.krb5_conf.write_text(
            f"[libdefaults]\n default_realm = {self.realm}\n dns_lookup_realm = false\n dns_lookup_kdc = false\n"
            f" dns_canonicalize_hostname = false\n rdns = false\n udp_preference_limit = 1\n"
            f" clockskew = {clock_skew}\n[realms]\n {realm}\n"
        )

    def keytab(self, principal: str, *, name: str = "") -> Path:
        """Make a principal (`kafka/localhost`, `alice`) and return a file with its keys."""
        path = self.directory / f"{name or principal.replace('/', '-')}.keytab"
        self._run("kadmin.local", "-r", self.realm, "-q", f"addprinc -randkey {principal}@{self.realm}")
        self._run("kadmin.local", "-r", self.realm, "-q", f"ktadd -k {path} {principal}@{self.realm}")
        return path

    def tickets(self, principal: str, keytab: Path, *, lifetime: str = "1h", name: str = "") -> Path:
        """Return a cache with a ticket of a principal."""
        path = self.directory / f"{name or principal}.cc"
        self._run("kinit", "-k", "-t", str(keytab), "-l", lifetime, "-c", str(path), f"{principal}@{self.realm}")
        return path

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [_program(program), *arguments], env=self._env(), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout}{done.stderr}"

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found is not None
    return found
