# SPDX-License-Identifier: GPL-2.0
#
# The front door. Each target is a script below scripts/, which says more.

# To the scripts, wherever they were given
export BUDGET CONFIG CORE KERNEL QEMU SUITE T V

help:
	@echo 'make demo                     replace the kernel under a running NIC, in QEMU'
	@echo '                              (11 minutes the first time)'
	@echo 'make check                    what each change must pass (7 minutes, and building a kernel)'
	@echo 'make check-all                all tests, on three kernels; BUDGET=MINUTES: as many as fit'
	@echo 'make check T=PATTERN [V=1]    only these scenarios: T="hotplug*"; V=1 shows their consoles'
	@echo 'make check-bare               make demo and make check in a new Debian, as root:'
	@echo '                              SUITE=bookworm or trixie'
	@echo 'make check-the-checks         break the kernel in many ways: each must be noticed (40 minutes)'
	@echo 'make coverage                 which lines of ours the tests reach, on a kernel of its own'
	@echo '                              (20 minutes)'
	@echo 'make bench                    how fast it is: table, boot, blackout; plot in out/bench.svg'
	@echo '                              (10 minutes)'
	@echo 'make lint                     what the kernel'\''s and Debian'\''s checkers say (3 minutes)'
	@echo 'make check-bisect             build after each patch of the series (an hour)'
	@echo 'make series                   the four series as they are mailed: out/series'
	@echo 'make rebase-check KERNEL=...  which of patches/ don'\''t apply to another tree'
	@echo 'make kernel [CONFIG=debug]    only build the kernel: out/build-demo, out/build-debug'
	@echo '                              (4 to 7 minutes the first time)'
	@echo 'make tree                     only the source, with our changes: out/linux'
	@echo 'make clean                    remove what was built, keep out/linux'
	@echo 'make distclean                remove all of out/'
	@echo
	@echo 'KERNEL=/path/to/linux         use this Linux source, not Debian'\''s: any target but check-bare'
	@echo 'QEMU=/path/to/qemu            use this QEMU, not Debian'\''s: any target but check-bare'

install:
	@scripts/install.sh
	@scripts/qemu.sh

tree: install
	@scripts/tree.sh

kernel: install
	@scripts/kernel.sh

demo: kernel
	@python3 scripts/demo.py --config $(or $(CONFIG),demo)

check: install
	@scripts/check.sh

check-all: install
	@scripts/check.sh --all

check-bare:
	@scripts/bare.sh

check-the-checks: install
	@scripts/check-the-checks.sh

coverage: install
	@scripts/coverage.sh

bench: install
	@for config in plain demo; do CONFIG=$$config scripts/kernel.sh || exit; done
	@scripts/bench.py

lint: install
	@scripts/lint.sh

check-bisect: install
	@scripts/install.sh clang-19
	@scripts/bisect.sh

rebase-check: install
	@scripts/rebase.sh

series: install
	@scripts/series.sh

clean:
	@[ ! -d out ] || find out -mindepth 1 -maxdepth 1 ! -name 'linux*' -exec rm -rf {} +

distclean:
	@rm -rf out

.PHONY: help install tree kernel demo check check-all check-bare check-the-checks coverage bench lint \
	check-bisect series rebase-check clean distclean
