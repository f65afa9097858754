"""What does the operating system need? Signals, threads, watchdog, CPU quota, environment, memory, imports, Windows."""
