"""Guesses tokens in advance, on the head: sources of guesses, and how many to send. Pure."""
