"""Messages between services: frozen dataclasses without behaviour, grouped by plane.

``control``: beacons (PUB/SUB). ``discovery``: the part of a beacon about machines and links.
``pipeline``: messages on the links between gateway and stages (PUSH/PULL). ``cache_ops``: cache
changes that a step carries. ``sampling``: sampling parameters of a request.
``limits``: every limit, which the field types refer to. ``codec``: encodes, decodes and checks.
"""
