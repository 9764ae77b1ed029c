# SPDX-License-Identifier: GPL-2.0
"""All scenarios: a machine, what runs in it, and what must hold afterwards."""

from dataclasses import dataclass, field

import checks
import handover
import vmtest
import vtd
from handover import HOLE, NOWHERE
from vmtest import E1000E, IGB0, IGB1, ROOT_PORT, SWITCH

# For several kernels in one initramfs, as KHO's scratch is as large, or for a gigabyte of DMA
LARGE = 2 * vmtest.RAM

# The debug kernel takes several times as long to boot: it is for what handles memory or takes
# locks in ways of its own, unless it shows bugs of others there
DEMO, DEBUG = ("demo",), ("debug",)


X2APIC = "qemu64,+x2apic"


@dataclass
class Scenario:
    name: str
    devices: list                   # QEMU's; {rom} is a file with an option ROM
    preserve: int = 1               # so many of the first devices in the guest
    program: str = "vmm"            # that is run there, and its options
    options: str = ""
    append: str = ""                # to the first kernel's command line
    next_append: str = ""           # and to the next one's
    iommu: bool = False
    unit: str = ""                  # more options of this one
    pauses: bool = False            # DMA does: its tables aren't kept
    updates: int = 1
    on: tuple = DEBUG               # kernels: what CONFIG they have
    # What of all that each change must pass only this one shows, on the demo's kernel
    core: str = ""
    following: str | None = None    # CONFIG of the kernels after the first
    ram: int = vmtest.RAM
    limit: int = 60                 # seconds to the end, on the demo kernel
    interval: float = 0.02          # between packets; rare enough for wire and ring
    qemu: tuple = ()                # more options
    answers: dict = field(default_factory=dict)     # see VM
    # (kernel, pattern): so many lines of its log match; None: any number
    lines: dict = field(default_factory=dict)
    # Devices and bridges that are adopted, and records that nothing was found for
    adopted: tuple | None = None
    checks: list = field(default_factory=lambda: checks.PLAIN)
    changes: tuple = ()             # in config space that there must be, in cfgtrace's words
    lost: tuple = ()                # preserved functions that the second kernel can't use
    selftests: bool = False         # the kernel's own are there, too
    # Have kmemleak look for lost memory, which doubles the time: not where memory goes the
    # same ways as in another scenario
    leaks: bool = True
    problems: tuple = ()            # patterns of what must be found wrong: a test of the checks
    # Another machine to compare with: what is different there
    twin: dict | None = None
    allowed: tuple = ()             # patterns of changes that there may be
    # Of edu devices: functions that must not be disturbed, how many come back as they were, and
    # which are stopped, and why
    table: dict | None = None       # references by BDF at the kexec; vmm.c's are known
    watched: tuple = ()
    intact: int = 0
    stopped: dict = field(default_factory=dict)

    def kernels(self):
        """The core runs there, too."""
        return dict.fromkeys(DEMO * bool(self.core) + self.on)

    def command_line(self):
        return " ".join([f'vmm={self.program} preserve={self.preserve} updates={self.updates}',
                         f'options="{self.options}" next_options="{self.next_append}"'] +
                        [vmtest.IOMMU] * self.iommu +
                        ["leaks=1" if self.leaks else "kmemleak=off", self.append])

    def all_devices(self, rom):
        """An IOMMU comes before the devices behind it."""
        return [f"intel-iommu{self.unit}"] * ("intel_iommu" in self.command_line()) + \
            [device.format(rom=rom) for device in self.devices]

    def all_lines(self):
        lines = dict(self.lines)
        for kernel in range(1, self.updates + 2):
            if not self.leaks:
                lines[kernel, "kmemleak: Kernel memory leak detector disabled"] = None
            if self.adopted and kernel > 1:
                lines[kernel, "liveupdate: adopted {} devices and {} bridges, {} missing"
                      .format(*self.adopted)] = 1
            if "intremap=on" in self.unit:
                mode = "x2apic" if X2APIC in self.qemu else "xapic"
                lines[kernel, f"DMAR-IR: Enabled IRQ remapping in {mode} mode"] = 1
        return lines


# ---- devices ----

DOWN = "xio3130-downstream,id=down{0},bus=up,addr={0:x}.0,chassis={1}"
EMPTY_SLOT = SWITCH[:5]     # nothing is in the last port
BRIDGE = "pci-bridge,id=bridge,bus=pcie.0,addr=2.0,chassis_nr=1"


VIRTIO = "virtio-net-pci,netdev=wire0,romfile=,rx_queue_size=1024"
# With as many blocks a second, commands are in flight for seconds
SLOW_DISK = ("-drive", "if=none,id=disk,file={disk},format=raw,read-only=on,"
             "throttling.iops-total=25")


def switch(*devices):
    """One below each downstream port."""
    yield from SWITCH[:2]
    for number, device in enumerate(devices):
        yield DOWN.format(number, number + 2)
        yield f"{device},bus=down{number}"


def nested_switches(depth, device):
    above = "root"
    yield f"{ROOT_PORT},bus=pcie.0"
    for level in range(depth):
        yield f"x3130-upstream,id=up{level},bus={above}"
        above = f"down{level}"
        yield f"xio3130-downstream,id={above},bus=up{level},addr=0.0,chassis={level + 2}"
    yield f"{device},bus={above}"


def igbs(count):
    """One below each root port. The last one can be told to go."""
    for number in range(count):
        yield f"pcie-root-port,id=root{number},bus=pcie.0,addr={number + 4:x}.0,chassis={number}"
        yield f"igb,bus=root{number},romfile=" + ",id=last" * (number == count - 1)


def nvmes(ports, functions, options=""):
    """Multi-function devices below root ports; options: of these"""
    for port in range(ports):
        yield (f"pcie-root-port,id=port{port},bus=pcie.0,chassis={port + 1},"
               f"addr={2 + port // 8}.{port % 8},multifunction=on{options}")
        for function in range(functions):
            yield (f"nvme,serial={port}-{function},bus=port{port},addr=0.{function},"
                   "multifunction=on")


# ---- topologies: devices, how many to preserve, devices and bridges that are adopted, core ----

TOPOLOGIES = {
    "root_bus": ([f"{IGB0},bus=pcie.0,addr=2.0", f"{E1000E},bus=pcie.0,addr=3.0,romfile={{rom}}",
                  "qemu-xhci,bus=pcie.0,addr=4.0"], 3, (3, 0, 0),
                 "fixups, Interrupt Disable, expansion ROMs"),
    "root_port": ([f"{ROOT_PORT},bus=pcie.0", f"{IGB0},bus=root"], 1, (1, 1, 0), ""),
    "switch_one_nic": (SWITCH, 1, (1, 3, 0), ""),
    "switch_two_nics": (SWITCH, 2, (2, 4, 0), "BARs, windows, ACS, MSI, LTR, services of ports"),
    "pci_bridge": ([BRIDGE, f"{IGB0},bus=bridge,addr=1.0",
                    f"{E1000E},bus=bridge,addr=2.0,romfile="], 2, (2, 1, 0),
                   "bridges that aren't PCI Express"),
    "pxb": (["pxb-pcie,id=pxb,bus=pcie.0,bus_nr=128", f"{ROOT_PORT},bus=pxb", f"{IGB0},bus=root"],
            1, (1, 1, 0), "a second host bridge"),
}

MORE_TOPOLOGIES = {
    "switch_eight": (list(switch(IGB0, f"{E1000E},romfile=", *["qemu-xhci"] * 6)), 8, (8, 10, 0),
                     ""),
    "three_switches": (list(nested_switches(3, IGB0)), 1, (1, 7, 0), ""),
    # With an igb first, QEMU's ARI would end there
    "functions": ([f"{ROOT_PORT},bus=pcie.0",
                   "e1000e,netdev=wire0,bus=root,addr=0.0,multifunction=on,romfile=",
                   f"{IGB1},bus=root,addr=0.1", "qemu-xhci,bus=root,addr=0.2"], 3, (3, 1, 0),
                  "ARI, several functions"),
    "nvme": ([f"{ROOT_PORT},bus=pcie.0", "nvme,serial=1,bus=root"], 1, (1, 1, 0), ""),
    "virtio": ([f"{ROOT_PORT},bus=pcie.0", f"{VIRTIO},bus=root"], 1, (1, 1, 0), ""),
}

# With fixups and ROMs, with switches; for others the code is the same
DEBUG_TOPOLOGIES = "root_bus", "switch_two_nics"

# Of the second kernel, by the name that a scenario has
OPTIONS = {
    "assign_busses": "pci=assign-busses", "realloc": "pci=realloc=on",
    "pcie_bus_perf": "pci=pcie_bus_perf", "pcie_bus_safe": "pci=pcie_bus_safe",
    "noari": "pci=noari", "noaer": "pci=noaer", "noaspm": "pcie_aspm=off",
    "compat": "pcie_ports=compat",
    # Translation Blocking is off by default, Source Validation on with an IOMMU
    "config_acs": "pci=config_acs=10@pci:0:0", "hpbussize": "pci=hpbussize=4",
    "resource_alignment": "pci=resource_alignment=20@pci:8086:10c9",
}

# Together where none hides what another one does
COMBINED = {
    "renumber": ["assign_busses", "hpbussize", "realloc", "pcie_bus_perf", "config_acs"],
    "without": ["noari", "noaer", "noaspm", "pcie_bus_safe"],
    "moved": ["compat", "resource_alignment"],
}
# Each change must try all options on this one
CORE_OPTIONS = "switch_two_nics"


def topologies():
    # On the debug kernel faults.c has more
    yield Scenario("sixty_four", list(nvmes(8, 8)), 64, adopted=(64, 8, 0), on=DEMO, limit=180)
    for name, (devices, preserve, adopted, core) in {**TOPOLOGIES, **MORE_TOPOLOGIES}.items():
        yield Scenario(name, devices, preserve, adopted=adopted, leaks=False, limit=120, core=core,
                       on=DEBUG if name in DEBUG_TOPOLOGIES else DEMO)
    for name, (devices, preserve, adopted, _) in TOPOLOGIES.items():
        options = name == CORE_OPTIONS
        yield Scenario(f"{name}_iommu", devices, preserve, adopted=adopted, iommu=True, leaks=False,
                       checks=[*checks.FULL, checks.fewer_accesses, checks.services],
                       on=DEBUG if options else DEMO,
                       core="behind an IOMMU ports change as little" if options else "")
        for iommu in False, True:
            for slug, slugs in COMBINED.items():
                append = " ".join(OPTIONS[each] for each in slugs)
                yield Scenario(f"{name}{'_iommu' * iommu}_{slug}", devices, preserve,
                               next_append=append, adopted=adopted, iommu=iommu, on=DEMO,
                               checks=checks.FULL,
                               core=f"adopted despite {append}" if options and not iommu else "")
            # One by one if somebody wants to
            for slug, option in OPTIONS.items():
                yield Scenario(f"{name}{'_iommu' * iommu}_{slug}", devices, preserve,
                               next_append=option, adopted=adopted, iommu=iommu, on=(),
                               checks=checks.FULL)


KEXEC, SECOND_KEXEC = ((kernel, "Starting new kernel") for kernel in (1, 2))


# ---- modes of the IOMMU ----

# Options of the unit and of the kernel
SECOND_STAGE = {"unit": ",scalable-mode=on", "append": "intel_iommu=sm_on"}
FIRST_STAGE = {"unit": ",scalable-mode=on,fsts=on", "append": "intel_iommu=sm_on"}
NO_CMPXCHG16B = ("-cpu", "qemu64,-cx16")
# Interrupts are remapped, and x2APIC is on
REMAPPED = {"unit": ",intremap=on,eim=on", "qemu": ("-cpu", X2APIC)}
MAP_LATE = "--map-late 300"
# Services of ports would start a second after the last finish
HAND_OVER = "--hand-over 1500"


def translated(name, **others):
    return Scenario(name, iommu=True,
                    **{"devices": [f"{ROOT_PORT},bus=pcie.0", f"{IGB0},bus=root"], "on": DEMO,
                       "adopted": (1, 1, 0), "checks": checks.FULL, **others})


def translated_packets(name, **others):
    """Five updates"""
    return Scenario(name, **{"devices": [IGB0, f"{E1000E},romfile="], "preserve": 2,
                             "adopted": (2, 0, 0), "checks": checks.FULL, **others},
                    updates=5, ram=LARGE, interval=0.05, leaks=False, iommu=True, on=DEMO)


# What masks MSI-X and MSI of two e1000e, and that MSI-X is set up anew
FREEZES = (
    *(f"kernel {kernel} 0000:00:04.0 e1000e: MSI-X Message Control (0xa2) 0x8004 -> 0xc004"
      for kernel in range(1, 6)),
    *(f"kernel {kernel} 0000:00:04.0 e1000e: MSI-X Message Control (0xa2) 0xc004 -> 0x4004"
      for kernel in range(2, 7)),
    *(f"kernel {kernel} 0000:00:05.0 e1000e: MSI Message Control (0xd2) 0x81 -> 0x80"
      for kernel in range(1, 6)))
# A third one's INTx, unless vfio-pci has just disabled that as it came
INTX_OFF = r"kernel \d 0000:00:06.0 e1000e: Command .* 0x107 -> 0x507"


def reported(name, error, kind, **others):
    """The root port has an error when nobody is there to take its interrupt."""
    return translated(name, answers={(2, "Linux version"): [handover.inject("root", error)]},
                      lines={(2, f"02.0: AER: {kind} Error message received"): 1}, **others)


def woken(name, **others):
    return translated_packets(name, devices=[f"e1000e,netdev=wire{n},bus=pcie.0,addr={4 + n}.0,"
                                             "romfile=" for n in range(3)],
                              preserve=3, adopted=(3, 0, 0), options="--irqs", changes=FREEZES,
                              allowed=(INTX_OFF,), checks=[*checks.FULL, checks.noticed], **others)


def superpages(name, append="", **others):
    return translated(name, append=f"transparent_hugepage_shmem=always {append}",
                      checks=[*checks.FULL, checks.superpages], **others,
                      answers={event: [vtd.note_page_sizes] for event in
                               ((1, "VMM: receiving"), (2, "VMM: finished"))})


def cost(gib, huge="", **others):
    """Run by name, several times"""
    return translated(f"cost_{gib}{huge}", options=f"--alias {gib * 128 or 7}",
                      append="transparent_hugepage_shmem=always" if huge else "",
                      checks=[checks.traffic, checks.cost], limit=200, on=(),
                      answers={KEXEC: [handover.count_pages]}, **others)


def virtio(name, device="", **others):
    return translated(name, **others,
                      devices=[f"{ROOT_PORT},bus=pcie.0",
                               f"{VIRTIO},bus=root,iommu_platform=on{device}"])


def cached(name, **others):
    """Twice, as the second kernel adopts ATS before it hands it over."""
    return virtio(name, ",ats=on", updates=2, qemu=("-trace", "vtd_inv_desc"),
                  answers={(kernel, "VMM: found"): [vtd.note_ats(0x100)] for kernel in (2, 3)},
                  checks=[*checks.FULL, checks.forgotten], **others)


def commands(name, **others):
    """Commands of an NVMe controller, see vmm_nvme.c"""
    return Scenario(name, [f"{ROOT_PORT},bus=pcie.0",
                           "nvme,serial=1,drive=disk,use-intel-id=on,bus=root"],
                    on=DEMO, adopted=(1, 1, 0),
                    **{"qemu": SLOW_DISK, "checks": checks.COMMANDS, **others})


def not_adopted(name, why, layout, offset, value, **others):
    """One field of the record of a requester ID is wrong."""
    return translated(f"not_adopted_{name}", checks=[checks.resumed], **others,
                      answers={(2, "Linux version"): [handover.damage(
                          lambda given: given.put_in_requester_id(layout, offset, value))]},
                      lines={(2, f"DMAR: liveupdate: .*{why}"): 1,
                             (2, "liveupdate: DMA paused: the IOMMU can't be taken over"): 1})


NO_UNIT = "requester ID 0x100 of segment 0: no unit at 0x"


def given_up(name, how, says, adopted, error, **others):
    """A device that isn't waited for, or not any more, is translated as any other. The IOMMU's
    table is intact."""
    return translated(name, next_append="iommu=pt", adopted=adopted, checks=[checks.passes_through],
                      answers={KEXEC: [handover.damage(how)], (2, says): [vtd.note_entry(0x100)]},
                      lines={(2, "0000:01:00.0: liveupdate: DMA stopped"): 1,
                             (2, f"VMM: FAIL .* retrieve device: {error}"): 1}, **others)


def quarantined(name, **others):
    return given_up(name, lambda given: given.put_in_table("I", 0, 99), "INIT: stage 2", None,
                    "No such device", **others)


def spoil_file(given):
    """vfio-pci knows no such flag, and gives the device up."""
    given.put("H", given.device + 6, 0x8000)


def abandoned(name, **others):
    return given_up(name, spoil_file, "VMM: FAIL",
                    (1, 1, 0), "Operation not supported", **others)


def reused(name, mode="", **others):
    """What the old tables map isn't free before finish, whatever its owner does."""
    return translated(name, options="--reuse", append=f"init_on_free=1 {mode}",
                      checks=[checks.reused, checks.faults, checks.freed],
                      answers={(1, "VMM: preserved"): [handover.remember_rings],
                               (2, "VMM: done"): [handover.look_for_pages]}, **others)


def not_taken_over(mode):
    return {"checks": [checks.resumed],
            "lines": {(2, f"DMAR: liveupdate: dmar0: it is to be in {mode} mode"): 1,
                      (2, "liveupdate: DMA paused: the IOMMU can't be taken over"): 1}}


IOMMU = [
    translated_packets("packets_iommu",
                       core="five updates one after another behind an IOMMU, no packet lost"),
    translated_packets("packets_second_stage", **SECOND_STAGE),
    translated_packets("packets_first_stage", **FIRST_STAGE),
    translated("caching_mode", unit=",caching-mode=on"),
    translated("caching_second_stage", unit=",scalable-mode=on,caching-mode=on",
               append="intel_iommu=sm_on"),
    translated("caching_first_stage", unit=",scalable-mode=on,fsts=on,caching-mode=on",
               append="intel_iommu=sm_on"),
    translated("device_iotlb", unit=",device-iotlb=on"),
    translated("snoop_control", unit=",scalable-mode=on,fsts=on,snoop-control=on",
               append="intel_iommu=sm_on"),
    # Of the second table of context entries of its bus
    Scenario("upper_half", ["e1000e,netdev=wire0,bus=pcie.0,addr=14.0,romfile="], iommu=True,
             on=DEMO, adopted=(1, 0, 0), checks=checks.FULL, **SECOND_STAGE),
    translated("pass_through", append="iommu=pt"),
    translated("to_pass_through", next_append="iommu=pt"),
    translated("to_pass_through_second_stage", **SECOND_STAGE, next_append="iommu=pt"),
    # Legacy mode can't replace an entry at once, so that it isn't kept
    translated("paused", qemu=NO_CMPXCHG16B, pauses=True,
               core="DMA pauses where an IOMMU can't be taken over"),
    translated("map_late_paused", qemu=NO_CMPXCHG16B, pauses=True, options=MAP_LATE),
    translated("map_late", options=MAP_LATE,
               core="an address space that is filled after it was attached, as by QEMU"),
    translated("map_late_second_stage", **SECOND_STAGE, options=MAP_LATE,
               core="the same in scalable mode"),
    translated("map_late_first_stage", **FIRST_STAGE, options=MAP_LATE,
               core="the same with tables like the CPU's"),
    *(cost(gib, huge) for gib in (0, 1, 16) for huge in ("", "_huge")),
    # The ring is nearly full in the end
    translated("fast", interval=1 / 2600, on=()),
    Scenario("cost_no_iommu", [f"{ROOT_PORT},bus=pcie.0", f"{IGB0},bus=root"], on=(),
             adopted=(1, 1, 0), checks=[checks.traffic, checks.cost],
             answers={KEXEC: [handover.count_pages]}),
    translated("early", options="--early", core="LUO is opened before vfio-pci is loaded"),
    # Nobody ever reads its file
    translated("unhandled", options="--unhandled", checks=[checks.faults],
               lines={(2, "luo: no handler 'vfio-pci-v1' for the file with token 0x1"): 1,
                      (2, "0000:01:00.0: liveupdate: DMA stopped: no driver has finished"): 1},
               core="a file without a handler is finished"),
    Scenario("unhandled_unprotected", SWITCH, 2, options="--unhandled --sessions 2", on=DEMO,
             adopted=(2, 4, 0), checks=[checks.reused],
             lines={(2, "luo: no handler 'vfio-pci-v1' for the file with token"): 2,
                    (2, "liveupdate: DMA stopped: no driver has finished"): 2},
             core="its memory is held until its device is stopped"),
    # Nor does its handler, before the other session is finished
    *(Scenario(f"unread_{name}", SWITCH, 2, options="--unread --sessions 2", on=DEMO,
               adopted=(2, 4, 0), checks=[checks.reused],
               answers={KEXEC: [handover.damage(how)]},
               lines={(2, "luo: 'vfio-pci-v1' can't tell what the file with token"): 1,
                      (2, "0000:03:00.0: liveupdate: DMA stopped: nobody has retrieved"): 1,
                      (2, "0000:04:00.0: liveupdate: DMA stopped: no driver has finished"): 1},
               core=core)
      for name, how, core in (
          ("address", lambda given: given.put("Q", given.second_file, NOWHERE),
           "memory of a device whose file can't be read is held until it is stopped"),
          ("device", lambda given: given.put("H", given.get("Q", given.second_file) + 4, 0x500),
           ""))),
    reported("error", "BAD_TLP", "Correctable", checks=[*checks.FULL, checks.services],
             core="an error between the kernels is reported once"),
    reported("error_remapped", "BAD_TLP", "Correctable", **REMAPPED, on=DEBUG,
             checks=[*checks.FULL, checks.services]),
    reported("error_fatal", "MALF_TLP", r"Uncorrectable \(Fatal\)", **REMAPPED),
    woken("woken", core="a guest that only waits for interrupts, five times"),
    # Interrupts are remapped, with x2APIC and without
    woken("woken_remapped", **REMAPPED),
    woken("woken_remapped_xapic", unit=",intremap=on,eim=off"),
    superpages("superpages", core="memory in huge pages"),
    superpages("superpages_second_stage", **SECOND_STAGE),
    superpages("superpages_first_stage", **FIRST_STAGE),
    # An agent finishes the session before a VMM has attached what it maps
    translated("handed_over", options=HAND_OVER,
               core="finish before a VMM has come for its device"),
    translated("handed_over_second_stage", **SECOND_STAGE, options=HAND_OVER),
    translated("handed_over_first_stage", **FIRST_STAGE, options=HAND_OVER),
    translated("handed_over_paused", qemu=NO_CMPXCHG16B, pauses=True, options=HAND_OVER),
    # Nobody holds its memory
    Scenario("handed_over_unprotected", [f"{ROOT_PORT},bus=pcie.0", f"{IGB0},bus=root"], on=DEMO,
             options=HAND_OVER, adopted=(1, 1, 0), checks=[checks.resumed],
             lines={(2, "DMA paused: its live update is finished"): 1},
             core="the same without an IOMMU, where DMA pauses"),
    # Devices that don't survive a moment without bus mastering, as QEMU implements them
    virtio("virtio_iommu", core="a virtio device behind an IOMMU"),
    virtio("virtio_second_stage", **SECOND_STAGE),
    virtio("virtio_first_stage", **FIRST_STAGE),
    cached("virtio_ats", unit=",device-iotlb=on", on=DEBUG, core="ATS stays on"),
    cached("virtio_ats_second_stage", unit=",scalable-mode=on,device-iotlb=on",
           append="intel_iommu=sm_on"),
    cached("virtio_ats_first_stage", unit=",scalable-mode=on,fsts=on,device-iotlb=on",
           append="intel_iommu=sm_on"),
    virtio("virtio_noats", ",ats=on", unit=",device-iotlb=on", next_append="pci=noats",
           checks=[checks.ats_ends],
           lines={(2, "liveupdate: DMA paused: ATS isn't allowed for it any more"): 1},
           problems=("gave up waiting for all of", "nobody has said that all was done")),
    commands("commands"),
    # The documentation says so
    virtio("virtio_paused", qemu=NO_CMPXCHG16B, pauses=True, checks=[checks.trace],
           problems=("gave up waiting for all of", "nobody has said that all was done")),
    commands("commands_paused", iommu=True, qemu=SLOW_DISK + NO_CMPXCHG16B, pauses=True,
             problems=("only 9 of 10 registers are intact", "completed before the kexec")),
    commands("commands_iommu", iommu=True, core="commands in flight behind an IOMMU"),
    commands("commands_second_stage", iommu=True, **SECOND_STAGE),
    commands("commands_first_stage", iommu=True, **FIRST_STAGE),
    # The last finish switches the requester ID that both use, which may be one's own
    Scenario("map_late_bridge", [BRIDGE, f"{IGB0},bus=bridge,addr=1.0",
                                 f"{E1000E},bus=bridge,addr=2.0,romfile="], 2, iommu=True,
             options=f"{MAP_LATE} --sessions 2", adopted=(2, 1, 0), checks=checks.FULL, on=DEMO),
    Scenario("map_late_pcie_bridge",
             [f"{ROOT_PORT},bus=pcie.0", "pcie-pci-bridge,id=bridge,bus=root",
              f"{IGB0},bus=bridge,addr=0.0", f"{E1000E},bus=bridge,addr=1.0,romfile="], 2,
             iommu=True, options=f"{MAP_LATE} --sessions 2", adopted=(2, 2, 0),
             checks=checks.FULL, on=DEMO),
    reused("reused", core="memory that is freed before finish"),
    reused("reused_second_stage", unit=",scalable-mode=on", mode="intel_iommu=sm_on"),
    reused("reused_first_stage", unit=",scalable-mode=on,fsts=on", mode="intel_iommu=sm_on"),
    translated("replace", options="--replace 1000", checks=[*checks.FULL, checks.replaced],
               core="one translation takes the place of another, under traffic"),
    translated("replace_second_stage", **SECOND_STAGE, options="--replace 1000",
               checks=[*checks.FULL, checks.replaced], core="the same in scalable mode"),
    # The next kernel can't take the unit over: DMA pauses before the unit is turned off
    translated("to_scalable", unit=",scalable-mode=on", next_append="intel_iommu=sm_on",
               **not_taken_over("scalable"), core="a unit that can't be taken over"),
    translated("to_legacy", **SECOND_STAGE, next_append="intel_iommu=sm_off",
               **not_taken_over("legacy")),
    abandoned("abandoned_pass_through"),
    abandoned("abandoned_second_stage", **SECOND_STAGE),
    quarantined("quarantined_pass_through"),
    quarantined("quarantined_second_stage", **SECOND_STAGE),
    not_adopted("unit", NO_UNIT, "Q", 16, 0x1000, core="a record of a unit that isn't there"),
    not_adopted("root", "it uses another root table", "Q", 24, 0x1000),
    not_adopted("domain_id", "impossible domain ID", "H", 32, 1),
    not_adopted("width", "impossible address width", "B", 34, 7),
    not_adopted("type", "impossible flags", "B", 35, 0x9),
    not_adopted("mode", "impossible flags", "B", 36, 1),
    not_adopted("snoop", "impossible flags", "B", 35, 1 << 2 | 1, **FIRST_STAGE),
    not_adopted("ats", "impossible flags", "B", 35, 1 << 3 | 1, **SECOND_STAGE),
    not_adopted("segment", "it is of another segment", "I", 8, 1),
    not_adopted("stage", "impossible flags", "B", 36, 2, **SECOND_STAGE),
    not_adopted("levels", "impossible address width", "B", 34, 2, **FIRST_STAGE),
    # The page tables of one VMM are damaged
    Scenario("not_held", SWITCH, 2, options="--apart", adopted=(2, 4, 0), iommu=True, on=DEMO,
             answers={KEXEC: [handover.damage(handover.Handover.damage_top_table)]},
             checks=[checks.contained],
             lines={(2, "iommu: liveupdate: domain 1: its page tables lead to 0x.*impossible"): 1,
                    (2, "03:00.0: liveupdate: DMA paused: what it reaches can't be held"): 1,
                    (2, "liveupdate: DMA paused"): 1},
             core="page tables of one device that are damaged pause no other device"),
    Scenario("apart", SWITCH, 2, options="--apart", adopted=(2, 4, 0), iommu=True, on=DEMO,
             checks=checks.FULL),
    # A test of the checks. Nobody must read the entry meanwhile
    translated("cut_off", answers={(2, "VMM: found"): [vtd.cut]}, checks=[checks.traffic],
               options=MAP_LATE,
               problems=("it had no entry",),
               core="the checks notice if a device isn't translated for"),
]


# ---- one live update after another, or none ----

READ_TABLE = {KEXEC: [handover.read_table]}
COUNT = {KEXEC: [handover.count_pages], SECOND_KEXEC: [handover.count_pages]}
WITHOUT_SESSION = {"options": "--sessions 0", "preserve": 0, "checks": [], "adopted": None}


def page_tables(name, mode="", **others):
    return Scenario(name, SWITCH, 2, options="--abort 2", updates=2,
                    append=f"init_on_free=1 {mode}", iommu=True, interval=0.2, on=DEMO,
                    checks=[checks.same_memory, checks.freed],
                    answers={KEXEC: [handover.count_pages, handover.remember_page_tables],
                             SECOND_KEXEC: [handover.count_pages, handover.look_for_pages]},
                    twin={"options": "--sessions 0", "preserve": 0, "answers": COUNT}, **others)


REFUSED = "luo: the loaded kernel can't follow: it {}; load another, or close the sessions".format
SAYS_NOTHING = REFUSED("doesn't say that it can do live updates")
FORCED = {(1, SAYS_NOTHING): 2, (1, "luo: forced to kexec: all that was preserved is lost"): 1,
          (2, "liveupdate: adopted"): 0, (2, "VMM: nothing"): 1}
BAD_IMAGES = {
    (1, "01:00.0: liveupdate: live update refused: its IOMMU would be off"): 4,
    (1, "live update refused: it would lose extended configuration space"): 2,
    **{(1, rf"\] {says}$"): 1 for says in (
        "kexec handover: on by default", "VT-d: off by default",
        "pci: versions 101 to 102", "iommu: version 4",
        "vfio-pci: version 1", "memfd: version 2", "luo: version 5", "kho: version 4")},
    (1, SAYS_NOTHING): 6, (1, "what the loaded image says of live update is damaged"): 4,
    **{(1, REFUSED(why)): 1 for why in (
        "doesn't read 'pci'", "doesn't read 'vfio-pci'",
        "reads versions 998 to 999 of 'pci', not 102",
        "reads versions 98 to 99 of 'iommu', not 4", "reads versions 1 to 1 of 'memfd', not 2",
        "reads versions 1 to 1 of 'luo', not 5", "reads versions 1 to 1 of 'kho', not 4",
        "hasn't 'liveupdate=on' on its command line", "hasn't 'kho=on' on its command line",
        r"wasn't loaded with kexec_file_load\(\)")}}


SEQUENCES = [
    Scenario("abort", SWITCH, 2, options="--abort 1", checks=[],
             lines={(2, "liveupdate: adopted"): 0, (2, "VMM: nothing"): 1},
             core="what is unpreserved isn't in the table"),
    Scenario("no_session", SWITCH, **WITHOUT_SESSION, on=DEMO,
             lines={(2, "liveupdate: adopted"): 0, (2, "VMM: nothing"): 1}),
    Scenario("slot_reused", list(switch(IGB0, IGB1, "qemu-xhci")), 2, options="--swap",
             on=DEMO, answers=READ_TABLE, adopted=(2, 4, 0),
             checks=[checks.trace, checks.functions, checks.devices, checks.traffic,
                     checks.table],
             core="a record without a device is used again"),
    Scenario("two_sessions", SWITCH, 2, options="--sessions 2", adopted=(2, 4, 0), on=DEMO,
             answers=READ_TABLE, checks=[*checks.FULL, checks.table]),
    # The second kernel's VMM has its device, and goes into the next kexec like that
    Scenario("unfinished", SWITCH, 2, options="--unfinished", updates=2, on=DEMO,
             checks=[checks.let_go],
             lines={(2, "liveupdate: adopted 2 devices and 4 bridges, 0 missing"): 1,
                    (3, "liveupdate: adopted"): 0, (3, "VMM: nothing"): 1},
             core="retrieved and not finished"),
    Scenario("ten_updates", SWITCH, 2, updates=10, ram=LARGE, adopted=(2, 4, 0), limit=200,
             interval=0.05, checks=checks.FULL, on=DEMO),
    Scenario("crash", SWITCH, options="--crash", on=DEMO, adopted=(1, 3, 0),
             lines={(2, "VMM: crashed"): 1},
             core="a VMM that has retrieved all files dies, another one takes over"),
    # Back to an older kernel, and on from there. What is freed doesn't look like a table
    Scenario("older", SWITCH, 2, options="--older", updates=2, adopted=(2, 4, 0), on=DEMO,
             append="init_on_free=1",
             answers={KEXEC: [handover.read_table], SECOND_KEXEC: [handover.read_table]},
             checks=[*checks.FULL, checks.versions],
             core="a table of the version before"),
    # Between a kernel without us and one with us
    Scenario("plain_to_ours", SWITCH, on=("plain",), following="demo", options="--forget",
             checks=[], lines={(2, "liveupdate: adopted"): 0,
                               (2, "VMM: FAIL .* retrieve device: No such file"): 1}),
    Scenario("ours_to_plain", SWITCH, on=DEMO, following="plain", options="--refused", updates=0,
             checks=[], lines={(1, SAYS_NOTHING): 1}),
    Scenario("forced_to_plain", SWITCH, on=DEMO, following="plain", options="--forced",
             checks=[checks.let_go], lines=FORCED),
    # A kernel that could, but doesn't say so
    translated("forced", options="--forced", adopted=None, checks=[checks.let_go, checks.faults],
               lines=FORCED, core="a kexec that is forced is one without a live update"),
    # Only kmemleak sees what an image leaves that can't be loaded
    translated("images", options="--images", lines=BAD_IMAGES, on=DEBUG,
               core="a kexec into a kernel that can't take devices over is refused"),
    Scenario("like_plain", SWITCH, on=DEMO, **{**WITHOUT_SESSION, "checks": [checks.same_accesses]},
             twin={"on": ("plain",)}),
    # What KHO preserves when all is over, and what is in the table's memory
    Scenario("memory", SWITCH, 2, options="--abort 2", updates=2, append="init_on_free=1",
             on=DEMO, checks=[checks.same_memory, checks.freed],
             answers={KEXEC: [handover.count_pages, handover.remember_table],
                      SECOND_KEXEC: [handover.count_pages, handover.look_for_pages]},
             twin={"options": "--sessions 0", "preserve": 0, "answers": COUNT}),
    # The same of the page tables
    page_tables("memory_iommu",
                core="what was handed over is given back, after finish and after abort"),
    page_tables("memory_second_stage", unit=",scalable-mode=on", mode="intel_iommu=sm_on"),
]


# ---- while devices are preserved ----

PLUG_IN = {(kernel, "VMM: plug"): ["device_add e1000e,id=new,bus=down1,romfile="]
           for kernel in (1, 2)}
NATIVE_HOTPLUG = ("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
# As if the guest had told ACPI's hot-plug that it has given the device in slot 0 of the last
# port back
EJECT = ["o/w 0xcd0 0", "o/w 0xcc8 1"]


def at_once(*commands):
    """For the guest."""
    return ["stop", *commands, "cont"]


# With the interrupts that pciehp wants
POWER_OFF, POWER_ON = 0x1739, 0x1139


def set_slot(device, control):
    """Slot Control of a root port: without power, there is no card."""
    return [f"o/w 0xcf8 {0x8000006c + (device << 11):#x}", f"o/w 0xcfc {control:#x}"]


HOTPLUG = [
    # Its driver comes when the device below is finished
    Scenario("shpc", [f"{ROOT_PORT},bus=pcie.0", "pcie-pci-bridge,id=bridge,bus=root",
                      f"{IGB0},bus=bridge,addr=1.0"], adopted=(1, 2, 0), on=DEMO,
             checks=checks.FULL,
             lines={(kernel, "0000:01:00.0: HPC vendor_id"): 1 for kernel in (1, 2)},
             core="a hotplug controller of conventional slots"),
    # Rescan the bus, unplug and replug the neighbours
    Scenario("disturb", SWITCH, options="--disturb", adopted=(1, 3, 0), on=DEMO,
             checks=[*checks.FULL, checks.disturbed],
             core="rescan, removal and arrival of a neighbour change nothing"),
    Scenario("disturb_iommu", SWITCH, options="--disturb", adopted=(1, 3, 0), iommu=True,
             leaks=False, checks=[*checks.FULL, checks.disturbed]),
    # By this policy a NIC changes its links when it is used; one of them is above both NICs.
    # In any debug kernel lockdep complains about the order of pciehp's own locks
    Scenario("hotplug_pciehp", EMPTY_SLOT, options="--hotplug 0000:04:00.0", on=DEMO,
             next_append="pcie_aspm.policy=powersave", answers=PLUG_IN, qemu=NATIVE_HOTPLUG,
             lines={(2, "0000:02:01.0: pciehp: .*Card present"): 1}, adopted=(1, 3, 0),
             checks=[*checks.FULL, checks.disturbed],
             core="resources and ASPM policy, when pciehp finds a neighbour"),
    # Its interrupt, too, comes when nobody is there
    Scenario("hotplug_remapped", EMPTY_SLOT, on=DEMO, qemu=NATIVE_HOTPLUG, iommu=True,
             unit=REMAPPED["unit"], adopted=(1, 3, 0), checks=[*checks.FULL, checks.services],
             # One without I/O ports: when the NIC is removed at the end, it could take its window
             answers={(2, "Linux version"): ["device_add qemu-xhci,id=new,bus=down1"]},
             lines={(2, "pci 0000:04:00.0: \\[1b36:000d\\]"): 1}),
    Scenario("hotplug_acpi", EMPTY_SLOT, options="--hotplug 0000:04:00.0", iommu=True, leaks=False,
             next_append="pcie_aspm.policy=powersave", answers=PLUG_IN, lines={(2, "pciehp"): 0},
             adopted=(1, 3, 0), checks=[*checks.FULL, checks.disturbed]),
    Scenario("hotplug_added", EMPTY_SLOT, options="--hotadd 0000:04:00.0", on=DEMO,
             next_append="preserve=2",
             answers={(1, "VMM: plug"): ["device_add qemu-xhci,id=new,bus=down1"]},
             adopted=(2, 4, 0), checks=checks.FULL,
             core="a device that was plugged in is preserved"),
    # Not below the switch: when the NIC is removed at the end, it would take its I/O window
    Scenario("hotplug_between",
             [*EMPTY_SLOT, "pcie-root-port,id=other,bus=pcie.0,addr=3.0,chassis=9"], on=DEMO,
             adopted=(1, 3, 0), checks=checks.FULL, qemu=NATIVE_HOTPLUG,
             answers={KEXEC: at_once("device_add qemu-xhci,id=new,bus=other")},
             lines={(2, r"pci 0000:05:00.0: \[1b36:000d\]"): 1}),
    # Both ports of the switch lose their bus numbers. The preserved one's may not go to the
    # other, which gets new ones. That the VMM misses 04:00.0 is because it counts NICs.
    Scenario("lost_bridge", SWITCH, next_append="pci=assign-busses", on=DEMO,
             answers={KEXEC: at_once("o/w 0xcf8 0x80020018", "o/w 0xcfc 0",
                                     "o/w 0xcf8 0x80020818", "o/w 0xcfc 0")},
             changes=("kernel 2 0000:02:00.0 xio3130-downstream: Primary Bus (0x18) 0x2 -> 0x0",
                      "kernel 2 0000:02:00.0 xio3130-downstream: Secondary Bus (0x19) 0x3 -> 0x0",
                      "kernel 2 0000:02:00.0 xio3130-downstream: Subordinate Bus (0x1a) 0x3 -> 0x0",
                      # The kernel stops what it won't enumerate
                      "kernel 2 0000:02:00.0 xio3130-downstream: Command (0x4) 0x107 -> 0x103"),
             lost=("0000:02:00.0", "0000:03:00.0"), checks=[checks.trace, checks.functions],
             lines={(2, "VMM: FAIL .* retrieve device: No such device"): 1,
                    (2, r"0000:02:00.0: .*has lost its bus numbers \[bus 03-03\]"): 1,
                    (2, r"0000:03:00.0 \[8086:10c9\] was preserved but is not there"): 1,
                    (2, "0000:03:"): 1,
                    (2, "bdf=0000:02:01.0 .*buses=02-04-04 "): 1,
                    (2, "Unable to finish session"): 0},
             core="a bridge that was reset"),
    # Where the preserved NIC was there is another card
    Scenario("other_card", [f"{ROOT_PORT},bus=pcie.0", f"{IGB0},bus=root"], on=DEMO,
             qemu=NATIVE_HOTPLUG,
             answers={KEXEC: at_once(*set_slot(2, POWER_OFF),
                                     "device_add e1000e,id=new,bus=root,romfile=",
                                     *set_slot(2, POWER_ON))},
             adopted=(0, 1, 0), checks=[],
             lines={(2, r"0000:01:00.0: .* \[8086:10d3\] found instead of the preserved "
                        r"\[8086:10c9\]"): 1,
                    (2, "VMM: FAIL .* retrieve device: No such device"): 1,
                    (2, "Unable to finish session"): 0},
             core="another card in the same slot"),
]


# ---- what a VMM can rely on: vfio.c ----

# Neighbours, which a reset of the bus hits both
NEIGHBOURS = ["pci-bridge,id=bridge,bus=pcie.0,addr=4.0,chassis_nr=1",
              "igb,bus=bridge,addr=1.0,romfile=", "e1000e,bus=bridge,addr=2.0,romfile="]

# The first attempt fails
UNFROZEN = {(1, "live update refused: an ioeventfd writes to its I/O ports"): 1}

KINDS = [
    "e1000,bus=pcie.0,addr=4.0,romfile=",                           # no FLR, no MSI
    "igb,bus=pcie.0,addr=5.0,romfile={rom}",                        # option ROM
    "pci-testdev,bus=pcie.0,addr=6.0,membar=1G,romfile=",           # BAR above 4 GiB
    "igb,bus=pcie.0,addr=7.0,multifunction=on,romfile=", "igb,bus=pcie.0,addr=7.1,romfile=",
]


# Root slots 4 and 8 have one
SHARED_LINE = [f"e1000,bus=pcie.0,addr={slot},romfile=" for slot in ("4.0", "8.0")]


def vfio(name, devices, preserve=1, iommu=True, append="", test=None, **others):
    """test: of vfio.c, if it has another name"""
    return Scenario(name, list(devices), preserve, "vfio", f"--test {test or name}", iommu=iommu,
                    append=f"vfio_iommu_type1.allow_unsafe_interrupts=1 {append}", limit=240,
                    **{"checks": [], **others})


VFIO = [
    # Nobody can touch it, its user gets all back
    vfio("waiting", NEIGHBOURS, adopted=(1, 1, 0), leaks=False,
         lines={**UNFROZEN,
                # Closed, and opened as any other
                (2, "0000:01:01.0: reset done"): 2},
         core="nobody can touch a device before its user is back"),
    # What its neighbour is attached to when nobody uses that doesn't concern it
    vfio("waiting_pass_through", NEIGHBOURS, adopted=(1, 1, 0), test="waiting", on=DEMO,
         next_append="iommu=pt", checks=[checks.same_entry],
         answers={(2, says): [vtd.note_entry(0x20)]
                  for says in ("VMM: stage 2", "VMM: neighbour is closed")},
         lines={**UNFROZEN,
                (2, "0000:01:01.0: reset done"): 2}),
    # The session is finished before anybody is back
    vfio("late", list(switch(*["igb,romfile="] * 5)), 5, adopted=(5, 7, 0),
         lines={(2, "DMA stopped: nobody has retrieved its file"): 1,
                (2, "DMA stopped: closed before its live update was finished"): 1,
                (2, "DMA stopped: closed before it was attached"): 2},
         core="a device whose user comes late, or never"),
    # The VMM dies at each step
    vfio("killed", igbs(4), 4, adopted=(4, 4, 0),
         lines={(2, "DMA stopped: nobody has retrieved its file"): 1},
         core="a VMM that dies at each step"),
    # Two VMMs
    vfio("several", igbs(8), 8, updates=2, ram=LARGE, adopted=(8, 8, 0)),
    Scenario("packets", [IGB0, f"{E1000E},romfile="], 2, updates=5, ram=LARGE, interval=0.05,
             adopted=(2, 0, 0), leaks=False, checks=checks.FULL, on=DEMO),
    # While it is preserved, by a host that asks for it
    vfio("pulled", igbs(2), 2, leaks=False, answers={(1, "VMM: unplug"): ["device_del last"]},
         adopted=(1, 1, 0), lines={(1, "live update refused: it is being reset, removed"): 1},
         core="a device is pulled while it is preserved"),
    # A neighbour is, and its user keeps it: the kexec would never come to its end
    vfio("pending", igbs(2), adopted=(1, 1, 0), on=DEMO,
         lines={(1, "02:00.0: liveupdate: live update refused: it is being reset, removed"): 1},
         core="the removal of a neighbour is pending at the kexec"),
    # The next live update begins, and one user has yet to come
    vfio("left", igbs(2), 2, updates=2, on=DEMO,
         lines={(2, "02:00.0: liveupdate: live update refused: its last live update"): 1,
                (2, "02:00.0: liveupdate: DMA stopped: removed before its live update"): 1,
                (3, "liveupdate: adopted 1 devices and 1 bridges, 0 missing"): 1},
         core="the next live update begins before the user of a device has come"),
    # While it is preserved, without a word; the second time the kernel notices, and a kexec
    # that waited for its removal would never come to an end
    vfio("vanished", igbs(2), 2, answers={(1, "VMM: pull"): EJECT}, adopted=(1, 2, 1), on=DEMO,
         core="a device is pulled without a word, before and after preserve"),
    vfio("surprise", igbs(2), 2, qemu=NATIVE_HOTPLUG, on=DEMO, test="pulled",
         adopted=(1, 1, 0), lines={(1, "live update refused: it is being reset, removed"): 1},
         answers={(1, "VMM: unplug"): at_once(*set_slot(5, POWER_OFF), *set_slot(5, POWER_ON))}),
    # Between the kernels, or while it waits
    vfio("gone", igbs(3), 3, adopted=(2, 3, 1),
         answers={KEXEC: at_once(*EJECT)},
         lines={(2, r"0000:03:00.0 \[8086:10c9\] was preserved but is not there"): 1,
                (2, "0000:02:00.0: .*DMA stopped: removed before its live update"): 1},
         core="a device is pulled between the kernels, or while it waits"),
    vfio("kinds", KINDS, 5, adopted=(5, 0, 0), on=DEMO,
         lines={(1, r"0000:00:06\.0: BAR 2 \[mem 0x[1-9a-f][0-9a-f]{8,}-"): 1,
                # The firmware's place is in a hole of e820: no rescan finds it again
                (2, "INIT: not ordinary 0000:00:06.0, see sizes"): 1},
         core="BARs of all kinds, no FLR, no MSI"),
    # Nobody turns them off before the kexec, as the VMM is dead
    vfio("interrupts", ["igb,bus=pcie.0,addr=4.0,romfile=", "e1000e,bus=pcie.0,addr=5.0,romfile=",
                        "e1000,bus=pcie.0,addr=6.0,romfile=", "igb,bus=pcie.0,addr=7.0,romfile=",
                        "igb,bus=pcie.0,addr=9.0,romfile="],
         5, adopted=(5, 0, 0), lines=UNFROZEN, on=DEMO,
         core="interrupts that are on at the kexec"),
    vfio("no_intx_mask", ["igb,bus=pcie.0,addr=4.0,romfile=", "e1000,bus=pcie.0,addr=5.0,romfile=",
                          "e1000e,bus=pcie.0,addr=6.0,romfile="], adopted=(1, 0, 0), on=DEMO,
         lines={(1, "0000:00:05.0: not preserved: it can't disable INTx, and has no other"): 1,
                (1, "0000:00:04.0: live update refused: it can't disable INTx"): 2,
                (1, "0000:00:06.0: live update refused: it can't disable INTx"): 1},
         core="a device that can't disable INTx"),
    vfio("shared", SHARED_LINE, adopted=(1, 0, 0), on=DEMO,
         core="a shared line that is asserted before its user is back"),
    vfio("shared_given_up", SHARED_LINE, test="shared_lost", adopted=(1, 0, 0), on=DEMO,
         answers={KEXEC: [handover.damage(spoil_file)]}, core="the same, and it never is",
         lines={(2, "0000:00:04.0: liveupdate: DMA stopped: its file can't be retrieved"): 1}),
    vfio("shared_quarantined", SHARED_LINE, test="shared_lost", on=DEMO,
         answers={KEXEC: [handover.damage(lambda given: given.put_in_table("I", 0, 99))]},
         lines={(2, "0000:00:04.0: liveupdate: DMA stopped: it may be one of"): 1}),
    # The VMM of the documentation
    vfio("minimal", igbs(1), adopted=(1, 1, 0), on=DEMO,
         core="the VMM of the documentation"),
    # An IOMMU in only one of both kernels
    vfio("unprotected", igbs(1), on=DEMO,
         answers={KEXEC: [handover.damage(lambda given: given.hide(b"DMAR"))]},
         lines={(2, "no IOMMU translates for it now"): 1},
         core="an IOMMU in the first kernel only"),
    vfio("protected", igbs(1), iommu=False, next_append=vmtest.IOMMU, on=DEMO,
         lines={(2, "an IOMMU translates for it now"): 1,
                (2, "DMA stopped: its file can't be retrieved"): 1},
         core="an IOMMU in the second kernel only"),
    # Group, unbound, virtual functions, VGA
    vfio("refused", [*igbs(1), "VGA,bus=pcie.0,addr=2.0,romfile=",
                     "VGA,bus=pcie.0,addr=3.0,romfile="], updates=0, on=DEMO,
         lines={(1, "not preserved: a VGA device"): 1,
                (1, "0000:01:00.0: liveupdate: not preserved: ACS was turned off"): 1,
                # That of a group, and one that isn't bound
                (1, r"luo: no handler can preserve '\[vfio-device\]', a file of anon_inodefs"): 1,
                (1, r"luo: no handler can preserve 'vfio\d', a file of"): 1,
                (1, "not preserved: virtual functions can't be"): 1,
                (1, "not preserved: virtual functions are enabled"): 1},
         core="virtual functions, groups, VGA, ACS"),
    vfio("sibling", [BRIDGE, "igb,bus=bridge,addr=1.0,romfile=", "edu,bus=bridge,addr=2.0"],
         adopted=(1, 1, 0), on=DEMO,
         core="a device in the IOMMU group of a preserved one has a native driver"),
    vfio("removed", igbs(4), adopted=(1, 1, 0), on=DEMO, lines={(1, "VMM: removing"): 1},
         core="a device is removed between freeze and kexec"),
    *(vfio(name, igbs(1), updates=kernel, ram=LARGE, on=DEMO,
           append="crashkernel=192M kho_scratch=32M,640M,128M",
           lines={(kernel, "sysrq: Trigger a crash"): 1, (kernel, "Kernel panic"): 1,
                  (kernel, "Call Trace"): None, (kernel + 1, "VMM: dump"): 1}, core=core)
      for name, kernel, core in (
          ("panic", 1, "a panic while a device is preserved"),
          ("panic_incoming", 2, "a panic after a live update"))),
    vfio("asleep", igbs(4), 4, adopted=(4, 4, 0), on=DEMO, lines=UNFROZEN, checks=[checks.awake],
         core="devices that are asleep, or exported, at the kexec"),
    # The address space of what is preserved stays as it is, and what it maps is preserved
    vfio("no_ext_config", igbs(1), on=DEMO,
         answers={KEXEC: [handover.damage(lambda given: given.hide(b"MCFG"))]},
         lines={(2, "liveupdate: only 256 bytes of its configuration space can be"): 2,
                (2, "DMA stopped: its extended configuration space isn't there"): 1},
         core="a kernel that can't access extended configuration space"),
    vfio("fixed", igbs(2), 2, adopted=(2, 2, 0), answers=COUNT,
         lines={(1, "liveupdate: its address space maps memory at 0x[0-9a-f]+, which isn't"): 4},
         core="an address space that is handed over"),
    # The kernel's own, so many as on a kernel without all this. They fill gigabytes, and want
    # some faults
    Scenario("selftests", list(igbs(1)), program="selftests.sh", updates=0, iommu=True, on=DEMO,
             append="vfio_iommu_type1.allow_unsafe_interrupts=1", ram=LARGE, limit=300,
             selftests=True, checks=[],
             lines={(1, "DMAR: .* fault addr"): None,
                    **{(1, f"{name}: # Totals: {totals} error:0"): 1
                       for name, totals in vmtest.SELFTESTS.items()}}),
    # LUO's own, on a kernel with us
    *(Scenario(name, [], program="luo.sh", options=name, preserve=0, checks=[], leaks=False,
               selftests=True, lines={(2, f"{name}: .*TEST PASSED"): 1})
      for name in ("luo_kexec_simple", "luo_multi_session")),
]


# ---- a native driver: edu.c. It is a module in the demo kernel, built into the debug one ----

FIRST, PORT, LAST, NIC = "0000:00:03.0", "0000:00:02.0", "0000:01:00.0", "0000:00:04.0"


def edu(name, options="", on=DEMO, devices=(), **others):
    defaults = {"watched": (FIRST, PORT, LAST), "intact": 2, "adopted": (2, 1, 0),
                "checks": [checks.edu]}
    return Scenario(f"edu_{name}",
                    [*devices, "edu,bus=pcie.0,addr=3.0", f"{ROOT_PORT},bus=pcie.0",
                     "edu,bus=root"],
                    program="edu", options=options, on=on,
                    **{**defaults, **others})


def stop(bdf):
    """A driver that can't take its device over gives its interrupt back; the kernel stops DMA."""
    return rf"kernel 2 {bdf} edu: Command .* (0x507 -> 0x503|0x503 -> 0x103|0x103 -> 0x503)"


UNWANTED = "nobody has retrieved its file"
UNRETRIEVED = "its file can't be retrieved"
GONE = {"adopted": (1, 0, 0), "watched": (FIRST,), "intact": 1}

EDU = [
    edu("taken_back", checks=[checks.edu, checks.still_computing],
        core="what a device computes for a native driver goes on"),
    edu("taken_back_built_in", on=DEBUG, leaks=False),
    edu("aborted", "--abort"),
    # Preserved by old files, bound anew and preserved by another. LAST's port stays what it is,
    # LAST doesn't
    edu("outlived", "--outlive", watched=(FIRST, PORT), on=DEBUG, leaks=False),
    # Unbound, unloaded and bound before it is taken back
    edu("rebound", "--rebind",
        core="a driver that is unbound before pci_set_master() changes nothing"),
    # Not taken back
    edu("forgotten", "--forget", intact=0, allowed=(stop(FIRST), stop(LAST), checks.INTERRUPT),
        stopped={FIRST: UNWANTED, LAST: UNWANTED},
        core="a native driver's device that nobody takes back"),
    # The first attempt fails because of the igb
    edu("together", on=DEBUG, devices=["igb,bus=pcie.0,addr=4.0,romfile="],
        watched=(FIRST, PORT, LAST, NIC), adopted=(3, 1, 0),
        allowed=(rf"kernel 1 {NIC} igb: Command .* 0x6 -> 0x406",),
        core="a native driver and vfio-pci in one session"),
    edu("removed_preserved", "--remove preserved", on=DEBUG, leaks=False, **GONE),
    edu("unbound_preserved", "--remove unbound", on=DEBUG, leaks=False, **GONE),
    # Removed, found again and preserved again
    edu("replaced", "--outlive --replace", watched=(FIRST,), on=DEBUG, answers=READ_TABLE,
        table={FIRST: 1, PORT: 1, LAST: 1}, checks=[checks.edu, checks.table]),
    edu("removed_incoming", "--remove incoming", on=DEBUG, leaks=False, watched=(FIRST,), intact=1,
        stopped={LAST: "removed before its live update was finished"},
        core="a native driver's device is removed before it is taken back"),
    edu("unbound_incoming", "--remove forsaken", on=DEBUG, leaks=False, intact=1,
        allowed=(stop(LAST),), stopped={LAST: UNWANTED},
        core="a native driver is unbound before it takes its device back"),
    edu("removed_retrieved", "--remove retrieved", on=DEBUG, leaks=False, watched=(FIRST,)),
    edu("unbound_retrieved", "--remove used", on=DEBUG, leaks=False, watched=(FIRST,)),
    # Changed by somebody before it is taken back
    edu("damaged", "--remove damaged", intact=1, allowed=(stop(LAST),),
        stopped={LAST: UNRETRIEVED}),
    # Only the second kernel uses an IOMMU
    edu("iommu_next", "--iommu 2", next_append="intel_iommu=on", intact=0,
        allowed=(stop(FIRST), stop(LAST)), stopped={FIRST: UNRETRIEVED, LAST: UNRETRIEVED}),
    edu("iommu_refused", "--iommu 1", append="intel_iommu=on", watched=(), intact=0,
        adopted=None, updates=0, lines={(1, "VMM: refused .*what=preserve"): 2},
        core="the edu driver does without an IOMMU"),
]


# ---- what the first kernel tells the second is damaged on the way ----

NOT_THERE = "DMA stopped: no driver has finished its live update"


def damaged(name, how, says, error="No such device", quarantined=True, **others):
    """The second kernel must say so once, stop the device before it does anything else to it,
    keep bus numbers, refuse to give back the file, finish the session, and then do a live
    update itself."""
    lines = {(2, says): 1, (2, "table isn't used"): int(quarantined),
             (2, "0000:03:00.0: liveupdate: DMA stopped"): 1,
             (2, "Unable to finish session"): 0,
             (2, f"VMM: FAIL .* retrieve device: {error}"): 1,
             (3, "VMM: held bdf=0000:03:00.0"): 1, (3, "INIT: ordinary 0000:03:00.0"): 1}
    return Scenario(name, list(switch("qemu-xhci", "qemu-xhci")), append="again=1",
                    # By these bridges would get other bus numbers
                    next_append="pci=assign-busses,hpbussize=4", updates=2, lines=lines,
                    answers={KEXEC: [handover.damage(how)]},
                    **{"on": DEMO,
                       "checks": [checks.bus_numbers] + [checks.quiesced] * quarantined,
                       **others})


def unread(name, append, **others):
    """The next kernel isn't to read what it was handed, and stops the device before all else."""
    return translated(name, options="--lying", next_append=append, adopted=None,
                      checks=[checks.quiesced],
                      lines={(2, "liveupdate: DMA stopped: what the previous kernel"): 1,
                             (2, "VMM: FAIL /dev/liveupdate open: No such file"): 1}, **others)


STOPPED = "DMA stopped: its file can't be retrieved"

DAMAGED = [
    damaged("table_version", lambda given: given.put_in_table("I", 0, 99),
            "it has version 99, this kernel reads versions 101 to 102",
            core="a table of a later version"),
    # Neither is there any memory, or session
    Scenario("kho_lost", list(switch("qemu-xhci", "qemu-xhci")), on=DEMO,
             answers={KEXEC: [handover.damage(handover.Handover.damage_fdt)]},
             checks=[checks.bus_numbers, checks.quiesced],
             lines={(2, "handover FDT .* is incompatible with 'kho-v4'"): 1,
                    (2, "0000:03:00.0: liveupdate: DMA stopped: what the previous kernel"): 1,
                    (2, "VMM: FAIL .* retrieve session: No such file"): 1},
             core="nothing can be read of what the previous kernel handed over"),
    # The image has said that it isn't so
    unread("liveupdate_off", "liveupdate=off", core="live update is off in the next kernel"),
    unread("kho_off", "kho=off"),
    damaged("table_address", lambda given: given.put("Q", given.flb, NOWHERE),
            "no preserved memory at 0x200000000000"),
    damaged("table_hole", lambda given: given.put("Q", given.flb, HOLE),
            "no preserved memory at 0x3ffff000",
            core="a table that isn't there"),
    damaged("table_chain", lambda given: given.put("Q", given.block, NOWHERE),
            "its chain of blocks is broken",
            core="a table without its end"),
    damaged("table_loop", lambda given: given.put("Q", given.block, given.block),
            "its chain of blocks is broken", on=DEBUG, leaks=False),
    damaged("table_block", lambda given: given.put("Q", given.block + 8, 64),
            "its chain of blocks is broken"),
    damaged("table_count", lambda given: given.add("Q", given.table + 16, 1),
            "it holds 4 records, not 5"),
    damaged("table_record", lambda given: given.put("H", given.first_record() + 6, 0x8000),
            "record of 0000:03:00.0: impossible flags",
            core="an impossible record"),
    # Nothing else is wrong with it
    damaged("table_device", lambda given: given.add("H", given.first_record() + 14, 1),
            r"0000:03:00.0: .* \[1b36:000d\] found instead of the preserved", quarantined=False,
            checks=[checks.bus_numbers, checks.quiesced], core="a device with another ID"),
    damaged("table_twice", handover.Handover.copy_record,
            "record of 0000:03:00.0: two records for one device"),
    damaged("file_flags", spoil_file, STOPPED, "Operation not supported", quarantined=False),
    damaged("file_size", lambda given: given.put("I", given.device + 8, 1 << 31),
            STOPPED, "Invalid argument", quarantined=False),
    damaged("file_state", lambda given: given.add("I", given.device + 8, -4),
            STOPPED, "Invalid argument", quarantined=False, on=DEBUG, leaks=False,
            core="a device's file that can't be read"),
    damaged("file_config", lambda given: given.put("I", given.device + 12, 1 << 31),
            STOPPED, "Invalid argument", quarantined=False),
    # It isn't known which device that was, before all files are finished
    damaged("file_address", lambda given: given.put("Q", given.file, NOWHERE),
            NOT_THERE, "Invalid argument", quarantined=False,
            core="a file whose device isn't known"),
    damaged("file_hole", lambda given: given.put("Q", given.file, HOLE),
            NOT_THERE, "Invalid argument", quarantined=False),
    damaged("file_device", lambda given: given.put("H", given.device + 4, 0x400),
            NOT_THERE, quarantined=False),
    damaged("file_bridge", lambda given: given.put("H", given.device + 4, 0x200),
            NOT_THERE, quarantined=False),
]


# ---- everything else ----

def kunit(name, tables, suite="pci_liveupdate", **others):
    """tables: so many damaged ones"""
    return Scenario(name, [], program="ls", updates=0, leaks=False, limit=120,
                    checks=[checks.kunit], **others,
                    append=f"log_buf_len=4M kunit.autorun=1 kunit.filter_glob={suite} "
                           f"{suite}_kunit.tables={tables}")


OTHERS = [
    # More devices than there are allocations, and than fit into one block of the table. None
    # has an interrupt: to route that when it is enabled, ACPI makes allocations, and uses
    # memory that it has freed if one of these fails
    Scenario("faults", [BRIDGE, *(f"pci-testdev,bus=bridge,addr={1 + number // 8}.{number % 8},"
                                  "multifunction=on" for number in range(68))],
             0, "faults", append="loglevel=6", limit=90, checks=[checks.failing_allocations]),
    # Each with a requester ID and a group of its own
    Scenario("faults_iommu", [f"pci-testdev,bus=pcie.0,addr={slot:x}.0" for slot in range(2, 31)],
             0, "faults", append="loglevel=6", iommu=True, limit=90,
             checks=[checks.failing_allocations]),
    Scenario("stress", [*SWITCH[:4], DOWN.format(2, 4), DOWN.format(3, 5), f"{IGB0},bus=down0",
                        "e1000,bus=down1,romfile=", "e1000,bus=down2,romfile="],
             append='stress="5 0000:03:00.0 0000:04:00.0 0000:05:00.0 0000:06:00.0" loglevel=6',
             limit=300, interval=0.04, checks=[checks.stress, checks.traffic],
             answers={(1, "VMM: plug"): ["device_add e1000,id=new,bus=down3,romfile="],
                      (1, "VMM: unplug"): ["device_del new"]},
             lines={(1, "VMM: refused"): 1, (1, "live update refused: "): 1,
                    (2, "INIT: ordinary 0000:03:00.0"): 1}),
    # The kernel isn't told to do live updates: vfio-pci is there all the same
    Scenario("off", list(switch("qemu-xhci", "qemu-xhci")), append="liveupdate=off", updates=0,
             on=DEMO, checks=[], lines={(1, "VMM: FAIL /dev/liveupdate open: No such"): 1,
                                        (1, "taint for vfio-noiommu cdev"): 2},
             core="live update is off"),
    # In memory; on the debug kernel with faults, and with sanitizers that take their time
    kunit("kunit", 50000, on=DEMO,
          core="damaged tables, PTM, lost bus numbers, what QEMU has no device for"),
    kunit("kunit_debug", 20000),
    kunit("kunit_iommu", 20000, "iommu_liveupdate", on=DEMO,
          core="damaged tables of the IOMMU, the page table walker"),
    kunit("kunit_iommu_debug", 5000, "iommu_liveupdate"),
    # A test that can't fail is no test
    Scenario("forgotten_nic", SWITCH, options="--forget", on=DEMO,
             checks=[checks.trace, checks.traffic],
             problems=("retrieve device: No such file", r"\b\d{2,} of \d+ packets were lost",
                       r"^kernel 1 0000:03:00.0 igb: Command .*7 -> 0x\w*3$",
                       # And whatever else befalls an ordinary device and its bridges
                       "^kernel [12] 0000:0|were received meanwhile|that all was done"),
             core="the checks notice what an ordinary kexec does"),
]

# What takes long comes first, so that it doesn't run alone in the end
ALL = [*reversed(OTHERS), *VFIO, *SEQUENCES, *HOTPLUG, *EDU, *DAMAGED, *IOMMU, *topologies()]
