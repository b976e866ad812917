"""HTTP: routes, middleware, and one thin adapter a dialect to
:class:`pomona_gateway.generation.completion.Completion`."""
