"""`livenessprobe status` as a process: what it prints, its exit codes, and what it loads."""

from __future__ import annotations

import functools
import re
import socket
import threading
from pathlib import Path

import pytest

from tests.support import FakeDriver, Start, command, eventually, free_port

PRINTED, USAGE, NOT_CONNECTED, NO_PAGE = range(4)
"""The exit codes, as docs/pages.md has them."""

status = functools.partial(command, "status")


def test_it_prints_the_page_of_the_sidecar_with_the_same_flags(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    assert process.get().status == 200

    done = status(f"--csi-address={driver.path}", f"--http-endpoint=127.0.0.1:{process.port}")

    assert (done.code, done.err) == (PRINTED, "")
    assert done.out.startswith("livenessprobe statusz\n")
    assert "\nHealth: healthy since " in done.out
    assert "\nDriver: fake.csi.test" in done.out


def test_it_finds_the_listener_by_variables_and_by_the_settings_file(
    driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    port = free_port()
    process = sidecar(f"--health-port={port}", port=port)
    process.await_name()
    file = folder / "settings.toml"
    file.write_text(f"health_port = {port}\n")

    assert status(LIVENESSPROBE_HEALTH_PORT=str(port)).code == PRINTED
    assert status(f"--config={file}").code == PRINTED
    assert status(f"--health-port={port}").out.startswith("livenessprobe statusz\n")


def test_it_asks_on_a_unix_socket(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    path = folder / "http.sock"
    process = sidecar(f"--http-endpoint=unix://{path}", await_http=False)
    eventually(path.exists, 20)
    process.await_name()

    assert status(f"--http-endpoint=unix://{path}").code == PRINTED
    assert status(f"--url=unix://{path}").code == PRINTED


def test_a_url_names_the_sidecar_and_the_page(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()

    assert status(f"--url=http://127.0.0.1:{process.port}").out.startswith("livenessprobe statusz\n")
    assert status(f"--url=http://localhost:{process.port}/flagz").out.startswith("livenessprobe flagz\n")


def test_a_settings_file_that_is_ignored_is_told_on_stderr(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """For the listener may be another one than the file means."""
    process = sidecar()
    process.await_name()
    file = folder / "settings.toml"
    file.write_text("health_prot = 9811\n")

    done = status(f"--http-endpoint=127.0.0.1:{process.port}", f"--config={file}")

    assert done.err.startswith(f"livenessprobe status: the settings file is ignored: {file}: line 1: ")
    assert done.err.endswith("; did you mean health_port?\n")
    assert (done.code, done.out.partition("\n")[0]) == (PRINTED, "livenessprobe statusz")


@pytest.mark.parametrize("arguments", [["--url=ftp://x"], ["--url=x"], ["--nosuch"], ["x"], ["--pages=some"]])
def test_bad_flags_are_one_sentence(arguments: list[str]) -> None:
    done = status(*arguments)

    assert (done.code, done.out) == (USAGE, "")
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("livenessprobe status: ")


def test_nothing_that_listens_is_one_sentence() -> None:
    port = free_port()

    done = status(f"--http-endpoint=127.0.0.1:{port}")

    assert (done.code, done.out) == (NOT_CONNECTED, "")
    assert done.err == (
        f"livenessprobe status: cannot connect to http://127.0.0.1:{port}: Connection refused; give this command the sidecar's own "
        "flags, or --url\n"
    )


def test_a_sidecar_that_shows_no_pages_is_one_sentence(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--pages=off")

    done = status(f"--http-endpoint=127.0.0.1:{process.port}")

    assert (done.code, done.out) == (NO_PAGE, "")
    assert done.err.startswith(
        f"livenessprobe status: http://127.0.0.1:{process.port} has no page /statusz for this client: --pages"
    )


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "sent status 200 and no page of a livenessprobe: this is another program",
        ),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "sent status 302 and no page"),
        (b"SSH-2.0-OpenSSH_9\r\n", "sent no valid response: "),
        (b"", "sent no valid response: "),
    ],
)
def test_another_program_is_one_sentence(response: bytes, sentence: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(response)

        threading.Thread(target=serve, daemon=True).start()
        done = status(f"--url=http://127.0.0.1:{server.getsockname()[1]}")

    assert (done.code, done.out) == (NO_PAGE, "")
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1


def test_what_is_no_text_does_not_reach_the_terminal() -> None:
    body = b"livenessprobe statusz\n\x1b]0;evil\x07\xe2\x80\xae\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        threading.Thread(target=serve, daemon=True).start()
        done = status(f"--url=http://127.0.0.1:{server.getsockname()[1]}")

    assert (done.code, done.out) == (PRINTED, "livenessprobe statusz\n\\x1b]0;evil\\a\\u202e\\r\n")


def test_it_loads_neither_grpc_nor_a_web_framework(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()

    done = status(f"--url=http://127.0.0.1:{process.port}", PYTHONVERBOSE="1")

    loaded = {name.partition(".")[0] for name in re.findall(r"^import '?([\w.]+)'? #", done.err, re.MULTILINE)}
    assert done.code == PRINTED
    assert loaded.isdisjoint(
        {"grpc", "google", "quart", "hypercorn", "h11", "dynaconf", "prometheus_client", "rich", "asyncio"}
    )


def test_help_is_usage() -> None:
    done = status("--help")

    assert done.code == PRINTED
    assert "--url" in done.out or "-url" in done.out
