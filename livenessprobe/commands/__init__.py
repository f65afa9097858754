"""What else can the program do? `check`, `demo`, and the example driver."""
