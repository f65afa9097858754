"""
A node with one kubelet and one containerd, without an API server: it runs the pods in its folder of manifests.

It has a network namespace of its own without a route to other hosts, and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import debian, golang, podman
from tests.e2e.host import CACHE, Failed, Skip, install, made, run, say, wait_for

NAMESPACE = "livenessprobe-e2e"
PAUSE = "localhost/pause:e2e"
PORT = 10255

CONTAINERD = """\
version = 2
root = "{images}"
state = "{folder}/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true  # lowering it needs a capability that may be missing
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{folder}/network"
"""
KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "staticPodPath": "{folder}/manifests",
    "address": "127.0.0.1",
    "readOnlyPort": PORT,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "failSwapOn": False,
    "fileCheckFrequency": "1s",
    "syncFrequency": "5s",
    "enforceNodeAllocatable": [],
    "makeIPTablesUtilChains": False,
    "resolvConf": "",
    # A full disk of the machine must not fail the test.
    "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%"},
    "imageGCHighThresholdPercent": 100,
}
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "e2e",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.211.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "{folder}/addresses",
            },
        }
    ],
}


@dataclass(frozen=True)
class Status:
    """The kubelet's report on one container."""

    id: str
    running: bool
    restarts: int


class Node:
    """A running node."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder = folder
        self.images = images
        self._processes: list[subprocess.Popen[bytes]] = []

    # --- pods

    def add(self, name: str, manifest: str) -> None:
        """Run the pod in `manifest`; its name is `name`."""
        draft = self.folder / f"{name}.yaml"
        draft.write_text(manifest)
        draft.rename(self.folder / "manifests" / draft.name)

    def containers(self) -> dict[tuple[str, str], Status]:
        """Reports by name of the pod (as in its manifest) and of the container."""
        found = {}
        for pod in json.loads(self._get(f"http://127.0.0.1:{PORT}/pods"))["items"] or []:
            for each in pod["status"].get("containerStatuses", []):
                status = Status(
                    each.get("containerID", "").split("//")[-1], "running" in each["state"], each["restartCount"]
                )
                found[pod["metadata"]["name"].removesuffix("-node"), each["name"]] = status
        return found

    def status(self, pod: str, container: str) -> Status:
        return self.containers().get((pod, container), Status("", False, 0))

    def address(self, pod: str) -> str:
        """The IP address of a pod that runs."""
        for each in json.loads(self._get(f"http://127.0.0.1:{PORT}/pods"))["items"]:
            if each["metadata"]["name"].removesuffix("-node") == pod:
                return str(each["status"]["podIP"])
        raise Failed(f"there is no pod {pod}")

    def ask(self, url: str) -> int:
        """The status of a response to a client on the node; 0 without a response."""
        try:
            quiet = ("--silent", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}")
            return int(self._inside("curl", *quiet, url))
        except Failed:
            return 0

    def pid(self, pod: str, container: str) -> int:
        """The process id of a container's first process."""
        wanted = self.status(pod, container).id
        for line in self._ctr("tasks", "list").splitlines()[1:]:
            task, pid, _ = line.split()
            if task == wanted:
                return int(pid)
        raise Failed(f"{container} of {pod} does not run")

    def load(self, image: str) -> None:
        """Load an image of podman's into the node."""
        archive = self.folder / "image.tar"
        podman.podman("save", "--quiet", "--format", "docker-archive", "--output", archive, image)
        self._ctr("images", "import", archive)
        archive.unlink()

    def log(self) -> str:
        """The kubelet's log."""
        return (self.folder / "kubelet.log").read_text(errors="replace")

    def _get(self, url: str) -> str:
        return self._inside("curl", "--silent", "--max-time", "5", url)

    # --- the node itself

    def start(self) -> None:
        for name in ("manifests", "network"):
            (self.folder / name).mkdir()
        self._write("containerd.toml", CONTAINERD.format(folder=self.folder, images=self.images, pause=PAUSE))
        self._write("kubelet.json", json.dumps(KUBELET).replace("{folder}", str(self.folder)))
        self._write("network/10.conflist", json.dumps(NETWORK).replace("{folder}", str(self.folder)))
        run("ip", "netns", "add", NAMESPACE)
        for words in (
            "link set lo up",
            "link add node type bridge",  # a kubelet needs an address of the node
            "addr add 10.210.0.1/24 dev node",
            "link set node up",
            "route add default via 10.210.0.254 dev node",  # leads nowhere
        ):
            run("ip", "-n", NAMESPACE, *words.split())
        self._spawn("containerd", "containerd", "--config", self.folder / "containerd.toml")
        wait_for("containerd", lambda: self._answers(lambda: self._ctr("version")), 30)
        self.load(PAUSE)
        self._spawn(
            "kubelet",
            golang.kubelet(),
            f"--config={self.folder}/kubelet.json",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{self.folder}/containerd.sock",
            f"--root-dir={self.folder}/kubelet",
            f"--cert-dir={self.folder}/kubelet/pki",
            f"--pod-infra-container-image={PAUSE}",
            "--hostname-override=node",
            "--node-ip=10.210.0.1",
            "--v=2",
        )
        wait_for("the kubelet", lambda: self._answers(lambda: self._get("http://127.0.0.1:10248/healthz")), 60)

    def stop(self) -> None:
        for manifest in self.folder.glob("manifests/*"):
            manifest.unlink()
        try:
            wait_for("the pods to end", lambda: not self._ctr("tasks", "list", "--quiet"), 60)
        finally:
            for process in reversed(self._processes):
                process.terminate()
                process.wait(20)
            run("ip", "netns", "delete", NAMESPACE)
            mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            for mount in sorted((each for each in mounts if each.startswith(f"{self.folder}/")), reverse=True):
                run("umount", "--lazy", mount)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def _spawn(self, name: str, *command: str | Path) -> None:
        # `ip netns exec` would hide the control groups.
        inside = ["nsenter", f"--net=/run/netns/{NAMESPACE}", *(str(part) for part in command)]
        with (self.folder / f"{name}.log").open("w") as log:
            self._processes.append(subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _inside(self, *command: str) -> str:
        return run("nsenter", f"--net=/run/netns/{NAMESPACE}", *command)

    def _ctr(self, *arguments: str | Path) -> str:
        return run("ctr", "--address", self.folder / "containerd.sock", "--namespace", "k8s.io", *arguments)

    def _answers(self, ask: object) -> bool:
        for process in self._processes:
            if process.poll() is not None:
                logs = [path.read_text()[-2000:] for path in self.folder.glob("*.log")]
                raise Failed("a process of the node ended:\n" + "\n".join(logs))
        try:
            ask()
        except Failed:
            return False
        return True


@contextmanager
def running(images: Path | None = None) -> Iterator[Node]:
    """A running node, with the images of a driver and of the pause container; the files of images are in the folder `images`."""
    if os.geteuid():
        raise Skip("a kubelet needs root")
    install("containerd", "runc", "containernetworking-plugins", "iproute2", "util-linux", "curl", "gcc", "libc6-dev")
    podman.set_up()
    golang.kubelet()
    image_of(golang.driver(), "localhost/driver:e2e")
    image_of(_pause(), PAUSE)
    folder = Path(tempfile.mkdtemp(prefix="e2e-node-"))
    node = Node(folder, images or folder / "images")
    try:
        node.start()
        node.load("localhost/driver:e2e")
        say(f"kubelet {golang.RELEASE} is up")
        yield node
    finally:
        try:
            if (folder / "kubelet.log").exists():
                shutil.copy(folder / "kubelet.log", CACHE)
            node.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _pause() -> Path:
    """The program that keeps a pod's namespaces open."""
    program = CACHE / "bin/pause"
    if not program.exists():
        source = debian.source(golang.SUITE, "kubernetes") / "build/pause/linux/pause.c"
        with made(program) as draft:
            run("gcc", "-Os", "-static", "-DVERSION=3.2", "-o", draft, source)
    return program


def image_of(program: Path, name: str) -> None:
    """Make an image that holds one static program."""
    archive = CACHE / f"{program.name}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(program, program.name)
    podman.load_root(archive, name, (f'ENTRYPOINT ["/{program.name}"]',))
    archive.unlink()
