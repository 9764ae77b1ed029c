#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Test of cfgtrace.py with traces made up here."""

import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.dont_write_bytecode = True      # no __pycache__ among the kernel's files
sys.path.insert(0, HERE)
import cfgtrace                     # noqa: E402

START = 1000        # of the window; the second kernel starts at KEXEC
KEXEC = 2000

# What a kernel reads of an endpoint and of a bridge before the window
ENDPOINT = """
    0 -> 10c98086, e -> 0, 4 -> 100107, 10 -> fe400000, 34 -> 40
    40 -> 5001, 44 -> 8, 50 -> 7005, 52 -> 180, 54 -> 0, 5c -> 0
    70 -> a011, 72 -> 9, a0 -> 20010, a8 -> 2810, aa -> 0, b0 -> 40
    100 -> 15010001, 104 -> 0, 108 -> 400000, 118 -> a0
    150 -> 1601000e, 156 -> 0, 160 -> 10010, 168 -> 10, 170 -> 0, 184 -> fea0000c
"""

BRIDGE = """
    0 -> c1b36, e -> 1, 4 -> 100507, 18 -> 40100, 1c -> d1c1, 20 -> fe50fe20, 24 -> feb1fe81
    30 -> ffff0000, 34 -> 54, 3c -> 2010b, 54 -> 10, 5c -> f, 64 -> 0, 6c -> 0, 70 -> 0
    100 -> 14810001, 12c -> 7, 130 -> 0, 148 -> 1d, 148 -> d, 14c -> 1f, 14e -> 1d
"""


def lines(text, time, bdf="03:00.0", name="igb"):
    """A trace of 'offset -> value' (a read), 'offset <- value' (a write), all in hex."""
    result = []
    for number, item in enumerate(text.replace("\n", ",").split(",")):
        if item.strip():
            offset, arrow, value = item.split()
            kind = "write" if arrow == "<-" else "read"
            result.append(f"4711@{time + number / 1000:.6f}:pci_cfg_{kind} {name} {bdf} "
                          f"@0x{offset} {arrow} 0x{value}\n")
    return result


def write_trace(*parts):
    file = tempfile.NamedTemporaryFile("w", suffix=".trace")
    file.writelines(line for part in parts for line in part)
    file.flush()
    return file


def read(*parts):
    with write_trace(*parts) as file:
        return cfgtrace.read(file.name)


def changes(window, before=ENDPOINT, bdf="0000:03:00.0", time=KEXEC):
    """What the checker says about these accesses in the window, without the function."""
    accesses = read(lines(before, START - 1), lines(window, time))
    found = cfgtrace.changes(accesses, [bdf], START, 3000, [KEXEC])
    return [str(change).partition(": ")[2] for change in found]


def bridge_changes(window):
    return changes(window, BRIDGE)


HARDWARE = ", reset or changed by hardware"

# What software sets, and so must not be taken for status: by header type or capability
SETTABLE = {
    ("header", 0): "Command, Cache Line Size, Latency Timer, Interrupt Line, ROM BAR, "
                   + ", ".join(f"BAR {i}" for i in range(6)),
    ("header", 1): "Command, BAR 0, BAR 1, Primary Bus, Secondary Bus, Subordinate Bus, "
                   "Secondary Latency Timer, I/O Base, I/O Limit, Memory Base, Memory Limit, "
                   "Prefetchable Memory Base, Prefetchable Memory Limit, ROM BAR, "
                   "Prefetchable Base Upper 32 Bits, Prefetchable Limit Upper 32 Bits, "
                   "I/O Base Upper 16 Bits, I/O Limit Upper 16 Bits, Bridge Control",
    ("standard", 0x01): "Control/Status",
    ("standard", 0x10): "Device Control, Link Control, Slot Control, Root Control, "
                        "Device Control 2, Link Control 2, Slot Control 2",
    ("standard", 0x11): "Message Control",
    ("standard", 0x13): "Control",
    ("extended", 0x01): "Uncorrectable Error Mask, Uncorrectable Error Severity, "
                        "Correctable Error Mask, Capabilities and Control, Root Error Command",
    ("extended", 0x02): "Port Control, Resource Control 0",
    ("extended", 0x0d): "Control, Egress Control Vector",
    ("extended", 0x0e): "Control",
    ("extended", 0x0f): "Control",
    ("extended", 0x10): "Control, NumVFs, System Page Size, "
                        + ", ".join(f"VF BAR {i}" for i in range(6)),
    ("extended", 0x13): "Control, Allocation",
    ("extended", 0x15): "Control 0, Control 5",
    ("extended", 0x17): "Control, Steering Tag 0",
    ("extended", 0x18): "Maximum Latencies",
    ("extended", 0x1b): "Control",
    ("extended", 0x1d): "Control, RP PIO Mask, RP PIO Severity",
    ("extended", 0x1e): "Control 1, Control 2",
    ("extended", 0x1f): "Control",
    ("extended", 0x24): "Control 0",
    ("extended", 0x29): "Control",
    ("extended", 0x2e): "Control, Write Mailbox",
    ("extended", 0x30): "Control",
}


class Settable(unittest.TestCase):
    def plant(self, kind, identity, offset):
        """A function with only this, in which bit 6 of a register at 0 is set."""
        text = f"0 -> 1234, e -> {identity if kind == 'header' else 0:x}, 34 -> 0"
        if kind == "standard":
            text = f"0 -> 1234, e -> 0, 34 -> 40, 40 -> {identity:x}"
            offset += 0x40
        elif kind == "extended":
            text += f", 100 -> {0x10000 + identity:x}"
            offset += 0x100
        before = f"{text}, " + ", ".join(f"{offset + i:x} -> 0" for i in range(4))
        return changes(f"{offset:x} <- 40", before)

    def test_every_one(self):
        for (kind, identity), names in SETTABLE.items():
            if kind == "header":
                prefix, table = "", cfgtrace.HEADERS[identity]
            else:
                table = cfgtrace.STANDARD if kind == "standard" else cfgtrace.EXTENDED
                prefix, table = table[identity]
                prefix += " "
            offsets = {register[2]: register[0] for register in table}
            for name in names.split(", "):
                with self.subTest(prefix + name):
                    found = self.plant(kind, identity, offsets[name])
                    self.assertEqual([change.split(" (")[0] for change in found], [prefix + name])


class Changes(unittest.TestCase):
    def test_planted(self):
        accesses = read(lines(ENDPOINT, START - 1), lines("a8 <- 2910", 1500),
                        lines("4 <- 103", 2500))
        first, second = cfgtrace.changes(accesses, ["0000:03:00.0"], START, 3000, [KEXEC])
        self.assertEqual(first, cfgtrace.Change(
            1500, 1, "0000:03:00.0", "igb", "PCIe Device Control", 0xa8, 0x2810, 0x2910, False))
        self.assertEqual(str(first), "kernel 1 0000:03:00.0 igb: "
                                     "PCIe Device Control (0xa8) 0x2810 -> 0x2910")
        self.assertEqual(str(second), "kernel 2 0000:03:00.0 igb: Command (0x4) 0x107 -> 0x103")

    def test_same_value(self):
        self.assertEqual(changes("4 <- 107, 10 <- fe400000, a8 <- 2810, 44 <- 8, 168 <- 10"), [])

    def test_there_and_back(self):
        self.assertEqual(changes("10 <- ffffffff, 10 -> fffe0000, 10 <- fe400000"),
                         ["BAR 0 (0x10) 0xfe400000 -> 0xffffffff",
                          "BAR 0 (0x10) 0xfffe0000 -> 0xfe400000"])

    def test_old_is_what_a_read_corrected(self):
        self.assertEqual(changes("a8 <- 2910, a8 -> 2810, a8 <- 2810"),
                         ["PCIe Device Control (0xa8) 0x2810 -> 0x2910"])

    def test_old_from_before_the_window(self):
        self.assertEqual(changes("4 <- 107", ENDPOINT + "4 <- 7"), ["Command (0x4) 0x7 -> 0x107"])

    def test_unknown_old(self):
        self.assertEqual(changes("c8 <- 0"), ["PCIe Device Control 2 (0xc8) ? -> 0x0"])

    def test_outside(self):
        accesses = read(lines(ENDPOINT, 1), lines(ENDPOINT, 2, "04:00.0"), lines("4 <- 0", 500),
                        lines("4 <- 0", 1500, "04:00.0"), lines("4 <- 7", 3500))
        self.assertEqual(cfgtrace.changes(accesses, ["0000:03:00.0"], START, 3000, [KEXEC]), [])
        self.assertEqual(
            len(cfgtrace.changes(accesses, ["0000:03:00.0", "0000:04:00.0"], 0, 4000, [KEXEC])), 3)

    def test_order(self):
        accesses = read(lines(ENDPOINT, 1), lines(ENDPOINT, 1, "04:00.0"), lines("4 <- 0", 1500),
                        lines("4 <- 0", 1400, "04:00.0"))
        found = cfgtrace.changes(accesses, ["0000:03:00.0", "0000:04:00.0"])
        self.assertEqual([change.time for change in found], [1400, 1500])

    def test_unknown_function(self):
        with self.assertRaisesRegex(ValueError, "0000:05:00.0 isn't in the trace"):
            changes("4 <- 0", bdf="0000:05:00.0")


class Status(unittest.TestCase):
    def test_cleared(self):
        self.assertEqual(changes("6 <- ffff, aa <- f, b2 <- c000, 104 <- 400000, 44 <- 8008"), [])
        self.assertEqual(bridge_changes("1e <- ffff, 130 <- 7f, 74 <- 10000, 6e <- 10a"), [])

    def test_control_beside_it(self):
        self.assertEqual(changes("44 <- 8108"), ["PM Control/Status (0x44) 0x8 -> 0x108"])
        self.assertEqual(bridge_changes("3e <- 402, 3e <- 442"),
                         ["Bridge Control (0x3e) 0x2 -> 0x42"])

    def test_hardware_sets_it(self):
        self.assertEqual(changes("6 -> 2010, aa -> 1, 104 -> 400000, 104 <- 400000, 104 -> 0"), [])


class Width(unittest.TestCase):
    def test_bus_numbers_together(self):
        self.assertEqual(bridge_changes("18 <- 40200"),
                         ["Secondary Bus (0x19) 0x1 -> 0x2"])
        self.assertEqual(bridge_changes("18 <- 0"), ["Secondary Bus (0x19) 0x1 -> 0x0",
                                                     "Subordinate Bus (0x1a) 0x4 -> 0x0"])

    def test_byte(self):
        self.assertEqual(bridge_changes("1a <- 9, 18 -> 90100"),
                         ["Subordinate Bus (0x1a) 0x4 -> 0x9"])
        self.assertEqual(bridge_changes("3c <- b, 3c -> 2010b"), [])

    def test_command_leaves_status(self):
        self.assertEqual(changes("4 <- 107, 4 -> 100107"), [])

    def test_wider_value(self):
        self.assertEqual(bridge_changes("3c <- 3010b"), ["Bridge Control (0x3e) 0x2 -> 0x3"])

    def test_upper_half(self):
        self.assertEqual(changes("5 <- 5, 12 <- 0"), ["Command (0x4) 0x107 -> 0x507",
                                                      "BAR 0 (0x10) 0xfe400000 -> 0x0"])

    def test_windows(self):
        self.assertEqual(bridge_changes("1c <- d0c0, 20 <- fe50fe20, 24 <- feb0fe80"), [])
        self.assertEqual(bridge_changes("1c <- f0, 30 <- ffff"), [
            "I/O Base (0x1c) 0xc0 -> 0xf0", "I/O Limit (0x1d) 0xd0 -> 0x0",
            "I/O Base Upper 16 Bits (0x30) 0x0 -> 0xffff",
            "I/O Limit Upper 16 Bits (0x32) 0xffff -> 0x0"])
        self.assertEqual(bridge_changes("20 <- fff0"), [
            "Memory Base (0x20) 0xfe20 -> 0xfff0", "Memory Limit (0x22) 0xfe50 -> 0x0"])

    def test_unknown_register(self):
        before = ENDPOINT + "ec -> 10, e8 -> 12345678, e8 -> 78"
        self.assertEqual(changes("ec <- 10, e8 <- 12345678, e8 -> 0", before), [])
        self.assertEqual(changes("ec <- 11, e8 <- 78", before), [
            "offset 0xec 0x10 -> 0x11", "offset 0xe8 0x12345678 -> 0x78"])

    def test_header_of_capability(self):
        self.assertEqual(changes("52 -> 180, 52 <- 180", ENDPOINT + "52 -> 180, 50 -> 7005"), [])

    def test_missed_upper_bytes_show_up(self):
        self.assertEqual(bridge_changes("3c <- 10b, 3e -> 0"),
                         ["Bridge Control (0x3e) 0x2 -> 0x0" + HARDWARE])

    def test_narrow_reads(self):
        self.assertEqual(bridge_changes("18 -> 0, 1c -> c1, 20 -> fe20, 0 -> 1b36"), [])


class Names(unittest.TestCase):
    def test_standard(self):
        self.assertEqual(changes("52 <- 181, 5c <- 4021, 72 <- 8009, b0 <- 42"), [
            "MSI Message Control (0x52) 0x180 -> 0x181", "MSI Message Data (0x5c) 0x0 -> 0x4021",
            "MSI-X Message Control (0x72) 0x9 -> 0x8009", "PCIe Link Control (0xb0) 0x40 -> 0x42"])

    def test_extended(self):
        self.assertEqual(changes("108 <- 0, 156 <- 1, 168 <- 11, 170 <- 8, 184 <- 0"), [
            "AER Uncorrectable Error Mask (0x108) 0x400000 -> 0x0",
            "ARI Control (0x156) 0x0 -> 0x1",
            "SR-IOV Control (0x168) 0x10 -> 0x11", "SR-IOV NumVFs (0x170) 0x0 -> 0x8",
            "SR-IOV VF BAR 0 (0x184) 0xfea0000c -> 0x0"])
        self.assertEqual(bridge_changes("12c <- 0"), ["AER Root Error Command (0x12c) 0x7 -> 0x0"])

    def test_list_read_in_bytes_and_later(self):
        before = "e -> 0, 48 -> 0, c8 -> 0"
        walk = "34 -> 40, 40 -> 1, 41 -> a0, a0 -> 10, a1 -> 0"
        self.assertEqual(changes(f"c8 <- 20, {walk}", before),
                         ["PCIe Device Control 2 (0xc8) 0x0 -> 0x20"])

    def test_list_isnt_known(self):
        self.assertEqual(changes("a8 <- 2910, 10 <- 1", "a8 -> 2810"),
                         ["offset 0xa8 0x2810 -> 0x2910", "offset 0x10 ? -> 0x1"])

    def test_list_goes_round(self):
        self.assertEqual(changes("44 <- 3", "34 -> 40, 40 -> 4001, 44 -> 0, 100 -> 10010001"),
                         ["PM Control/Status (0x44) 0x0 -> 0x3"])

    def test_capability_ends_at_the_next(self):
        self.assertEqual(changes("68 <- 1", "34 -> 40, 40 -> 6010, 60 -> 9, 68 -> 0"),
                         ["offset 0x68 0x0 -> 0x1"])

    def test_no_answer(self):
        self.assertEqual(changes("a8 <- 1", ENDPOINT + "34 -> ff, a0 -> ffffffff, 34 -> 40"),
                         ["PCIe Device Control (0xa8) 0x2810 -> 0x1"])

    def test_every_table(self):
        """All registers are distinct, aligned and as wide as an access can be."""
        tables = [cfgtrace.HEADERS[0], cfgtrace.HEADERS[1]]
        tables += [cfgtrace.msi(control) for control in (0, 0x80, 0x100, 0x180)]
        tables += [registers for _, registers in [*cfgtrace.STANDARD.values(),
                                                  *cfgtrace.EXTENDED.values()]
                   if registers is not cfgtrace.msi]
        for table in tables:
            covered = []
            for offset, size, *_ in table:
                self.assertIn(size, (1, 2, 4))
                self.assertEqual(offset % size, 0, f"{offset:#x}")
                covered += range(offset, offset + size)
            self.assertEqual(len(covered), len(set(covered)), table)


class Drift(unittest.TestCase):
    def test_reset(self):
        self.assertEqual(changes("a8 <- a810, 4 -> 100000, 10 -> 0, a8 -> 0"), [
            "PCIe Device Control (0xa8) 0x2810 -> 0xa810", "Command (0x4) 0x107 -> 0x0" + HARDWARE,
            "BAR 0 (0x10) 0xfe400000 -> 0x0" + HARDWARE,
            "PCIe Device Control (0xa8) 0xa810 -> 0x0" + HARDWARE])

    def test_gone(self):
        accesses = read(lines(ENDPOINT, 1), lines("0 -> ffffffff", 1500, name="empty"))
        vendor, device = cfgtrace.changes(accesses, ["0000:03:00.0"], START, 3000, [KEXEC])
        self.assertEqual(str(vendor), "kernel 1 0000:03:00.0 empty: Vendor ID (0x0) "
                                      "0x8086 -> 0xffff" + HARDWARE)
        self.assertTrue(device.drift)

    def test_writes_that_reach_nobody(self):
        accesses = read(lines(ENDPOINT, 1), lines("4 <- 0", 1500, name="empty"))
        self.assertEqual(cfgtrace.changes(accesses, ["0000:03:00.0"], START, 3000, [KEXEC]), [])

    def test_only_after_the_value_was_seen(self):
        self.assertEqual(changes("4 <- 507, 4 -> 507, 4 -> 107"), [
            "Command (0x4) 0x107 -> 0x507", "Command (0x4) 0x507 -> 0x107" + HARDWARE])

    def test_moving(self):
        self.assertEqual(changes("42 <- 4, 42 -> 8004, 44 -> 1, 44 -> 2, 44 <- 3",
                                 "34 -> 40, 40 -> 3, 42 -> 0, 44 -> 0"),
                         ["VPD Address (0x42) 0x0 -> 0x4", "VPD Data (0x44) 0x2 -> 0x3"])

    def test_once(self):
        self.assertEqual(len(changes("10 -> 0, 10 -> 0")), 1)

    def test_rewritten_value_is_lost(self):
        self.assertEqual(changes("4 <- 107, 4 -> 103"), ["Command (0x4) 0x107 -> 0x103" + HARDWARE])


class Reading(unittest.TestCase):
    def test_other_lines(self):
        accesses = read(["4711@1.5:pci_route_irq IRQ 1 @ x -> y\n", "qemu: warning\n"],
                        lines("4 -> 107", 1),
                        ["4711@2.000000:pci_cfg_write igb 03:00.0 @0x4 <- 0x1"])
        self.assertEqual(accesses, [
            cfgtrace.Access(1.0, "igb", "0000:03:00.0", 4, 0x107, False)])

    def test_dates(self):
        first, second = read([
            "1970-01-01T00:00:01.250000Z pci_cfg_read igb 03:00.0 @0x4 -> 0x1\n",
            "1970-01-01T00:01:00.000000Z pci_cfg_write igb 03:00.0 @0x4 <- 0x7\n"])
        self.assertEqual(first, cfgtrace.Access(1.25, "igb", "0000:03:00.0", 4, 1, False))
        self.assertEqual(second, cfgtrace.Access(60.0, "igb", "0000:03:00.0", 4, 7, True))

    def test_counts(self):
        accesses = read(lines("4 -> 1, 4 -> 1, 4 <- 1", 10), lines("0 -> 1", 20, "04:00.0"),
                        lines("0 -> ffffffff", 10, "05:00.0", "empty"))
        self.assertEqual(cfgtrace.counts(accesses, 5, 15),
                         {"0000:03:00.0": (2, 1), "0000:04:00.0": (0, 0)})


class CommandLine(unittest.TestCase):
    def run_on(self, trace, *args):
        with trace:
            done = subprocess.run([sys.executable, f"{HERE}/cfgtrace.py", trace.name, *args],
                                  capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def trace(self):
        return write_trace(lines(ENDPOINT, 10), lines(ENDPOINT, 11, "04:00.0"),
                           lines("4 <- 103", 20), lines("4 -> 103", 30))

    def test_change(self):
        status, text = self.run_on(self.trace(), "--function", "03:00.0", "--start", "15",
                                   "--end", "25", "--kexec", "18")
        self.assertEqual(status, 1)
        self.assertEqual(text, "0000:03:00.0 igb: 0 reads, 1 writes\n20.000000 kernel 2 "
                               "0000:03:00.0 igb: Command (0x4) 0x107 -> 0x103\n")

    def test_no_change(self):
        self.assertEqual(self.run_on(self.trace(), "--function", "0000:04:00.0")[0], 0)
        self.assertEqual(self.run_on(self.trace(), "--start", "25")[0], 0)

    def test_all_functions(self):
        status, text = self.run_on(self.trace())
        self.assertEqual(status, 1)
        self.assertIn("0000:04:00.0 igb", text)

    def test_refused(self):
        for args in (["--function", "05:00.0"], ["--function", "3:0"], ["--start", "99"]):
            self.assertEqual(self.run_on(self.trace(), *args)[0], 2, args)
        self.assertEqual(self.run_on(write_trace())[0], 2)
        self.assertEqual(subprocess.run([sys.executable, f"{HERE}/cfgtrace.py", "/nonexistent"],
                                        capture_output=True).returncode, 2)


if __name__ == "__main__":
    unittest.main()
