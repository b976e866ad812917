"""Library that every Pomona service imports: messages, codec, transport, settings, model facts."""

from importlib.metadata import version

__version__ = version("pomona")
