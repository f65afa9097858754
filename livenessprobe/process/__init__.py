"""What does the operating system need? Signals, the watchdog, CPU quotas, the termination log, imports, the environment, Windows."""
