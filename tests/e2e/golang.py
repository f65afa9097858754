"""
Programs in Go from Debian's source package of Kubernetes: a kubelet, and a CSI driver on grpc-go.

That source has all dependencies in its vendor folder, with the CSI specification's types.  Its release is old enough
for the Go compiler of the same Debian release; no registry of Go modules is used.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.e2e import debian
from tests.e2e.host import CACHE, HERE, install, made, run, say

SUITE = "bookworm"
RELEASE = "v1.20.2"
VERSION = "k8s.io/kubernetes/vendor/k8s.io/component-base/version"


def _compiler() -> Path:
    """GOROOT of the compiler."""
    folder = CACHE / "go"
    if not folder.exists():
        with made(folder) as draft:
            for package in debian.packages(SUITE, "go", "golang-1.19-go", "golang-1.19-src"):
                run("dpkg-deb", "--extract", package, draft)
    return folder / "usr/lib/go-1.19"


def _build(name: str, package: str, flags: str = "") -> Path:
    program = CACHE / "bin" / name
    if program.exists():
        return program
    install("dpkg-dev")
    say(f"building {name} from Debian's source of Kubernetes {RELEASE}")
    source, go = debian.source(SUITE, "kubernetes"), _compiler()
    # The vendor folder is older than Go's check of it, which the build with GOPATH does not make.
    inside = CACHE / "gopath/src/k8s.io/kubernetes"
    if not inside.is_symlink():
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.symlink_to(source)
    shutil.copytree(HERE / "driver", source / "cmd/e2e-driver", dirs_exist_ok=True)
    environment = {
        **os.environ,
        "GOROOT": str(go),
        "GOPATH": str(CACHE / "gopath"),
        "GOCACHE": str(CACHE / "gocache"),
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    with made(program) as draft:
        command = [go / "bin/go", "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", draft, package]
        run(*command, cwd=inside, env=environment)
    return program


def kubelet() -> Path:
    minor = RELEASE.split(".")[1]
    flags = f"-X {VERSION}.gitVersion={RELEASE} -X {VERSION}.gitMajor=1 -X {VERSION}.gitMinor={minor}"
    return _build("kubelet", "k8s.io/kubernetes/cmd/kubelet", flags)


def driver() -> Path:
    """Built again after a change of its source."""
    built = CACHE / "source/kubernetes/cmd/e2e-driver/main.go"
    if built.exists() and built.read_bytes() != (HERE / "driver/main.go").read_bytes():
        (CACHE / "bin/driver").unlink(missing_ok=True)
    return _build("driver", "k8s.io/kubernetes/cmd/e2e-driver")
