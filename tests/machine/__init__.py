"""The machine of test_machine.py: its drivers, its model and its walk."""
