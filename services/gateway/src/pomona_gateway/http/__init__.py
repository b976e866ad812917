"""The HTTP API: routes, middleware, and one package for each dialect.

A dialect translates its requests to :class:`pomona_gateway.generation.completion.Completion`
and writes the generated tokens in its own response format.
"""
