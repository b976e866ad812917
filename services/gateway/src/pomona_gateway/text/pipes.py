"""From messages to a prompt's ids, by the model's own rules: in a process of its own."""

PIPE_BYTES = 1 << 16
"""What is read at once of the pipes to that process."""
