"""The handler of a request, chosen as Go's http.ServeMux chooses it."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.web.routes import Handler, Route, Routes

HEALTH_ONLY = Routes(healthz=True, metrics_path=None)
BOTH = Routes(healthz=True, metrics_path="/metrics")
METRICS_ONLY = Routes(healthz=False, metrics_path="/metrics")
SUBTREE = Routes(healthz=True, metrics_path="/metrics/")
ROOT = Routes(healthz=True, metrics_path="/")
HEALTHZ, METRICS, NOT_FOUND, BAD_REQUEST = Handler.HEALTHZ, Handler.METRICS, Handler.NOT_FOUND, Handler.BAD_REQUEST


# --- /healthz


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "BREW", "get"])
def test_every_method_reaches_healthz(method: str) -> None:
    assert BOTH.route(method, "/healthz") == Route(HEALTHZ)


@pytest.mark.parametrize(
    "raw_path",
    ["/healthz", "/%68ealthz", "/%68%65%61%6C%74%68%7A", "/hea%6cthz"],
)
def test_spellings_of_healthz(raw_path: str) -> None:
    """Escapes are decoded."""
    assert HEALTH_ONLY.route("GET", raw_path) == Route(HEALTHZ)


@pytest.mark.parametrize(
    "raw_path",
    [
        "/",
        "/healthz/",
        "/Healthz",
        "/HEALTHZ",
        "/healthz/x",
        "/healthzx",
        "/health",
        "/nope",
        "/metrics",
        "/statusz",
        "/livez/",
        "/*",
    ]
    + ["/%C3%A9", "/%FF", "/%00", "/http:healthz", "/healthz%20"]
    # An escaped dot or slash is part of a name.
    + ["/%2e%2e/healthz", "/x/%2E%2e/healthz", "/%2fhealthz", "/healthz%2F", "/x%2f..%2fhealthz"],
)
def test_every_other_path_is_not_found(raw_path: str) -> None:
    assert HEALTH_ONLY.route("GET", raw_path) == Route(NOT_FOUND)


def test_an_asterisk_is_a_target_for_options_only() -> None:
    assert BOTH.route("OPTIONS", "*") == Route(Handler.SERVER_OPTIONS)
    assert BOTH.route("GET", "*") == Route(BAD_REQUEST)


def test_a_listener_for_metrics_has_no_healthz() -> None:
    assert METRICS_ONLY.route("GET", "/healthz") == Route(NOT_FOUND)
    assert Routes(healthz=False, metrics_path="/healthz").route("GET", "/healthz") == Route(METRICS)


@pytest.mark.parametrize(
    ("path", "handler"), [("/livez", Handler.LIVEZ), ("/readyz", Handler.READYZ), ("/startupz", Handler.STARTUPZ)]
)
def test_our_own_paths_exist_only_on_listeners_of_health(path: str, handler: Handler) -> None:
    assert BOTH.route("GET", path) == HEALTH_ONLY.route("POST", path) == Route(handler)
    assert METRICS_ONLY.route("GET", path) == Route(NOT_FOUND)
    assert ROOT.route("GET", path) == Routes(healthz=True, metrics_path=path).route("GET", path) == Route(METRICS)


# --- redirects to the clean path


@pytest.mark.parametrize(
    ("raw_path", "location"),
    [
        ("//healthz", "/healthz"),
        ("//X", "/X"),
        ("///healthz", "/healthz"),
        ("/./healthz", "/healthz"),
        ("/x/../healthz", "/healthz"),
        ("/../healthz", "/healthz"),
        ("/healthz/.", "/healthz"),
        ("/healthz/x/..", "/healthz"),
        ("/healthz//", "/healthz/"),
        ("//", "/"),
        ("/..", "/"),
        ("/.", "/"),
        ("/a//b", "/a/b"),
        ("/a/./b/", "/a/b/"),
        ("", "/"),  # http://localhost
        ("/%2e%2e//healthz", "/%2e%2e/healthz"),
        ("//a%2fb", "/a%2fb"),
        ("//%20%22%3Cx", "/%20%22%3Cx"),
        ('//"<x', "/%22%3Cx"),
        ("//%C3%A9%FF", "/%C3%A9%FF"),
        ("//a:b@c!$&'()*+,;=~-._[]", "/a:b@c!$&'()*+,;=~-._[]"),
        ("//{*}%2e%41", "/%7B%2A%7D.A"),  # a path with other characters is escaped anew
        ("//x%0D%0ASet-Cookie:1", "/x%0D%0ASet-Cookie:1"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unclean_path_is_redirected(raw_path: str, location: str, method: str) -> None:
    assert HEALTH_ONLY.route(method, raw_path) == Route(Handler.REDIRECT, location)


def test_a_connect_request_is_not_redirected() -> None:
    assert HEALTH_ONLY.route("CONNECT", "//healthz") == Route(NOT_FOUND)


# --- metrics


@pytest.mark.parametrize(
    ("mux", "raw_path", "route"),
    [
        # A literal path.
        (BOTH, "/metrics", Route(METRICS)),
        (BOTH, "/m%65trics", Route(METRICS)),
        (BOTH, "/healthz", Route(HEALTHZ)),
        (BOTH, "/metrics/", Route(NOT_FOUND)),
        (BOTH, "/metrics/x", Route(NOT_FOUND)),
        (BOTH, "/metricsx", Route(NOT_FOUND)),
        (BOTH, "/", Route(NOT_FOUND)),
        (METRICS_ONLY, "/metrics", Route(METRICS)),
        (METRICS_ONLY, "/", Route(NOT_FOUND)),
        (Routes(healthz=True, metrics_path="/m/x"), "/m/x", Route(METRICS)),
        (Routes(healthz=True, metrics_path="/m/x"), "/metrics", Route(NOT_FOUND)),
        # No pattern language; in upstream, wildcards and methods work only by accident.
        (Routes(healthz=True, metrics_path="/{x}"), "/foo", Route(NOT_FOUND)),
        (Routes(healthz=True, metrics_path="/{x}"), "/{x}", Route(METRICS)),
        (Routes(healthz=True, metrics_path="/é"), "/%C3%A9", Route(METRICS)),
        # A path with a slash at its end serves a subtree, and the path without the slash redirects there.
        (SUBTREE, "/metrics/", Route(METRICS)),
        (SUBTREE, "/metrics/foo", Route(METRICS)),
        (SUBTREE, "/metrics/a/b/", Route(METRICS)),
        (SUBTREE, "/metrics", Route(Handler.REDIRECT, "/metrics/")),
        (SUBTREE, "/metricsx", Route(NOT_FOUND)),
        (SUBTREE, "/healthz", Route(HEALTHZ)),
        (SUBTREE, "/metrics/../healthz", Route(Handler.REDIRECT, "/healthz")),
        (SUBTREE, "/metrics%2Fx", Route(NOT_FOUND)),
        (SUBTREE, "/metrics/%2e%2e/healthz", Route(METRICS)),
        # The root serves everything but /healthz.
        (ROOT, "/", Route(METRICS)),
        (ROOT, "/anything/else", Route(METRICS)),
        (ROOT, "/healthz/", Route(METRICS)),
        (ROOT, "/healthz", Route(HEALTHZ)),
        (Routes(healthz=False, metrics_path="/"), "/healthz", Route(METRICS)),
        (Routes(healthz=True, metrics_path="/healthz/"), "/healthz", Route(HEALTHZ)),
        (Routes(healthz=True, metrics_path="/healthz/"), "/healthz/x", Route(METRICS)),
        (HEALTH_ONLY, "/metrics", Route(NOT_FOUND)),
    ],
)
def test_the_metrics_path(mux: Routes, raw_path: str, route: Route) -> None:
    assert mux.route("GET", raw_path) == route


# --- properties

TARGETS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="/.%25AFhealtz~:?*", max_size=16).map("/".__add__),
    st.lists(st.sampled_from(["", ".", "..", "healthz", "%68ealthz", "%2e", "%2F", "metrics", "x", "%FF"]), max_size=6).map(
        lambda parts: "/" + "/".join(parts)
    ),
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "CONNECT"]) | st.text(max_size=4)


@settings(max_examples=500)
@given(METHODS, TARGETS, st.booleans(), st.sampled_from([None, "/", "/metrics", "/metrics/", "/healthz", "/é{x}"]))
def test_any_target_has_a_handler(method: str, raw_path: str, healthz: bool, metrics_path: str | None) -> None:
    route = Routes(healthz, metrics_path).route(method, raw_path)

    assert (route.handler is Handler.REDIRECT) == (route.location != "")
    assert route.handler is not Handler.HEALTHZ or healthz
    assert route.handler is not Handler.METRICS or metrics_path is not None


@settings(max_examples=500)
@given(METHODS, TARGETS)
def test_only_healthz_is_answered_with_health(method: str, raw_path: str) -> None:
    """Whatever the spelling, the decoded path is /healthz."""
    if BOTH.route(method, raw_path).handler is HEALTHZ:
        path = raw_path if raw_path.startswith("/") else urlsplit(raw_path).path
        assert unquote(path) == "/healthz"


@settings(max_examples=500)
@given(TARGETS)
def test_a_redirect_leads_to_a_clean_local_path_at_once(raw_path: str) -> None:
    """The location is one line of ASCII on this host, and is not redirected again."""
    route = BOTH.route("GET", raw_path)
    if route.handler is not Handler.REDIRECT:
        return

    assert route.location.isascii()
    assert route.location.isprintable()
    assert " " not in route.location
    assert route.location.startswith("/")
    assert not route.location.startswith("//")
    assert BOTH.route("GET", route.location).handler is not Handler.REDIRECT


# --- pages


def with_pages(pages: str, metrics_path: str | None = "/metrics", healthz: bool = True) -> Routes:
    return Routes(healthz, metrics_path, pages)


@pytest.mark.parametrize(
    ("routes", "path", "handler"),
    [
        (with_pages("local"), "/statusz", Handler.STATUSZ),
        (with_pages("local"), "/flagz", Handler.FLAGZ),
        (with_pages("all"), "/%73tatusz", Handler.STATUSZ),
        (with_pages("local"), "/", Handler.INDEX),
        (with_pages("local", healthz=False), "/", Handler.INDEX),
        (with_pages("local", healthz=False), "/statusz", Handler.STATUSZ),
        # The Go program's 404, as recorded.
        (with_pages("local", None), "/", NOT_FOUND),
        (with_pages("local", None), "/statusz", Handler.STATUSZ),
        (with_pages("off"), "/statusz", NOT_FOUND),
        (with_pages("off"), "/flagz", NOT_FOUND),
        (with_pages("off"), "/", NOT_FOUND),
        (with_pages("local"), "/statusz/", NOT_FOUND),
        (with_pages("local"), "/Statusz", NOT_FOUND),
        (with_pages("local"), "/favicon.ico", NOT_FOUND),
        # A metrics path keeps its meaning.
        (with_pages("local", "/statusz"), "/statusz", METRICS),
        (with_pages("local", "/statusz"), "/flagz", Handler.FLAGZ),
        (with_pages("local", "/"), "/", METRICS),
        (with_pages("local", "/"), "/flagz", METRICS),
        (with_pages("local", "/statusz/"), "/statusz", Handler.REDIRECT),
    ],
)
def test_paths_of_pages(routes: Routes, path: str, handler: Handler) -> None:
    assert routes.route("GET", path).handler is handler


@pytest.mark.parametrize(
    ("pages", "metrics_path", "hidden"),
    [
        ("local", "/metrics", ()),
        ("local", None, ()),
        ("local", "/statusz", ("/statusz",)),
        ("all", "/flagz", ("/flagz",)),
        ("local", "/", ("/flagz", "/statusz")),
        ("local", "/statusz/", ("/statusz",)),
        ("off", "/", ()),
    ],
)
def test_pages_that_the_metrics_path_hides(pages: str, metrics_path: str | None, hidden: tuple[str, ...]) -> None:
    assert with_pages(pages, metrics_path).hidden_pages() == hidden


@pytest.mark.parametrize(
    ("routes", "paths"),
    [
        (with_pages("local"), "/flagz /healthz /livez /metrics /readyz /startupz /statusz"),
        (with_pages("local", None), "/flagz /healthz /livez /readyz /startupz /statusz"),
        (with_pages("off", "/m/"), "/healthz /livez /m/ /readyz /startupz"),
        (with_pages("local", "/statusz"), "/flagz /healthz /livez /readyz /startupz /statusz"),
        (with_pages("local", healthz=False), "/flagz /metrics /statusz"),
    ],
)
def test_the_paths_that_are_served(routes: Routes, paths: str) -> None:
    assert " ".join(routes.paths()) == paths


LOCAL = (None, "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")
STRANGERS = (
    "",
    "10.0.0.1",
    "192.168.1.1",
    "169.254.0.1",
    "fe80::1%eth0",
    "fd00::1",
    "8.8.8.8",
    "::ffff:10.0.0.1",
    "nonsense",
)


@pytest.mark.parametrize(
    ("pages", "address", "admitted"),
    [
        *(("local", address, True) for address in LOCAL),
        *(("local", address, False) for address in STRANGERS),
        *(("all", address, True) for address in LOCAL + STRANGERS),
        *(("off", address, False) for address in LOCAL + STRANGERS),
    ],
)
def test_the_address_of_the_client_decides_who_sees_pages(pages: str, address: str | None, admitted: bool) -> None:
    assert with_pages(pages).admits(address, None) is admitted


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        (None, True),
        ("localhost", True),
        ("LocalHost:9808", True),
        ("127.0.0.1", True),
        ("127.0.0.1:9808", True),
        ("10.1.2.3:80", True),
        ("[::1]:9808", True),
        ("[::1]", True),
        ("[fe80::1%25eth0]:80", True),
        ("localhost:", True),
        ("", False),
        (":80", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example:9808", False),
        ("localhost.evil.example", False),
        ("localhost.", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("[localhost]", False),
        ("127.1", False),
        ("localhost:80:80", False),
        ("localhost:x", False),
        ("localhost,127.0.0.1", False),
    ],
)
@pytest.mark.parametrize("pages", ["local", "all"])
def test_a_host_name_of_the_web_sees_no_page(pages: str, host: str | None, admitted: bool) -> None:
    """A web site can make its name point to this machine (DNS rebinding), but not another name's request."""
    assert with_pages(pages).admits("127.0.0.1", host) is admitted
