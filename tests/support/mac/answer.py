#!/usr/bin/env python3
"""Answers as a command of macOS, which the name of the link tells.

``MAC_ANSWERS`` is a JSON object: by command the text to print, or by command and arguments, as in
``"sysctl -n hw.model"``. A command without an answer is missing on this Mac: exit status 127. A
call that the command's manual page does not allow ends with status 64 and a message.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

ALLOWED = {
    "system_profiler": r"(-json |-xml )?(-detailLevel (mini|basic|full) )?(-timeout \d+ )?"
    r"(SP\w+DataType ?)+( -json| -xml)?|-listDataTypes",
    "sysctl": r"(-[aneq]+ )?([a-z0-9_]+(\.\w+)+ ?)+",
    "sw_vers": r"|--?(productName|productVersion|productVersionExtra|buildVersion)",
    "scutil": r"--get (LocalHostName|ComputerName|HostName)|--dns|--proxy|--nwi",
    "ifconfig": r"(-[alvu]+ ?)*|[a-z]+\d+",
    "networksetup": r"-listallhardwareports|-listallnetworkservices|-listnetworkserviceorder|"
    r"-getinfo .+|-setnetworkserviceenabled .+ (on|off)",
    "pmset": r"-g( (live|custom|cap|sched|ups|ps|pslog|rawlog|therm|thermlog|assertions|"
    r"assertionslog|sysload|sysloadlog|ac|log|uuid|uuidlog|history|historydetailed|batt|adapter|"
    r"systemstate))?",
    "rdma_ctl": r"status|enable|disable",
    "ibv_devices": r"",
    "launchctl": r"(print|list|bootstrap|bootout|kickstart|enable|disable|blame) ?.*",
    "caffeinate": r"(-[disumt]+ |-t \d+ )*(-w \d+)?",
    "macmon": r"pipe( -s \d+| --samples \d+| -i \d+| --interval \d+| --soc-info)*",
    "dscl": r"(-q )?(\.|/Local/Default) -(read|list|search|readall) .+",
    "defaults": r"(-currentHost )?read( \S+){0,2}|(-currentHost )?read-type \S+ \S+|domains",
    "fdesetup": r"status|isactive|list|supportsauthrestart",
    "socketfilterfw": r"--get(globalstate|blockall|allowsigned|stealthmode)|--listapps",
}
"""Pattern of the arguments that the manual page allows, by command."""

USAGE = 64


def main() -> int:
    command, arguments = Path(sys.argv[0]).name, " ".join(sys.argv[1:])
    if not re.fullmatch(ALLOWED[command], arguments):
        print(f"{command}: its manual page does not allow `{arguments}`", file=sys.stderr)
        return USAGE
    if log := os.environ.get("MAC_CALLS"):
        with Path(log).open("a") as calls:
            calls.write(f"{command} {arguments}".strip() + "\n")
    if command == "caffeinate":
        return _wait_for(arguments)
    answers: dict[str, str] = json.loads(os.environ.get("MAC_ANSWERS", "{}"))
    if command == "sysctl":
        return _sysctl(answers, arguments)
    text = answers.get(f"{command} {arguments}".strip(), answers.get(command))
    if text is None:
        print(f"{command}: not found", file=sys.stderr)
        return 127
    print(text, end="")
    return 0


def _sysctl(answers: dict[str, str], arguments: str) -> int:
    """Prints each name that this Mac has; an unknown one is an error beside the others."""
    known = dict(line.split(": ", 1) for line in answers.get("sysctl", "").splitlines())
    status = 0
    for name in arguments.split():
        if name.startswith("-"):
            continue
        if name not in known:
            print(f"sysctl: unknown oid '{name}'", file=sys.stderr)
            status = 1
        else:
            print(known[name] if "-n" in arguments.split() else f"{name}: {known[name]}")
    return status


def _wait_for(arguments: str) -> int:
    """Waits until the process after ``-w`` has ended, as caffeinate does."""
    match = re.search(r"-w (\d+)", arguments)
    while match is not None:
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            return 0
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
