"""What can the program do besides serving? `check`, `demo`, and an example driver."""
