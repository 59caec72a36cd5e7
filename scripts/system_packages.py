"""Install the system programs that tests and benchmarks use, through apt where we are root; else name what is missing.

Nothing here fails a build by itself: a test whose program is missing is skipped with the reason, unless CI=true, where
nothing may be skipped for a missing part.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "curl": "curl",
    "openssl": "openssl",
    "gcc": "gcc",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "faketime": "faketime",
}
"""Program to Debian package."""


def missing() -> list[str]:
    """Packages whose program is not on the path (sbin included, where daemons live), and Python's headers."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    packages = [package for program, package in PACKAGES.items() if shutil.which(program, path=path) is None]
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        packages += ["python3-dev", "libc6-dev"]
    return sorted(set(packages))


def main() -> int:
    """Install what is missing, or say so."""
    wanted = missing()
    if not wanted:
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"missing: apt-get install --no-install-recommends {' '.join(wanted)}", file=sys.stderr)
        return 0
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *wanted]
    subprocess.run(["apt-get", "update", "--quiet"], env=environment, check=False, stdout=subprocess.DEVNULL)
    done = subprocess.run(install, env=environment, check=False, stdout=subprocess.DEVNULL)
    if done.returncode != 0 or missing():
        print(f"could not be installed: {' '.join(missing())}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
