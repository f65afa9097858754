"""What does the operating system need? Signals, watchdog, CPU quota, termination log, memory, imports, Windows."""
