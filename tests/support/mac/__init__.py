"""A Mac made of recordings.

``bin`` holds executables named as the commands of macOS. They answer with the recordings of
``recorded`` and refuse what the manual page of the command does not allow.
"""
