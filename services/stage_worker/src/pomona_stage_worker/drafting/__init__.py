"""A small model on the head that guesses tokens for the large one."""
