"""The messages of Pomona: frozen, without behaviour, grouped by plane.

``control`` holds what services say of themselves once a second (PUB/SUB); what discovery
services say of machines and links is in ``discovery``.
``pipeline`` holds what travels on the links between gateway and stages (PUSH/PULL), ``cache_ops``
what a step of it changes in the stages' caches, ``sampling`` how a request wants its tokens drawn.
The limits are part of the types, shared ones in ``limits``; ``codec`` checks them.
"""
