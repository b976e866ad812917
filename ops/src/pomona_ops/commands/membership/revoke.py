"""``pomona revoke``: ends the membership of a node."""

from __future__ import annotations

import orjson

from pomona.errors import ConfigurationError
from pomona.trust import roster
from pomona.trust.join_ledger import JoinLedger, LedgerFile
from pomona_ops.cluster.started import Target
from pomona_ops.commands.membership.node import head_trust, member_named


def revoke(target: Target, name: str, as_json: bool) -> int:
    """Removes a member from the roster; services notice within a second. Returns 0.

    Raises ConfigurationError for an unknown name, and for this machine itself.
    """
    trust = head_trust(target, f"pomona revoke {name}")
    member = member_named(trust, name)
    if member.id == trust.keys.id:
        raise ConfigurationError(
            f"{member.name} is this machine, which has the cluster's key: export it, import it on "
            "another member with `pomona cluster import`, and revoke this one there"
        )
    after = trust.change(lambda x: roster.without_member(x, member.id))

    def forget(before: JoinLedger) -> tuple[JoinLedger, None]:
        return before.remove(member.key), None

    LedgerFile(target.state_dir).change(forget)
    if as_json:
        content = {"revoked": member.name, "id": member.id, "version": after.version}
        print(orjson.dumps(content).decode())
    else:
        print(
            f"{member.name} is no longer a member (roster version {after.version}). Its machine "
            "keeps the weights and prompts that it had; what it is sent ends now"
        )
    return 0
