# SPDX-License-Identifier: GPL-2.0
"""A virtual machine whose NICs are watched from outside while its kernel is replaced.

    guest = Guests(out, directory).get(config)
    with guest.machine(directory, "") as vm:
        vm.wait("VMM: finished", 60)
        vm.end_traffic()
        vm.wait("VMM: done", 60)

The guest's init and the programs do the guest's part; their lines "VMM: <name>
<key>=<value>..." become events here. For each NIC there is a Wire: numbered packets go
in at one end, and at the other it is seen in the guest's memory when they have got
there. Memory is shared with QEMU, so that looking neither stops nor disturbs the guest,
and works as well while no kernel runs. Behind an IOMMU its tables say where to look, and a
Watcher tells whether there always was a translation.
"""

import ctypes
import json
import mmap
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import vtd

HERE = os.path.dirname(os.path.realpath(__file__))
QEMU = os.path.realpath(f"{HERE}/../../../../out/qemu")     # scripts/qemu.sh has made it
RAM = 1 << 30       # up to 2 GiB are below the PCI hole: address and offset are the same

# Who reads this byte of config space marks the trace: guest.c: mark_trace()
MARK = ("0000:00:00.0", 0xfc)

# Where gcov.sh in the guest sends what it has counted
COUNTERS = "counters.tar.gz"

# For a kernel with KASAN and each gigabyte: its shadow is so much of the memory that what KHO
# would reserve by default isn't there. The next kernel's must fit in.
DEBUG_SCRATCH = 300

# What NICs hang on, as QEMU's devices. SeaBIOS numbers the buses in this order.
IGB0 = "igb,netdev=wire0,mac=52:54:00:00:00:01,romfile="
IGB1 = "igb,netdev=wire1,mac=52:54:00:00:00:02,romfile="
E1000E = "e1000e,netdev=wire1,mac=52:54:00:00:00:02"
ROOT_PORT = "pcie-root-port,id=root,addr=2.0,chassis=1"
SWITCH = [
    f"{ROOT_PORT},bus=pcie.0",
    "x3130-upstream,id=up,bus=root",
    "xio3130-downstream,id=down0,bus=up,addr=0.0,chassis=2",
    "xio3130-downstream,id=down1,bus=up,addr=1.0,chassis=3",
    f"{IGB0},bus=down0",
    f"{IGB1},bus=down1",
]

# vfio-noiommu taints the kernel and says so: that is no warning in this sense
BAD = re.compile(
    r"\bWARNING\b|\bBUG\b|\bOops\b|KASAN|UBSAN|Call Trace|Kernel panic|"
    r"possible (recursive|circular)|inconsistent lock|suspicious RCU|unreferenced object|"
    r"kmemleak: \d+ new|lockdep is turned off|blocked for more than|soft lockup|"
    r"general protection|fault addr|INTR-REMAP|/init: |"
    r"kmemleak: Kernel memory leak detector disabled|"
    r"Cannot allocate a kmemleak_object structure|nobody cared|Disabling IRQ")

# What ends a run, unless it is to be there
FATAL = "VMM: FAIL|Kernel panic"


# On a loaded machine TCG sometimes loses a one-shot timer interrupt, in any kernel:
# all CPUs then idle for ever. A periodic tick comes again. At boot, if too few come, Linux
# panics ("IO-APIC + timer doesn't work"), or measures its delay loop for seconds: tell it
# that. The number is a 2.6 GHz host's; no device of QEMU's minds a wrong delay.
TICK = "nohz=off highres=off no_timer_check lpj=26000000"

# With a thread for each CPU, QEMU 10.0 now and then loses the end of an interrupt: no other
# one comes then, not even the tick. Or it fails an assertion while a BAR is disabled.
# The buffer for translations must never be full: QEMU 11.1 throws all away then, and at
# times crashes in tb_target_set_jmp_target().
ACCEL = "tcg,thread=single,tb-size=512"


# QEMU's doesn't remap interrupts, unless told to
IOMMU = "intel_iommu=on iommufd.allow_unsafe_interrupts=1"


class Failure(Exception):
    """The run can't go on; says why in words for a user."""


# ---- packets ----

HEADER = struct.Struct("<6s6s2sII")     # vmm.h: struct packet
PATTERN = bytes(range(256)) * 2
DONE = 1                                # a descriptor's status: written back


def frame(number, last=False):
    start = number & 0xff
    return HEADER.pack(b"\xff" * 6, b"\x02\0\0\0\0\1", b"\x88\xb5", number, last) \
        + PATTERN[start:start + 106]


FRAME_SIZE = len(frame(0))
DISK_SIZE = 1 << 20


class Wire:
    """The cable of one NIC.

    QEMU stops reading while a NIC can't receive, and delivers later: loss would
    look like delay. But the socket takes only about 80 packets that nobody reads,
    as the packet buffer of a NIC would. What doesn't fit is refused, and lost.
    """

    def __init__(self):
        self.socket, self.far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        self.bdf = None
        self.room = 0           # for so many packets
        self.descriptors, self.buffers = [], []     # the address of each, once we can look
        self.used = None        # of virtio: the address of what says how many are done with
        self.sent = []          # time; the index is the packet's number
        self.seen = []          # (time, number); the index is the descriptor's
        self.damaged = 0
        self.ending = False     # the last packet has yet to be sent

    def connect(self, bdf, count):
        """The guest has a ring: packets may come."""
        self.bdf, self.room = bdf, count - 1

    def watch(self, memory, find, ring, used=None, header=0):
        """The ring is at this address of the device's; find tells where that is in memory.
        Packets begin with a header of that size."""
        self.memory = memory
        self.used = used and find(used)
        self.descriptors = [find(ring + 16 * i) for i in range(self.room + 1)]
        self.buffers = [find(struct.unpack_from("<Q", memory, descriptor)[0] + header)
                        for descriptor in self.descriptors]

    def is_done(self, slot):
        if self.used:
            return struct.unpack_from("<H", self.memory, self.used + 2)[0] > slot
        return self.memory[self.descriptors[slot] + 8] & DONE

    def send(self, now):
        number = len(self.sent)
        if number >= self.room:
            raise Failure(f"{self.bdf}: the ring has only room for {number} packets")
        self.sent.append(now)
        try:
            self.socket.send(frame(number))
        except OSError:         # full, or switched off
            pass

    def send_last(self, now):
        """The one that says so waits until there is room in the wire."""
        try:
            self.socket.send(frame(len(self.sent), last=True))
            self.sent.append(now)
            self.ending = False
        except OSError:
            pass

    def look(self, now):
        """Note what has arrived in memory since the last look."""
        while len(self.seen) < len(self.buffers):
            slot = len(self.seen)
            if not self.is_done(slot):
                return
            start = self.buffers[slot]
            data = self.memory[start:start + FRAME_SIZE]
            number, last = HEADER.unpack_from(data)[3:]
            if data != frame(number, last) or number >= len(self.sent):
                self.damaged += 1
                number = None
            self.seen.append((now, number))

    def numbers(self):
        return [number for _, number in self.seen if number is not None]

    def lost(self):
        return sorted(set(range(len(self.sent))) - set(self.numbers()))

    def disordered(self):
        """Packets that came twice or after one with a higher number."""
        count, highest = 0, -1
        for number in self.numbers():
            count += number <= highest
            highest = max(highest, number)
        return count

    def sent_between(self, start, end):
        return {n for n, when in enumerate(self.sent) if start <= when <= end}

    def problems(self, windows):
        """windows: (start, end) of each time without userspace"""
        for start, end in windows:
            sent = self.sent_between(start, end)
            seen = [number for when, number in self.seen if number in sent and when <= end]
            # A busy host delays some
            if not sent or len(seen) < len(sent) / 2:
                yield (f"{self.bdf}: of {len(sent)} packets sent while there was no userspace, "
                       f"{len(seen)} were received meanwhile")
        if self.lost():
            yield f"{self.bdf}: {len(self.lost())} of {len(self.sent)} packets were lost"

    def longest_wait(self):
        return max((when - self.sent[n] for when, n in self.seen if n is not None), default=0)


# ---- the machine ----

@dataclass
class Line:
    time: float
    kernel: int         # 1 is the first
    text: str


@dataclass
class Event:
    time: float
    kernel: int
    name: str
    fields: dict = field(default_factory=dict)


def requester_id(bdf):
    """0000:03:00.1 is 0x301."""
    _, bus, device, function = re.split("[:.]", bdf)
    return int(bus, 16) << 8 | int(device, 16) << 3 | int(function)


def run_with_parent():
    """In the child: don't survive this program, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG


class VM:
    def __init__(self, directory, kernel, initrd, append="", devices=SWITCH,
                 interval=0.01, trace=None, options=(), answers=None, expected=(),
                 accel=ACCEL, ram=RAM, echo=None):
        """interval: seconds between packets; trace: file for PCI config accesses; options:
        more of QEMU's; answers: what is done when a kernel says something, by the kernel's
        number and words of its line: commands for QEMU, and functions of this machine
        and that number;
        expected: (kernel, pattern) of bad lines that are to be there; accel: QEMU's
        accelerator; ram: in bytes; echo: show the console, each line begins with this"""
        os.makedirs(directory, exist_ok=True)
        self.directory = directory
        self.interval = interval
        self.accel = accel
        self.trace = trace
        self.answers, self.due_answers = answers or {}, []
        self.expected = expected
        self.found = {}         # what answers have found
        self.echo = echo
        self.lines, self.events = [], []
        self.kernels = 0
        self.checked = 0        # lines that wait() has been through
        self.partial = b""
        self.due = None         # time of the next packets; None: no traffic
        self.sending = True
        self.all_count = True   # no packet may find the ring full
        # Of devices behind an IOMMU: by BDF, and those that still look
        self.translations, self.watchers = {}, []
        self.crashed = False    # QEMU has, not the guest
        self.wires = [Wire() for device in devices if "netdev=" in device]
        self.log = open(f"{directory}/console.log", "w")
        self.ram = os.memfd_create("guest")
        os.ftruncate(self.ram, ram)
        self.memory = mmap.mmap(self.ram, ram)
        near_end, monitor = socket.socketpair()
        near_end.settimeout(10)
        self.monitor = near_end.makefile("rw")
        near_end.close()        # with the file
        self.monitor.write('{"execute": "qmp_capabilities"}')   # without it no other works
        self.monitor.flush()
        args = self.command(monitor.fileno(), kernel, initrd, append, devices)
        self.start([*args, *options], [self.ram, monitor.fileno()])
        monitor.close()
        for wire in self.wires:
            wire.far_end.close()

    def command(self, monitor_fd, kernel, initrd, append, devices):
        args = [QEMU, "-nodefaults", "-no-user-config", "-display", "none",
                "-machine", "q35,memory-backend=ram", "-accel", self.accel, "-smp", "2",
                "-m", f"{len(self.memory) >> 20}M", "-object",
                f"memory-backend-file,id=ram,size={len(self.memory)},share=on,"
                f"mem-path=/proc/self/fd/{self.ram}",
                "-chardev", f"socket,id=monitor,fd={monitor_fd}", "-mon", "monitor,mode=control",
                "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd", initrd,
                "-append", "console=ttyS0 panic=-1 liveupdate=on printk.devkmsg=on "
                           f"vfio.enable_unsafe_noiommu_mode=1 {TICK} {append}"]
        for number, wire in enumerate(self.wires):
            args += ["-netdev", f"dgram,id=wire{number},local.type=fd,"
                                f"local.str={wire.far_end.fileno()}"]
        for device in devices:
            args += ["-device", device]
        if self.trace:
            args += ["-trace", "pci_cfg_read", "-trace", "pci_cfg_write",
                     "-trace", "vtd_dmar_fault", "-msg", "timestamp=on", "-D", self.trace]
        return args

    def start(self, args, fds):
        fds += [wire.far_end.fileno() for wire in self.wires]
        self.epoch = time.monotonic()
        self.wall_clock = time.time()   # at the epoch; QEMU's trace has this one
        with open(f"{self.directory}/qemu.log", "w") as errors:
            try:
                self.process = subprocess.Popen(
                    args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                    pass_fds=fds, preexec_fn=run_with_parent)
            except FileNotFoundError:
                raise Failure(f"there is no {args[0]}: run scripts/qemu.sh") from None
        self.console = self.process.stdout.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.ended = self.now()
        self.look()
        self.memory.close()
        os.close(self.ram)
        self.log.close()
        with suppress(OSError):     # what QEMU didn't read
            self.monitor.close()

    def now(self):
        return time.monotonic() - self.epoch

    def play(self, drive):
        """Have drive(vm) go through it to the end. Returns what stopped it early."""
        with self:
            try:
                drive(self)
            except Failure as failure:
                self.sending = False
                self.run(1)     # for its last words
                return str(failure)
        return None

    # -- what QEMU is told --

    def ask(self, command):
        """A command for QEMU's monitor."""
        try:
            json.dump({"execute": "human-monitor-command", "id": command,
                       "arguments": {"command-line": command}}, self.monitor)
            self.monitor.flush()
            # There are events, too
            reply = next((reply for reply in map(json.loads, self.monitor)
                          if reply.get("id") == command), {})
        except OSError as error:
            reply = {"error": error}
        if "return" not in reply:
            raise Failure(f"QEMU was told '{command}', and says: {reply}")
        return reply["return"]

    def tell(self, command):
        """One of those that say nothing if they work."""
        reply = self.ask(command)
        if reply:
            raise Failure(f"QEMU was told '{command}', and says: {reply}")

    @contextmanager
    def stopped(self):
        """Meanwhile no CPU runs, and all is known that the guest has said."""
        self.tell("stop")
        try:
            while select.select([self.console], [], [], 0)[0] and self.read_console():
                pass
            yield
        finally:
            self.tell("cont")

    def used_memory(self):
        """Where the guest has ever used some: (start, end)."""
        start = end = 0
        while True:
            try:
                start = os.lseek(self.ram, end, os.SEEK_DATA)
            except OSError:         # there is no more
                return
            end = os.lseek(self.ram, start, os.SEEK_HOLE)
            yield start, end

    # -- what the guest says --

    def read_console(self):
        """Returns False at the end."""
        data = os.read(self.console, 65536)
        *complete, self.partial = (self.partial + data).split(b"\n")
        for line in complete:
            self.take_line(line.decode(errors="replace").rstrip("\r"))
        return bool(data)

    def answer(self):
        """Only when all lines have been taken: a function may read more of them."""
        while self.due_answers:
            kernel, answer = self.due_answers.pop(0)
            if callable(answer):
                answer(self, kernel)
            else:
                self.tell(answer)

    def take_line(self, text):
        if "Linux version" in text:
            self.kernels += 1
        line = Line(self.now(), self.kernels, text)
        self.lines.append(line)
        print(f"{line.time:8.3f} {text}", file=self.log, flush=True)
        if self.echo is not None:
            print(f"{self.echo}{line.time:8.3f} {text}", flush=True)
        self.due_answers += [(kernel, answer) for (kernel, words), answers in self.answers.items()
                             if kernel == self.kernels and words in text for answer in answers]
        found = re.search(r"\bVMM: (\w+) ?(.*)", text)
        if found:
            fields = dict(re.findall(r"(\w+)=(\S*)", found[2]))
            self.take_event(Event(line.time, line.kernel, found[1], fields))

    def take_event(self, event):
        self.events.append(event)
        if event.name == "ring":
            wire = None
            if "count" in event.fields:     # it isn't a disk's
                wire = next(wire for wire in self.wires if not wire.bdf)
                wire.connect(event.fields["bdf"], int(event.fields["count"]))
            # Once all lines have been taken
            self.due_answers.append((self.kernels, partial(self.watch, wire, event.fields)))
        elif event.name == "receiving":
            self.due = self.now()

    def watch(self, wire, ring, *_):
        address = int(ring.get("addr") or ring["iova"], 16)
        layout = {name: int(ring[name], 0) for name in ("used", "header") if name in ring}
        if "addr" in ring:                  # no IOMMU
            if wire:
                wire.watch(self.memory, lambda page: page, address, **layout)
            return
        unit, bdf = vtd.Unit(self), ring["bdf"]
        find = vtd.Translator(unit, requester_id(bdf))
        try:
            if wire:
                wire.watch(self.memory, find, address, **layout)
            self.translations[bdf] = vtd.Watcher(unit, requester_id(bdf), address)
        except vtd.Fault as fault:
            raise Failure(f"{bdf}: can't find its ring: {fault}") from None
        self.watchers.append(self.translations[bdf])

    def find(self, name, **fields):
        """The events of this name and with these fields."""
        return [event for event in self.events if event.name == name
                and fields.items() <= {**event.fields, "kernel": event.kernel}.items()]

    def first(self, name, **fields):
        return next(iter(self.find(name, **fields)), None)

    # -- time goes on only in here --

    def step(self, limit):
        """Until something happens. Returns False when the guest is off."""
        now = self.now()
        if self.due and now >= self.due:
            self.look()
            if self.sending:
                self.send()
            for wire in self.wires:
                if wire.ending:
                    wire.send_last(now)
            self.due = max(self.due + self.interval, now)
        timeout = min(limit, self.due or limit) - now
        if self.watchers:
            self.look_at_tables()
            timeout = min(timeout, vtd.INTERVAL)
        running = True
        if select.select([self.console], [], [], max(timeout, 0))[0]:
            running = self.read_console()
            self.answer()
        return running

    def look(self):
        for wire in self.wires:
            wire.look(self.now())

    def look_at_tables(self):
        try:
            for watcher in self.watchers:
                watcher.look(self.now())
        except Failure as failure:
            try:
                self.process.wait(1)
            except subprocess.TimeoutExpired:
                raise failure from None
            self.watchers = []  # QEMU has ended: whoever reads the console finds out why

    def send(self):
        for wire in self.wires:
            if wire.bdf and (self.all_count or len(wire.sent) < wire.room):
                wire.send(self.now())

    def wait(self, pattern, limit):
        """For a line of the console, at most limit seconds. Returns it."""
        end = self.now() + limit
        running = True
        while True:
            for line in self.lines[self.checked:]:
                self.checked += 1
                if re.search(pattern, line.text):
                    return line
                if re.search(FATAL, line.text) and not self.is_expected(line):
                    self.run(1)
                    raise Failure(re.sub(r"^\[.*?\] ", "", line.text))
            if not running:
                raise Failure(f"the guest ended while we waited for '{pattern}'; {self.last()}; "
                              f"{self.status()}")
            if self.now() > end:
                raise Failure(f"no '{pattern}' within {limit} s; {self.last()}")
            running = self.step(end)

    def status(self):
        """How QEMU has ended, with its last words."""
        try:
            status = self.process.wait(10)
        except subprocess.TimeoutExpired:
            return "QEMU goes on"
        self.crashed = status < 0
        with open(f"{self.directory}/qemu.log") as errors:
            return f"QEMU's status: {status}, {errors.read()[-300:].strip() or 'no message'}"

    def last(self):
        if self.lines:
            return f"its last words: {self.lines[-1].text} (see {self.directory}/console.log)"
        with open(f"{self.directory}/qemu.log") as file:
            return f"QEMU says: {file.read().strip() or 'nothing'}"

    def run(self, seconds):
        end = self.now() + seconds
        while self.now() < end and self.step(end):
            pass

    def wait_off(self, limit):
        end = self.now() + limit
        while self.step(end):
            if self.now() > end:
                raise Failure(f"the guest isn't off after {limit} s; {self.last()}")

    def end_traffic(self):
        """Send the packet that says so. We go on looking."""
        self.sending = False
        for wire in self.wires:
            wire.ending = bool(wire.bdf)

    def times(self, kernel, pattern):
        """When this kernel said so."""
        return [line.time for line in self.lines
                if line.kernel == kernel and re.search(pattern, line.text)]

    def is_expected(self, line):
        return any(kernel == line.kernel and re.search(pattern, line.text)
                   for kernel, pattern in self.expected)

    def bad_lines(self):
        return [line for line in self.lines
                if BAD.search(line.text) and not self.is_expected(line)]

    def complaints(self):
        return [f"kernel {line.kernel} complained: {line.text}"
                for line in self.bad_lines()][:20]


# ---- its contents ----

SCRIPTS = ["leaks.sh", "luo.sh", "selftests.sh"]
# The kernel's own, in ../vfio, and how they end
SELFTESTS = {
    "vfio_dma_mapping_test": "pass:20 fail:0 xfail:0 xpass:0 skip:10",     # no huge pages
    "vfio_iommufd_setup_test": "pass:6 fail:0 xfail:0 xpass:0 skip:0",
    "vfio_pci_device_test": "pass:5 fail:0 xfail:0 xpass:0 skip:0",
    "vfio_pci_driver_test": "pass:7 fail:0 xfail:0 xpass:0 skip:0",
}
# By the directory of selftests
PROGRAMS = {
    "pci_liveupdate": ["vmm", "edu", "faults", "stress", "vfio", "minimal_vmm"],
    "vfio": SELFTESTS,
    "liveupdate": ["luo_kexec_simple", "luo_multi_session"],
    "../../liveupdate": ["pci-liveupdate-image"],
}
MODULES = {
    "/edu.ko": "samples/liveupdate/edu_liveupdate.ko",
    "/irqbypass.ko": "virt/lib/irqbypass.ko",
    "/vfio-pci-core.ko": "drivers/vfio/pci/vfio-pci-core.ko",
    "/vfio-pci.ko": "drivers/vfio/pci/vfio-pci.ko",
}


def build_programs(source, output, headers):
    """source: the selftests in a kernel tree; headers: the kernel's, for userspace.
    Returns, by the directory of selftests, the name of each program in the guest and the
    file it comes from."""
    programs = {}
    for test, names in PROGRAMS.items():
        directory = f"{output}/{os.path.basename(test)}"
        os.makedirs(directory, exist_ok=True)
        made = subprocess.run(["make", "-s", "-C", f"{source}/{test}", "LDFLAGS=-static",
                               f"OUTPUT={directory}", f"KHDR_INCLUDES=-isystem {headers}",
                               *(f"{directory}/{name}" for name in names)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if made.returncode:
            raise Failure(f"the guest's programs don't build:\n{made.stdout}")
        programs[test] = {f"/bin/{name}": f"{directory}/{name}" for name in names}
    return programs


def busybox():
    path = shutil.which("busybox")
    if not path:
        raise Failure("busybox isn't installed (package busybox-static)")
    with open(path, "rb") as file:
        if b"/ld-linux" in file.read():
            raise Failure(f"{path} isn't static: install the package busybox-static")
    return path


def cpio(path, gen_init_cpio, files):
    """files: name in the archive and the file it comes from"""
    entries = [f"dir /{name} 755 0 0" for name in ("bin", "dev", "proc", "sys")]
    entries += ["nod /dev/console 600 0 0 c 5 1"]
    entries += [f"slink /bin/{name} busybox 777 0 0"
                for name in ("insmod", "ls", "mount", "reboot", "rmmod", "sh", "sleep", "wc")]
    entries += [f"file {name} {source} 755 0 0" for name, source in files.items()]
    with open(f"{path}.list", "w") as file:
        file.write("\n".join(entries) + "\n")
    with open(path, "wb") as file:
        subprocess.run([gen_init_cpio, f"{path}.list"], stdout=file, check=True)


class Kernel:
    """What scripts/kernel.sh has built below out."""

    def __init__(self, out, directory, config):
        build = f"{out}/build-{config}"
        built = f"{build}/arch/x86/boot/bzImage"
        self.image = f"{directory}/bzImage-{config}"
        if not os.path.exists(built):
            raise Failure(f"there is no kernel: make kernel CONFIG={config}")
        # All stages are to be of this one, whatever is built meanwhile
        shutil.copy(built, self.image)
        # Else they are built in
        self.files = {name: f"{build}/{module}" for name, module in MODULES.items()
                      if os.path.exists(f"{build}/{module}")}
        if config == "gcov":
            self.files["/bin/gcov.sh"] = f"{HERE}/gcov.sh"


class Guests:
    """What all virtual machines of a run have in common."""

    def __init__(self, out, directory):
        self.out, self.directory = out, directory
        self.kernels, self.guests, self.programs = {}, {}, {}
        with open(f"{directory}/rom", "wb") as file:
            file.write(bytes(0x10000))
        with open(f"{directory}/disk", "wb") as file:       # see vmm_nvme.c
            file.write(struct.pack(f"<{DISK_SIZE // 4}I", *range(DISK_SIZE // 4)))

    def kernel(self, config):
        if config not in self.kernels:
            self.kernels[config] = Kernel(self.out, self.directory, config)
        return self.kernels[config]

    def get(self, config, following=None, updates=1, selftests=False):
        """following: the configuration of the kernels after the first, if it's another one;
        selftests: with the kernel's own of vfio and LUO."""
        configs = [config] + [following or config] * updates
        name = "-".join([f"initrd-{config}"] + [following] * bool(following) +
                        [f"{updates}"] + ["selftests"] * selftests)
        if name not in self.guests:
            self.guests[name] = Guest(
                self.directory, config, self.kernel(config).image,
                self.initramfs(f"{self.directory}/{name}", configs, selftests))
        return self.guests[name]

    def initramfs(self, path, configs, selftests):
        """The next kernel and its initramfs are in the one before."""
        build = f"{self.out}/build-{configs[0]}"
        if not self.programs:
            self.programs = build_programs(f"{self.out}/linux/tools/testing/selftests",
                                           f"{self.directory}/programs",
                                           f"{build}/usr-headers/include")
        files = {"/init": f"{HERE}/init", "/bin/busybox": busybox(),
                 **{f"/bin/{name}": f"{HERE}/{name}" for name in SCRIPTS},
                 **self.programs["pci_liveupdate"], **self.programs["../../liveupdate"]}
        if selftests:
            files |= self.programs["vfio"] | self.programs["liveupdate"]
        following = {}
        for number, config in reversed(list(enumerate(configs, 1))):
            cpio(f"{path}.{number}", f"{build}/usr/gen_init_cpio",
                 {**files, **self.kernel(config).files, **following})
            following = {"/kernel": self.kernel(config).image,
                         "/initrd.img": f"{path}.{number}"}
        return following["/initrd.img"]


@dataclass
class Guest:
    """A kernel, with all that it needs for what is to come."""
    directory: str
    config: str
    kernel: str
    initrd: str

    @property
    def rom(self):
        """A file with an option ROM."""
        return f"{self.directory}/rom"

    @property
    def disk(self):
        """A file in which each word says where it is."""
        return f"{self.directory}/disk"

    @property
    def slow(self):
        """Factor for limits in seconds."""
        return 20 if self.config in ("debug", "kcsan", "gcov") else 1

    def machine(self, directory, append, interval=0.01, options=(), ram=RAM, **others):
        """In this directory, with a trace; options, others: VM's."""
        if self.config == "debug":
            append += f" kho_scratch={DEBUG_SCRATCH * (ram // RAM)}M,0M,50M"
        if self.config == "gcov":
            options = [*options, "-serial", f"file:{directory}/{COUNTERS}"]
        if self.config == "kcsan":      # CPUs that take turns have no races
            others["accel"] = "tcg,thread=multi"
        if self.slow > 1:
            interval *= 4       # the ring has to last longer
        return VM(directory, self.kernel, self.initrd, append, interval=interval,
                  trace=f"{directory}/config-space.log", options=options, ram=ram, **others)
