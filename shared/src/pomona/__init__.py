"""What every Pomona service imports: messages, codecs, transport, settings, model facts."""

from importlib.metadata import version

__version__ = version("pomona")
