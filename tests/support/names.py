"""Flags, metrics and requests that many tests name."""

SOON = 15.0
"""Seconds; far longer than a reload takes, for busy machines."""

# Metrics of the settings file.
TIMEOUT = "livenessprobe_probe_timeout_seconds"
GOOD = "livenessprobe_config_last_reload_successful"
SINCE = "livenessprobe_config_last_reload_success_timestamp_seconds"
HASH = "livenessprobe_config_hash"

# Flags.
FRESH = "--connection-reuse=0s"
"""Each probe dials."""
AT_ONCE = "--unreachable-grace=0s"
NEVER = "--interval=1000h"
"""Probes on a schedule, but within a test only the first probe."""

# Requests.
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
"""A request without the empty line at its end."""
METRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
