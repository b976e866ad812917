"""Membership of the cluster: keys of nodes, the signed roster of members, and their files.

:class:`Trust` is what services hold: the keys of this node and the current roster.
"""

from pomona.trust.node_keys import NodeKeys, node_id
from pomona.trust.roster import Member, Role, Roster
from pomona.trust.trust import Trust

__all__ = ["Member", "NodeKeys", "Role", "Roster", "Trust", "node_id"]
