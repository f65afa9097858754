"""The machine of test_machine.py: its drivers, its model, its walk and its rules."""
