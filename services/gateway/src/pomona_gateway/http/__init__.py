"""The HTTP side: dialects are thin adapters to :class:`pomona_gateway.completion.Completion`."""
