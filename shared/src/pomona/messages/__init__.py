"""The messages of Pomona: frozen, without behaviour, grouped by plane.

``control`` holds what services say of themselves once a second (PUB/SUB).
``data`` holds what travels on the links between gateway and stages (PUSH/PULL).
The limits are part of the types; :mod:`pomona.codec` checks them.
"""
