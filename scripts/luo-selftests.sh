#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the Live Update Orchestrator's own selftests that kexec, from
# tools/testing/selftests/liveupdate, on our debug kernel. Does what the vmtest.sh
# there does, which insists on building a kernel of its own.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

tests=(luo_kexec_simple luo_multi_session)
limit=300	# seconds, for two boots of a KASAN kernel without KVM
# KHO makes its scratch areas twice what is in use at boot; with KASAN's shadow among
# that they don't fit. The first must have room for the next kernel's shadow.
scratch=kho_scratch=300M,0M,50M
selftest=$out/linux/tools/testing/selftests/liveupdate
build=$out/build-debug
work=$out/luo-selftests
kernel=$build/arch/x86/boot/bzImage

# compile OUTPUT SOURCES...: against nolibc and our kernel's headers
compile()
{
	gcc -static -O2 -nostdinc -nostdlib -fno-stack-protector \
		-I "$build/usr-headers/include" -I "$out/linux/tools/include/nolibc" \
		-I "$selftest/lib/include" -o "$@"
}

# The kernel and initrd to kexec into are files in the first initrd
make_initrd()
{
	local dir=$1

	cat >"$dir/inner.list" <<-EOF
		dir /dev 0755 0 0
		dir /proc 0755 0 0
		dir /debugfs 0755 0 0
		nod /dev/console 0600 0 0 c 5 1
		file /init $work/init 0755 0 0
		file /test_binary $dir/test_binary 0755 0 0
	EOF
	cat "$dir/inner.list" - >"$dir/outer.list" <<-EOF
		file /kernel $kernel 0644 0 0
		file /initrd.img $dir/inner.cpio 0644 0 0
	EOF
	"$build/usr/gen_init_cpio" "$dir/inner.list" >"$dir/inner.cpio"
	"$build/usr/gen_init_cpio" "$dir/outer.list" >"$dir/outer.cpio"
}

run_test()
{
	local name=$1 dir=$work/$1
	local serial=$dir/serial.log

	mkdir "$dir"
	compile "$dir/test_binary" "$selftest/$name.c" "$selftest/lib/lu_utils.c" || return
	make_initrd "$dir" || return
	timeout --foreground $limit qemu-system-x86_64 -m 1G -smp 2 -no-reboot -nographic -nodefaults \
		-accel tcg,thread=single -serial file:"$serial" \
		-kernel "$kernel" -initrd "$dir/outer.cpio" \
		-append "console=ttyS0 liveupdate=on panic=-1 nohz=off highres=off $scratch" ||
		{ echo "# QEMU failed, or took longer than $limit s"; return 1; }
	grep -q "TEST PASSED" "$serial" || { echo "# no TEST PASSED"; return 1; }
	! grep -E 'WARNING:|BUG:|BUG at|KASAN|possible recursive|lockdep|Oops|UBSAN|Call Trace' \
		"$serial" | grep -v 'RCU lockdep checking is enabled' | sed -u 's/^/# /' | grep .
}

CONFIG=debug "$top/scripts/kernel.sh" | sed -u 's/^/# /'
lock "$work"
rm -rf "$work"
mkdir "$work"
compile "$work/init" "$selftest/init.c"
echo "1..${#tests[@]}"
failed=0
for i in "${!tests[@]}"; do
	if run_test "${tests[$i]}"; then
		echo "ok $((i + 1)) - ${tests[$i]}"
	else
		echo "not ok $((i + 1)) - ${tests[$i]} # see out/luo-selftests/${tests[$i]}"
		failed=1
	fi
done
exit $failed
