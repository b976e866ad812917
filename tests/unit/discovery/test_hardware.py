"""Hardware facts, from recorded output of the operating systems."""

from __future__ import annotations

import pytest

from pomona_discovery.hardware import (
    UNKNOWN,
    Read,
    Run,
    detect_hardware,
    linux_hardware,
    linux_usable_memory,
    mac_hardware,
    mac_working_set,
)

GIB = 1 << 30

M4_PRO = """\
machdep.cpu.brand_string: Apple M4 Pro
hw.logicalcpu: 14
hw.memsize: 68719476736
iogpu.wired_limit_mb: 0
"""
RAISED_LIMIT = M4_PRO.replace("wired_limit_mb: 0", "wired_limit_mb: 57344")
# sysctl reports an unknown name on standard error and prints the others.
BEFORE_IOGPU = """\
machdep.cpu.brand_string: Apple M1
hw.logicalcpu: 8
hw.memsize: 8589934592
"""

CPUINFO_X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) CPU @ 2.20GHz
flags\t\t: fpu vme de

processor\t: 1
model name\t: Intel(R) Xeon(R) CPU @ 2.20GHz
"""
CPUINFO_PI = """\
processor\t: 0
BogoMIPS\t: 108.00
CPU implementer\t: 0x41

Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
MEMINFO = "MemTotal:       16315292 kB\nMemFree:         1052428 kB\n"
RELEASE = 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\n'


def mac(sysctl: str, version: str = "26.2\n") -> Run:
    return lambda command: sysctl if command[0].endswith("sysctl") else version


def files(**contents: str) -> Read:
    paths = {
        "cpuinfo": "/proc/cpuinfo",
        "meminfo": "/proc/meminfo",
        "release": "/etc/os-release",
        "limit": "/sys/fs/cgroup/memory.max",
    }
    found = {paths[name]: content for name, content in contents.items()}

    def read(path: str) -> str:
        if path not in found:
            raise FileNotFoundError(path)
        return found[path]

    return read


def test_the_hardware_of_a_mac_is_read() -> None:
    found = mac_hardware(mac(M4_PRO))
    assert (found.chip, found.cores) == ("Apple M4 Pro", 14)
    assert (found.os_name, found.os_version) == ("macOS", "26.2")
    assert found.memory_bytes == 64 * GIB
    assert found.usable_memory_bytes == 48 * GIB


def test_the_wired_limit_of_an_administrator_takes_precedence() -> None:
    assert mac_hardware(mac(RAISED_LIMIT)).usable_memory_bytes == 56 * GIB


def test_the_working_set_of_a_mac_without_a_wired_limit_is_estimated() -> None:
    found = mac_hardware(mac(BEFORE_IOGPU, "13.6.9\n"))
    assert found.chip == "Apple M1"
    assert found.usable_memory_bytes == 8 * GIB * 2 // 3


@pytest.mark.parametrize(
    ("memory_gib", "limit_mb", "usable"),
    [
        (16, 0, 16 * GIB * 2 // 3),
        (36, 0, 24 * GIB),
        (48, 0, 36 * GIB),
        (512, 0, 384 * GIB),
        (16, 14336, 14 * GIB),
        (16, 65536, 16 * GIB),
        (0, 0, 0),
    ],
)
def test_the_working_set_is_two_thirds_or_three_quarters_of_memory(
    memory_gib: int, limit_mb: int, usable: int
) -> None:
    assert mac_working_set(memory_gib * GIB, limit_mb) == usable


@pytest.mark.parametrize("output", ["", "garbage", "hw.memsize: many\nhw.logicalcpu:\n"])
def test_values_missing_from_the_output_are_unknown(output: str) -> None:
    found = mac_hardware(mac(output))
    assert (found.chip, found.cores) == (UNKNOWN, 0)
    assert (found.memory_bytes, found.usable_memory_bytes) == (0, 0)
    assert found.os_version == "26.2"


def test_values_are_unknown_when_commands_fail() -> None:
    def run(command: list[str]) -> str:
        raise TimeoutError(f"{command} took too long")

    found = mac_hardware(run)
    assert (found.chip, found.cores, found.os_version) == (UNKNOWN, 0, UNKNOWN)


def test_the_hardware_of_a_linux_machine_is_read() -> None:
    found = linux_hardware(files(cpuinfo=CPUINFO_X86, meminfo=MEMINFO, release=RELEASE))
    assert found.chip == "Intel(R) Xeon(R) CPU @ 2.20GHz"
    assert found.cores >= 1
    assert (found.os_name, found.os_version) == ("Linux", "Ubuntu 24.04.3 LTS")
    assert found.memory_bytes == 16315292 * 1024
    assert found.usable_memory_bytes == linux_usable_memory(found.memory_bytes)


def test_the_board_model_replaces_a_missing_cpu_model() -> None:
    found = linux_hardware(files(cpuinfo=CPUINFO_PI, meminfo=MEMINFO))
    assert found.chip == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.os_version == UNKNOWN


@pytest.mark.parametrize(
    ("limit", "bound"), [(f"{4 * GIB}\n", 4 * GIB), ("max\n", 16315292 * 1024)]
)
def test_a_cgroup_limit_bounds_usable_memory(limit: str, bound: int) -> None:
    found = linux_hardware(files(cpuinfo=CPUINFO_X86, meminfo=MEMINFO, limit=limit))
    assert found.memory_bytes == 16315292 * 1024
    assert found.usable_memory_bytes == linux_usable_memory(bound)


def test_linux_without_procfs_falls_back_to_psutil() -> None:
    found = linux_hardware(files(meminfo="nothing of use"))
    assert found.chip
    assert found.memory_bytes > 0, "psutil knows"


@pytest.mark.parametrize(
    ("memory", "usable"), [(0, 0), (GIB // 2, 0), (4 * GIB, 3 * GIB), (64 * GIB, 56 * GIB)]
)
def test_linux_reserves_memory_for_the_system(memory: int, usable: int) -> None:
    assert linux_usable_memory(memory) == usable


def test_the_hardware_of_this_machine_is_known() -> None:
    found = detect_hardware()
    assert found.cores > 0
    assert 0 < found.usable_memory_bytes < found.memory_bytes
    assert found.os_name in {"Linux", "macOS"}
