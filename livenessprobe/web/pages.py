"""The Quart application: what is asked by Prometheus and not by kubelets."""

from __future__ import annotations

from quart import Quart, Response, request

from livenessprobe.metrics import Metrics


def create_app(metrics: Metrics) -> Quart:
    """Answers every request with the metrics; which requests those are is not decided here."""
    app = Quart(__name__)

    # One hook instead of a route: the path is a setting, and upstream serves any method.  On the event loop, as all that
    # changes metrics: in a thread it would read some of them before a change and some after it.
    @app.before_request
    async def expose() -> Response:
        exposition = metrics.expose(request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", ""))
        response = Response(exposition.body, 200, exposition.headers)
        del response.headers["Content-Length"]
        return response

    return app
