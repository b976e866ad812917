"""Four machines join by invitation, split a model, answer, and keep strangers out.

Each is a network namespace on one bridge with a home folder of its own. Every packet on the bridge
is recorded.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from support.clusters import ANSWER, QUESTION
from support.machines import PORT, PRIVATE, PROBE_PORT, SWITCH, Machine, machines
from support.models.folders import tensors_of, write_folder
from support.models.little_qwen import CONFIG, random_model
from support.models.tiny_model import TEMPLATE, tiny_backend
from support.namespaces import Network
from support.packet_capture import captured
from support.strangers import FLOOD, FORGE, LISTEN, REPLAY
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("anna", "ben", "carl", "dora")
STRANGER = "eve"
STORY = "Tell me a long story about Marisol, who kept the lighthouse of Quillbrook."
STORY_TOKENS = 48
CHAT = """
import json, sys, urllib.request
body = json.dumps({"model": sys.argv[1], "temperature": 0, "max_tokens": int(sys.argv[3]),
                   "messages": [{"role": "user", "content": sys.argv[2]}], "stream": True})
request = urllib.request.Request("http://127.0.0.1:52415/v1/chat/completions", body.encode(),
                                 {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=300) as answer:
    for line in answer:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                sys.exit(str(event["error"]))
            for choice in event["choices"]:
                sys.stdout.write(choice["delta"].get("content") or "")
                sys.stdout.flush()
"""
"""Prints a streamed answer as it comes."""

MODEL = "SmolLM2-135M-Instruct"


@dataclass
class Joined:
    """Four joined machines, one stranger, and the packets of their bridge."""

    net: Network
    members: list[Machine]
    stranger: Machine
    packets: Path
    text: str = ""

    @property
    def head(self) -> Machine:
        return self.members[0]

    def tell(self, model: str, prompt: str, tokens: int) -> str:
        return self.head.python(CHAT, model, prompt, str(tokens))

    def start_telling(self, prompt: str, tokens: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.head.inside(sys.executable, "-c", CHAT, MODEL, prompt, str(tokens)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Generator[Joined]:
    folder = tmp_path_factory.mktemp("machines")
    with machines("j", folder, *NAMES, STRANGER) as (net, made):
        members, stranger = made[: len(NAMES)], made[-1]
        packets = folder / "packets"
        with captured(net.space(SWITCH), packets, PROBE_PORT):
            head = members[0]
            head.up()
            wait_until(lambda: head.holders() == ["anna", "anna"], "the head serves alone", 120)
            for member in members[1:]:
                done = head.run("invite", "--json")
                assert done.returncode == 0, done.stderr
                invitation = json.loads(done.stdout)
                assert len(invitation["commands"]) <= 3, "install, join, start"
                _, join, up = invitation["commands"]
                line = re.fullmatch(r"\S*pomona join (pom1-[a-z2-7]+)", join)
                assert line
                assert up.endswith("pomona up")
                done = member.run("join", line[1])
                assert done.returncode == 0, done.stderr
                member.up()
            head.wait_held_by(*NAMES)
            yield Joined(net, members, stranger, packets)


def test_a_model_is_split_over_four_machines_and_answers(joined: Joined) -> None:
    assert joined.tell(MODEL, QUESTION, 32) == ANSWER
    joined.text = joined.tell(MODEL, STORY, STORY_TOKENS)
    assert len(joined.text.split()) > 20
    last = joined.members[-1]
    assert last.holders() == sorted(NAMES), "every machine sees the whole cluster"
    listed = json.loads(last.run("nodes", "--json").stdout)
    assert {x["name"] for x in listed["members"] if x["online"]} == set(NAMES)
    chat = last.run("chat", "hello")
    assert chat.returncode == 78, chat.stderr
    assert "anna" in chat.stderr, "it names the machine with the API"


def test_a_stranger_changes_nothing(joined: Joined) -> None:
    """It reads, forges plans and workers, replays its recordings, and floods handshakes."""
    ports = _open_ports(joined.head)
    targets = json.dumps([[x.address, port] for x in joined.members for port in ports])
    epoch = joined.head.status()["pipelines"][0]["epoch"]
    text = joined.text or joined.tell(MODEL, STORY, STORY_TOKENS)
    telling = joined.start_telling(STORY, STORY_TOKENS)
    heard = joined.stranger.python(LISTEN, targets)
    assert heard == "", "nothing is readable"
    for script in (FORGE, FLOOD):
        joined.stranger.python(script, targets)
    joined.stranger.python(REPLAY, targets, str(joined.packets))
    output, errors = telling.communicate(timeout=240)
    assert output.decode() == text, errors.decode()
    status = joined.head.status()
    assert status["pipelines"][0]["epoch"] == epoch, "nobody else plans"
    assert {node["name"] for node in status["nodes"]} == set(NAMES)
    assert joined.head.holders() == sorted(NAMES)


def test_packets_show_no_prompt_token_weight_or_key(joined: Joined) -> None:
    head = joined.head
    write_model(head.private / "little")
    done = head.run("models", "load", f"{PRIVATE}/little")
    assert done.returncode == 0, done.stderr
    wait_until(
        lambda: (
            {
                x["node"]
                for p in head.status()["pipelines"]
                for x in p["stages"]
                if p["model"] == "little" and p["state"] == "active"
            }
            == set(NAMES)
        ),
        "the other machines have fetched their layers from the head",
        60,
    )
    with joined.packets.open("rb") as file:
        recorded = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = found_in(recorded, secrets_of(joined))
        assert recorded.find(b"CURVE") >= 0, (
            "the capture works: ZeroMQ's greeting names the mechanism"
        )
    assert not found


def secrets_of(joined: Joined) -> dict[str, bytes]:
    """Returns what no stranger may read, by its name."""
    secrets = {
        "the prompt": STORY[20:52].encode(),
        "the answer": joined.text.encode()[:40],
        "tokens of the prompt": tokens_of(STORY),
    }
    for machine in joined.members:
        keys = json.loads((machine.state / "trust" / "node.json").read_bytes())
        secrets[f"{machine.name}'s key"] = keys["secret"].encode()
        secrets[f"{machine.name}'s key, raw"] = bytes.fromhex(keys["secret"])
    for name, tensor in tensors_of(random_model()).items():
        secrets[f"weights {name}"] = np.array(tensor.astype(mx.float32)).tobytes()[64:128]
    return secrets


def found_in(recorded: mmap.mmap, secrets: dict[str, bytes]) -> list[str]:
    return [name for name, content in secrets.items() if content and recorded.find(content) >= 0]


def test_a_running_answer_goes_on_without_a_revoked_machine(joined: Joined) -> None:
    text = joined.text or joined.tell(MODEL, STORY, STORY_TOKENS)
    telling = joined.start_telling(STORY, STORY_TOKENS)
    assert telling.stdout is not None
    begin = telling.stdout.read(20)
    done = joined.head.run("revoke", "dora")
    assert done.returncode == 0, done.stderr
    output, errors = telling.communicate(timeout=240)
    assert (begin + output).decode() == text, errors.decode()
    joined.head.wait_held_by(*NAMES[:3])
    wait_until(
        lambda: {x["name"] for x in joined.head.status()["nodes"]} == set(NAMES[:3]),
        "the revoked machine is out of sight",
        30,
    )


def write_model(folder: Path) -> None:
    """Writes a small random model, which the other machines must fetch from the head."""
    write_folder(folder, tensors_of(random_model()), CONFIG, files=2)
    tiny_backend().save(str(folder / "tokenizer.json"))
    tokenizer = {"eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def tokens_of(text: str) -> bytes:
    """Returns the token ids of a text as they would be on the wire."""
    from pomona.models import resolve
    from pomona_gateway.text.tokenizer import read_tokenizer

    ids = read_tokenizer(resolve(MODEL)).encode(text, chat=False)
    return struct.pack(f"<{len(ids)}i", *ids)[8:40]


def _open_ports(machine: Machine) -> list[int]:
    """Returns the TCP ports on which a machine listens to others."""
    listed = machine.python(
        "import psutil\n"
        "print(*{x.laddr.port for x in psutil.net_connections('tcp4')"
        " if x.status == 'LISTEN' and not x.laddr.ip.startswith('127.')})"
    )
    ports = sorted(map(int, listed.split()))
    assert ports
    assert PORT not in ports, "the API is on the head only"
    return ports


def test_a_machine_nearby_takes_the_place_after_its_digits_are_compared(joined: Joined) -> None:
    """It finds the head by multicast."""
    eve, head = joined.stranger, joined.head
    joining = eve.start("join", "--yes", "--wait", "120")
    try:

        def asking() -> list[str]:
            listed = json.loads(head.run("nodes", "--json").stdout)
            return [x["digits"] for x in listed["waiting"] if x["digits"]]

        wait_until(asking, "the machine asks")
        (number,) = asking()
        done = head.run("approve", STRANGER, "--digits", number)
        assert done.returncode == 0, done.stderr
        output, _ = joining.communicate(timeout=60)
        assert joining.returncode == 0, output
        assert f"{number[:3]} {number[3:]}" in output
    finally:
        joining.kill()
        joining.wait(60)
    eve.up()
    head.wait_held_by(*NAMES[:3], STRANGER)


def test_keys_are_replaced_while_an_answer_runs(joined: Joined) -> None:
    text = joined.text or joined.tell(MODEL, STORY, STORY_TOKENS)
    telling = joined.start_telling(STORY, STORY_TOKENS)
    assert telling.stdout is not None
    begin = telling.stdout.read(20)
    for machine, options in ((joined.head, ["--cluster"]), (joined.members[1], [])):
        done = machine.run("keys", "rotate", *options)
        assert done.returncode == 0, done.stderr
    output, errors = telling.communicate(timeout=240)
    assert (begin + output).decode() == text, errors.decode()
    joined.head.wait_held_by(*NAMES[:3], STRANGER)
