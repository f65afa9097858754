"""Finds pod templates, and reads containers: environment, arguments as the kubelet expands them, mounts.  Pure."""

from __future__ import annotations

import difflib
import functools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from livenessprobe.lint.kubelet import POD_GRACE, Timing
from livenessprobe.lint.nodes import Document, Node

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def is_placeholder(text: str) -> bool:
    """Whether a tool will still put in a value: `${NAME}`, `<name>`, `{{ … }}`."""
    return bool(re.search(r"\$\{[^}]*\}|\{\{|\A<[^<>]+>\Z", text))


class Argument(NamedTuple):
    """One argument of a process, expanded, and where it stands."""

    text: str
    node: Node


class Volume(NamedTuple):
    """Where a path of a container leads: the same in two containers if both see the same file."""

    source: str
    """`host` for the node's own files, else the name of the volume."""
    path: str


UNKNOWN = Volume("", "")
"""A path that the manifest does not determine."""


class Probe(NamedTuple):
    """A probe of a container."""

    kind: str
    node: Node

    @property
    def timing(self) -> Timing:
        """The probe's numbers; what is no number has Kubernetes' default."""
        defaults = Timing()

        def positive(key: str, default: int) -> int:
            number = self.node.at(key).number
            return number if number is not None and number > 0 else default

        return Timing(
            initial_delay=max(0, self.node.at("initialDelaySeconds").number or 0),
            period=positive("periodSeconds", defaults.period),
            timeout=positive("timeoutSeconds", defaults.timeout),
            failure=positive("failureThreshold", defaults.failure),
            success=positive("successThreshold", defaults.success),
            grace=self.node.at("terminationGracePeriodSeconds").number,
        )


class Container:
    """A container of a pod template."""

    def __init__(self, pod: Pod, node: Node, *, native: bool) -> None:
        self.pod = pod
        self.node = node
        self.native = native
        """Whether it is an init container that runs beside the others, by restartPolicy: Always."""
        self.name = node.at("name").text
        self.image = node.at("image").text

    @functools.cached_property
    def environ(self) -> dict[str, str]:
        """Variables by name; `${NAME}` stands for a value that is not in the input."""
        values: dict[str, str] = {}
        for source in self.node.at("envFrom").items:
            data = self.pod.config_map(source.at("configMapRef", "name").text)
            if data is not None:
                prefix = source.at("prefix").text
                values |= {prefix + key: text for key, text in data.texts.items()}
        for each in self.node.at("env").items:
            if name := each.at("name").text:
                values[name] = self._value_of(each, name, values)
        return values

    def _value_of(self, node: Node, name: str, earlier: Mapping[str, str]) -> str:
        if node.at("valueFrom").missing:
            return expand(node.at("value").text, earlier)
        reference = node.at("valueFrom", "configMapKeyRef")
        data = self.pod.config_map(reference.at("name").text)
        text = data.at(reference.at("key").text).value if data is not None else None
        return text if isinstance(text, str) else f"${{{name}}}"

    @functools.cached_property
    def command(self) -> list[Argument]:
        """The items of `command`, expanded; empty if the image's own command runs."""
        return self.expanded(self.node.at("command"))

    @functools.cached_property
    def arguments(self) -> list[Argument]:
        """What the process gets after its name: the rest of `command`, then `args`."""
        return [*self.command[1:], *self.expanded(self.node.at("args"))]

    def expanded(self, node: Node) -> list[Argument]:
        """The strings in a list, with the variables in them."""
        return [Argument(expand(each.text, self.environ), each) for each in node.items if isinstance(each.value, str)]

    @functools.cached_property
    def probes(self) -> list[Probe]:
        """The probes that the container has."""
        return [Probe(kind, self.node.at(kind)) for kind in PROBES if self.node.at(kind).entries]

    def port(self, name: str) -> int | None:
        """The number of a port that the container declares, as the kubelet looks up a probe's port."""
        for each in self.node.at("ports").items:
            if each.at("name").text == name:
                return each.at("containerPort").number
        return int(name) if name.isascii() and name.isdigit() else None

    def setting(self, *path: str) -> Node:
        """A key of the security context, the container's or else the pod's."""
        own = self.node.at("securityContext", *path)
        return self.pod.spec.at("securityContext", *path) if own.missing else own

    @property
    def is_windows(self) -> bool:
        """Whether it can only run on Windows."""
        return (
            self.pod.is_windows
            or any(each.text.lower().endswith(".exe") for each in self.command[:1])
            or bool(re.search(r"[-/]windows\b|-win\b", self.image))
        )

    @property
    def is_host_process(self) -> bool:
        """Whether it runs as a process of a Windows node, which sees the node's files."""
        return self.setting("windowsOptions", "hostProcess").value is True

    def mount(self, path: str) -> Node | None:
        """The mount that `path` lies in: the one with the longest folder."""
        wanted = _native(path, windows=self.is_windows)
        found = [
            (len(folder), each)
            for each in self.node.at("volumeMounts").items
            if (folder := _native(each.at("mountPath").text, windows=self.is_windows))
            and _inside(wanted, folder) is not None
        ]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def locate(self, path: str) -> Volume | None:
        """Where `path` leads; None if no mount covers it, UNKNOWN if that cannot be told."""
        if is_placeholder(path):
            return UNKNOWN
        mount = self.mount(path)
        if mount is None:
            unclear = any(is_placeholder(each.at("mountPath").text) for each in self.node.at("volumeMounts").items)
            return UNKNOWN if unclear else None
        sub = expand(mount.at("subPathExpr").text, self.environ) or mount.at("subPath").text
        if is_placeholder(sub) or is_placeholder(mount.at("name").text):
            return UNKNOWN
        windows = self.is_windows
        inside = _inside(_native(path, windows=windows), _native(mount.at("mountPath").text, windows=windows)) or ""
        return self.pod.volume(mount.at("name").text, posixpath.join(sub, inside) if inside else sub, windows=windows)


def _native(path: str, *, windows: bool) -> str:
    """A path in one spelling; on Windows without drive, backslashes and capitals."""
    if windows:
        path = re.sub(r"\A[A-Za-z]:", "", path.replace("\\", "/")).lower()
    return re.sub("/+", "/", path).rstrip("/") or ("/" if path else "")


def _inside(path: str, folder: str) -> str | None:
    """`path` relative to `folder`, empty if they are equal; None if it lies elsewhere."""
    if path == folder:
        return ""
    start = folder.rstrip("/") + "/"
    return path.removeprefix(start) if path.startswith(start) else None


class Pod:
    """A pod template, or a pod, with the object that it belongs to."""

    def __init__(self, document: Document, template: Node, spec: Node, config_maps: Mapping[tuple[str, str], Node]) -> None:
        self.document = document
        self.metadata = template.at("metadata")
        self.spec = spec
        self._config_maps = config_maps

    @property
    def title(self) -> str:
        """Kind, namespace and name, as people write them."""
        namespace = f"{self.document.namespace}/" if self.document.namespace else ""
        return f"{self.document.kind or 'object'} {namespace}{self.document.name or '(without a name)'}"

    @functools.cached_property
    def containers(self) -> list[Container]:
        """The containers that run together: init containers that keep running are among them."""
        native = [each for each in self.spec.at("initContainers").items if each.at("restartPolicy").text == "Always"]
        found = [Container(self, each, native=True) for each in native if each.entries]
        return [*found, *(Container(self, each, native=False) for each in self.spec.at("containers").items if each.entries)]

    @functools.cached_property
    def labels(self) -> dict[str, str]:
        """The labels of the pods."""
        return self.metadata.at("labels").texts

    @property
    def host_network(self) -> bool:
        """Whether the pods use the node's network."""
        return self.spec.at("hostNetwork").value is True

    @functools.cached_property
    def is_windows(self) -> bool:
        """Whether the pods can only run on Windows."""
        spec = self.spec
        selected = spec.at("nodeSelector").texts
        return (
            spec.at("os", "name").text == "windows"
            or "windows" in (selected.get("kubernetes.io/os"), selected.get("beta.kubernetes.io/os"))
            or spec.at("securityContext", "windowsOptions", "hostProcess").value is True
        )

    @property
    def grace(self) -> int:
        """Seconds: terminationGracePeriodSeconds, or its default."""
        number = self.spec.at("terminationGracePeriodSeconds").number
        return POD_GRACE if number is None else number

    @property
    def restarts(self) -> bool:
        """Whether a container that was killed starts again."""
        return self.spec.at("restartPolicy").text != "Never"

    def config_map(self, name: str) -> Node | None:
        """The data of a ConfigMap of the same input, or None."""
        return self._config_maps.get((self.document.namespace, name))

    def near_config_map(self, name: str) -> str:
        """The ConfigMap of the input whose name is this one, or resembles it; empty if there is none."""
        names = [each for namespace, each in self._config_maps if namespace == self.document.namespace]
        return next(iter(difflib.get_close_matches(name, names, 1, 0.8)), "")

    def source(self, volume: str) -> Node:
        """The volume called so; a missing node if the pod has none."""
        for each in self.spec.at("volumes").items:
            if each.at("name").text == volume:
                return each
        return self.spec.at("volumes", "")

    def volume(self, name: str, path: str, *, windows: bool) -> Volume:
        """The file at `path` in the volume called `name`."""
        folder = self.source(name).at("hostPath", "path").text
        if is_placeholder(folder):
            return Volume(name, path)
        if folder:
            return self.host_file(posixpath.join(folder, path) if path else folder, windows=windows)
        return Volume(name, path)

    def host_file(self, path: str, *, windows: bool = True) -> Volume:
        """A file of the node."""
        return Volume("host", _native(path, windows=windows))


_VARIABLE = re.compile(r"\$(?:\$|\(([^)]*)\)|(.)|\Z)", re.DOTALL)


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` replaced and `$$` halved, as the kubelet does; an unknown variable stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        if match[1] is not None:
            return values.get(match[1], match[0])
        return "$" if match[0] == "$$" else match[0]

    return _VARIABLE.sub(replaced, text) if "$" in text else text


def pods(documents: Sequence[Document]) -> list[Pod]:
    """Every pod template in the documents, of known and of custom kinds, in the order of the input."""
    maps: dict[tuple[str, str], Node] = {
        (each.namespace, each.name): each.node.at("data") for each in documents if each.kind == "ConfigMap"
    }

    return [
        Pod(each, template, spec, maps)
        for each in documents
        if each.kind != "ConfigMap"
        for template, spec in _specs(each.node)
    ]


def _specs(root: Node) -> Iterator[tuple[Node, Node]]:
    """Each mapping with containers below `root`, and the mapping around it, which has the metadata."""
    seen: set[int] = set()
    waiting = [(root, root)]
    while waiting:
        around, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        containers = node.entries.get("containers")
        if containers is not None and not containers.entries and (containers.items or containers.value is None):
            yield around, node
            continue
        waiting.extend((node, each) for each in reversed([*node.entries.values(), *node.items]))
