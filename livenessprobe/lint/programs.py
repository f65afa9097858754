"""
Which program an image runs, and what each release of the Go program refuses.  Pure.

The table of flags was measured by building and running the releases, v1.0.2 to v2.20.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import NamedTuple

from livenessprobe.process.memory import ANONYMOUS, ANONYMOUS_WITH_METRICS, needed

Version = tuple[int, int]

GO_NEWEST: Version = (2, 20)
GO_FLAGS: Mapping[str, tuple[Version, Version | None]] = {
    "add_dir_header": ((2, 1), (2, 12)),
    "alsologtostderr": ((1, 0), (2, 12)),
    "automaxprocs": ((2, 16), None),
    "connection-timeout": ((1, 0), (2, 0)),
    "csi-address": ((1, 0), None),
    "health-port": ((1, 0), None),
    "http-endpoint": ((2, 2), None),
    "log-flush-frequency": ((2, 12), None),
    "log-json-info-buffer-size": ((2, 12), None),
    "log-json-split-stream": ((2, 12), None),
    "log-text-info-buffer-size": ((2, 13), None),
    "log-text-split-stream": ((2, 13), None),
    "log_backtrace_at": ((1, 0), (2, 12)),
    "log_dir": ((1, 0), (2, 12)),
    "log_file": ((1, 1), (2, 12)),
    "log_file_max_size": ((1, 1), (2, 12)),
    "logging-format": ((2, 12), None),
    "logtostderr": ((1, 0), (2, 12)),
    "metrics-address": ((2, 1), None),
    "metrics-path": ((2, 1), None),
    "one_output": ((2, 2), (2, 12)),
    "probe-timeout": ((1, 1), None),
    "skip_headers": ((1, 1), (2, 12)),
    "skip_log_headers": ((1, 1), (2, 12)),
    "stderrthreshold": ((1, 0), (2, 12)),
    "v": ((1, 0), None),
    "vmodule": ((1, 0), None),
}
"""By flag: the first release that has it, and the first that has it no longer."""

SWAPPED = frozenset(
    {
        "registry.k8s.io/sig-storage/livenessprobe",
        "registry.k8s.io/sig-storage/livenessprobe-win",
        "k8s.gcr.io/sig-storage/livenessprobe",
        "quay.io/k8scsi/livenessprobe",
        "mcr.microsoft.com/oss/kubernetes-csi/livenessprobe",
        "mcr.microsoft.com/oss/v2/kubernetes-csi/livenessprobe",
        "public.ecr.aws/csi-components/livenessprobe",
        "quay.io/openshift/origin-csi-livenessprobe",
        "quay.io/jetstack/livenessprobe",
        "quay.io/minio/livenessprobe",
        "longhornio/livenessprobe",
        "docker.io/longhornio/livenessprobe",
        "vmware.io/csi-livenessprobe",
        "localhost:5000/vmware.io/csi-livenessprobe",
        "csi-livenessprobe",
        "livenessprobe",
    }
)
"""Names of images that k8s/components/swap replaces: those in public manifests."""

GO_MEMORY = 32 << 20
"""Bytes.  The Go program was killed at this limit on large nodes: 7.7 MiB anonymous, 24 MiB of files (NVIDIA/aicr#1693)."""
WINDOWS_MEMORY = 200 << 20
"""Bytes, an estimate: on Windows the system's own processes count towards the limit (docs/windows.md)."""

START = ((1.0, 0.5), (0.1, 3.6), (0.05, 7.5), (0.02, 21.5))
"""Measured: CPU limit, and seconds until the first response of this program's image, page cache cold (docs/image.md)."""


class Program(NamedTuple):
    """What a sidecar's container runs."""

    ours: bool
    version: Version | None
    """None if the image does not tell; then the newest release is meant."""
    text: str
    """In words, for people."""
    swapped: bool = False
    """Whether it is judged as this program although the image may be another's."""

    @property
    def go(self) -> Version:
        """The release of the Go program whose rules count."""
        return self.version or GO_NEWEST

    def memory(self, *, metrics: bool, windows: bool) -> tuple[int, int]:
        """Bytes: below the first it fails, below the second it is likely to."""
        if windows:
            return 0, WINDOWS_MEMORY if self.ours else 0
        if not self.ours:
            return 0, GO_MEMORY
        anonymous = ANONYMOUS_WITH_METRICS if metrics else ANONYMOUS
        return needed(anonymous), needed(anonymous, LARGE_READ_AHEAD)

    def start(self, cpu: float | None) -> float:
        """Seconds until the first response under a CPU limit, or without; 0 for the Go program, which was not measured."""
        if not self.ours:
            return 0.0
        limit = START[0][0] if cpu is None else min(cpu, START[0][0])
        for (upper, fast), (lower, slow) in itertools.pairwise(START):
            if limit >= lower:
                # The CPU time of a start is nearly constant, so its duration is linear in 1 / limit.
                share = (1 / limit - 1 / upper) / (1 / lower - 1 / upper)
                return fast + share * (slow - fast)
        lower, slow = START[-1]
        return slow * lower / limit


LARGE_READ_AHEAD = 8 << 20
"""Bytes: the largest read-ahead of a disk that was measured; each page fault reads as much, and the limit counts it."""


class Image(NamedTuple):
    """The parts of an image's name."""

    repository: str
    tag: str
    digest: str


def parse_image(text: str) -> Image:
    """`registry/name:tag@digest`, of which the last two may be missing."""
    name, _, digest = text.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # the colon is that of the registry's port
        return Image(name, "", digest)
    return Image(repository, tag, digest)


_GO_TAG = re.compile(r"v([0-9]+)\.([0-9]+)\.[0-9]+([-_.].*)?")
_OUR_TAG = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+([-+].*)?")
_NAMED = re.compile(r"(.*[-_/])?liveness-?probe([-_].*)?", re.IGNORECASE)


def is_named_livenessprobe(image: str) -> bool:
    """Whether the image's name says that it is this program or the Go program."""
    return bool(_NAMED.fullmatch(parse_image(image).repository))


def program_of(image: str, *, own_flags: bool, as_ours: bool) -> Program:
    """
    The program that an image runs.

    This program's image is called livenessprobe and has tags without a `v`, which no release of the Go program has; OpenShift's
    origin-csi-livenessprobe has them too.  An image whose tag says nothing is this program if it is given flags of its own.
    """
    parsed = parse_image(image)
    match = _GO_TAG.fullmatch(parsed.tag)
    known = (int(match[1]), int(match[2])) if match else (0, 0)
    if as_ours:
        return Program(ours=True, version=None, text="this program, after the swap", swapped=True)
    if parsed.repository.rpartition("/")[2] == "livenessprobe" and _OUR_TAG.fullmatch(parsed.tag):
        return Program(ours=True, version=None, text=f"this program, {parsed.tag}")
    if is_named_livenessprobe(image) and (1, 0) <= known <= (GO_NEWEST[0], 99):
        return Program(ours=False, version=known, text=f"the Go program, {parsed.tag}")
    if own_flags:
        return Program(ours=True, version=None, text="this program, of an unknown version")
    return Program(ours=False, version=None, text="the Go program, of an unknown version")


def swap_replaces(image: str) -> bool:
    """Whether k8s/components/swap has an entry for an image, or has replaced it."""
    repository = parse_image(image).repository
    return repository in SWAPPED or (
        repository.endswith("/livenessprobe") and bool(_OUR_TAG.fullmatch(parse_image(image).tag))
    )


def missing_flag(name: str, version: Version) -> str:
    """Why a release of the Go program refuses the flag called `name`; empty if it has it."""
    first, removed = GO_FLAGS.get(name, ((0, 0), (0, 0)))
    if removed == (0, 0):
        return "the Go program has no such flag"
    if version < first:
        return f"the Go program has it since v{first[0]}.{first[1]}.0"
    if removed is not None and version >= removed:
        return f"the Go program has it no longer since v{removed[0]}.{removed[1]}.0"
    return ""


def go_default_timeout(version: Version) -> str:
    """The probe timeout of a release of the Go program without --probe-timeout."""
    if version < (1, 1):
        return "30s"  # of --connection-timeout, which bounds the probe there
    return "1s" if version < (2, 17) else "3s"


_GO_ADDRESS = re.compile(r"/.*|unix:.+|unix-abstract:.+|dns:.+|passthrough:.+|(\[[^\]]*\]|[^/\\:]*):[0-9]+", re.IGNORECASE)


def go_reaches(address: str) -> bool:
    """Whether the Go program can dial the address; others it retries for ever, without a word."""
    return bool(_GO_ADDRESS.fullmatch(address))
