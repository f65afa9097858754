"""When do we ask the driver, and what do we report?  One Probe in flight, thresholds, the schedule, the driver's name."""
