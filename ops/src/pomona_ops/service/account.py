"""The account that runs the services: without a password, a shell and a home."""

from __future__ import annotations

import os
from typing import Final

from pomona_ops.commands.service import System
from pomona_ops.service.manager import ServiceError, check, run

FIRST_ID: Final = 300
LAST_ID: Final = 400
"""Range of ids in which macOS has room for accounts of services."""


def ids_of(user: str) -> tuple[int, int] | None:
    """Returns the user and group id of an account; None when there is none."""
    user_id, group_id = run("id", "-u", user), run("id", "-g", user)
    if user_id.returncode or group_id.returncode:
        return None
    return int(user_id.stdout), int(group_id.stdout)


def make_account(user: str, system: System) -> None:
    """Creates an account. Raises ServiceError."""
    if system == "systemd":
        check(
            "useradd", "--system", "--user-group", "--no-create-home",
            "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", user,
        )  # fmt: skip
        return
    number = _free_id()
    for name, value in (("PrimaryGroupID", number), ("RealName", "Pomona")):
        check("dscl", ".", "-create", f"/Groups/{user}", name, value)
    for name, value in (
        ("UniqueID", number), ("PrimaryGroupID", number), ("RealName", "Pomona"),
        ("UserShell", "/usr/bin/false"), ("NFSHomeDirectory", "/var/empty"), ("IsHidden", "1"),
    ):  # fmt: skip
        check("dscl", ".", "-create", f"/Users/{user}", name, value)


def remove_account(user: str, system: System) -> None:
    """Deletes an account that :func:`make_account` made. Raises ServiceError."""
    if ids_of(user) is None:
        return
    if system == "systemd":
        check("userdel", user)
    else:
        check("dscl", ".", "-delete", f"/Users/{user}")
        check("dscl", ".", "-delete", f"/Groups/{user}")


def owns_all(user: str) -> bool:
    """Returns whether this process runs as the account, so that no owner needs to change."""
    found = ids_of(user)
    return found is not None and found[0] == os.geteuid()


def _free_id() -> str:
    listed = check("dscl", ".", "-list", "/Users", "UniqueID")
    listed += check("dscl", ".", "-list", "/Groups", "PrimaryGroupID")
    taken = {line.split()[-1] for line in listed.splitlines() if line.split()}
    free = next((str(x) for x in range(FIRST_ID, LAST_ID) if str(x) not in taken), None)
    if free is None:
        raise ServiceError(
            f"all ids from {FIRST_ID} to {LAST_ID - 1} are taken; create the account by hand, "
            "and name it with --user"
        )
    return free
