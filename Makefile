# SPDX-License-Identifier: GPL-2.0
#
# The front door. Each target is a script below scripts/, which says more.

# To the scripts, wherever they were given
export CONFIG KERNEL

help:
	@echo 'make demo                     replace the kernel under a running NIC, in QEMU'
	@echo 'make check                    all tests'
	@echo 'make coverage                 lines of ours that the tests reach'
	@echo 'make kernel [CONFIG=debug]    only build the kernel: out/build-demo, out/build-debug'
	@echo 'make tree                     only the source, with our changes: out/linux'
	@echo 'make clean                    remove what was built, keep out/linux'
	@echo 'make distclean                remove all of out/'
	@echo
	@echo 'KERNEL=/path/to/linux         any target: use this Linux source, not Debian'\''s'

install:
	@scripts/install.sh

tree: install
	@scripts/tree.sh

kernel: install
	@scripts/kernel.sh

demo: kernel
	@python3 scripts/demo.py --config $(or $(CONFIG),demo)

check: install
	@scripts/check.sh

coverage: install
	@scripts/coverage.sh

clean:
	@[ ! -d out ] || find out -mindepth 1 -maxdepth 1 ! -name 'linux*' -exec rm -rf {} +

distclean:
	@rm -rf out

.PHONY: help install tree kernel demo check coverage clean distclean
