"""What else can the program do? `check`, `demo`, and an example driver."""
