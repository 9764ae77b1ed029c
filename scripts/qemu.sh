#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make out/qemu, the QEMU that everything here runs.
#
#   QEMU=/path	this one; else Debian's newest
#
# Debian's is unpacked in the user's cache directory with all libraries that it needs, and
# started by its own loader: it meets no other version's files, and nothing is installed.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

# The first with the igb NIC is 8.1
min=8.1
# The most stable ones first
releases=("trixie-backports trixie" sid)
log=$cache/qemu.log

version()	# QEMU
{
	"$1" --version 2>/dev/null | sed -n 's/.* version \([0-9.]*\).*/\1/p'
}

good()		# QEMU
{
	[ "$(printf '%s\n' "$min" "$(version "$1")" | sort -V | head -n 1)" = "$min" ]
}

newest()
{
	local qemu

	qemu=$(find "$cache" -maxdepth 1 -name 'qemu-[0-9]*' ! -name '*.tmp' | sort -V | tail -n 1)
	[ -z "$qemu" ] || ! good "$qemu/qemu" || echo "$qemu"
}

# Its folder may be mounted elsewhere, too
wrapper()
{
	cat <<-'END'
	#!/bin/sh
	root=$(dirname "$(realpath "$0")")
	libraries=$root/usr/lib/x86_64-linux-gnu
	export QEMU_MODULE_DIR="$libraries/qemu"
	exec "$root/usr/lib64/ld-linux-x86-64.so.2" \
		--library-path "$libraries:$libraries/pulseaudio" \
		"$root/usr/bin/qemu-system-x86_64" \
		-L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
	END
}

# A machine with a NIC needs the libraries, the BIOS and a ROM
starts()	# QEMU
{
	echo quit | "$1" -nodefaults -display none -machine q35 -device e1000e -S -monitor stdio
}

# unpack DIR: what apt has downloaded there becomes $cache/qemu-VERSION
unpack()
{
	local deb root name

	name=$(find "$1" -name 'qemu-system-x86_*.deb' -printf '%f\n' | sed 's/[^_]*_//; s/%3a/:/; s/_.*//; s/.*://')
	root=$cache/qemu-$name
	rm -rf "$root.tmp"
	mkdir -p "$root.tmp"/usr/{bin,sbin,lib,lib64}
	# As in a Debian that is installed; older packages don't know it yet
	ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root.tmp"
	for deb in "$1"/*.deb; do
		dpkg-deb -x "$deb" "$root.tmp" || return
	done
	wrapper >"$root.tmp/qemu"
	chmod +x "$root.tmp/qemu"
	starts "$root.tmp/qemu" || return
	rm -rf "$root"
	mv "$root.tmp" "$root"
}

fetch()
{
	local dir=$cache/fetch-qemu suites status

	command -v apt-get >/dev/null ||
		die "there is no apt-get to fetch QEMU with: name one with make QEMU=/path"
	: >"$log"
	for suites in "${releases[@]}"; do
		say "fetching QEMU from Debian ${suites%% *} (some 60 MB)"
		# shellcheck disable=SC2086 # several words
		private_apt "$dir" $suites
		status=0
		apt-get "${apt[@]}" -y -t "${suites%% *}" --no-install-recommends --download-only \
			install qemu-system-x86 \
			>>"$dir/log" 2>&1 && unpack "$dir/cache/archives" >>"$dir/log" 2>&1 || status=$?
		cat "$dir/log" >>"$log"
		rm -rf "$dir"
		[ $status != 0 ] || return 0
	done
	die "no QEMU: the Debian mirror in apt's sources has none that runs in: ${releases[*]%% *}." \
	    "$(apt_error "$log")" "Name one with make QEMU=/path; all of it: $log"
}

if [ -n "${QEMU:-}" ]; then
	good "$QEMU" || die "QEMU=$QEMU isn't a QEMU of version $min or newer"
	ln -sfn "$(realpath "$(command -v "$QEMU")")" "$out/qemu"
	exit
fi
qemu=$(newest)
if [ -z "$qemu" ]; then
	(
		lock "$cache/qemu"
		[ -n "$(newest)" ] || fetch | alive fetching	# or somebody else was faster
	)
	qemu=$(newest)
fi
ln -sfn "$qemu/qemu" "$out/qemu"
