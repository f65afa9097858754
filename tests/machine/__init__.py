"""The parts of test_machine.py: drivers, model, walk and rules."""
