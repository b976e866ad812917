"""Chat templates: from messages to the text of a prompt."""

PIPE_BYTES = 1 << 16
"""What is read at once of the pipes to the process in which templates run."""
