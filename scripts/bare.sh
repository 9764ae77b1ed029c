#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# "make demo" and "make check" as on a machine that is new: in a Debian minbase with git and
# make and nothing else, in a clone of what is committed here. What was downloaded and
# compiled before is found again. All mounts and processes are in namespaces of their own,
# and go with them. Its last line is that of "make check".
#
#   SUITE=bookworm, trixie, ...	the Debian; bookworm if it isn't said

set -euo pipefail
. "$(dirname "$0")/lib.sh"

suite=${SUITE:-bookworm}
debs=$cache/debs-$suite
root=$out/bare-$suite
log=$out/bare-$suite.log

# In the namespaces
inside()
{
	local dir

	mount -t proc proc "$root/proc"
	for dir in dev sys; do
		mount --rbind "/$dir" "$root/$dir"
	done
	mkdir -p "$root/root/.cache/pci-liveupdate"
	mount --bind "$cache" "$root/root/.cache/pci-liveupdate"
	mount --bind "$debs" "$root/var/cache/apt/archives"
	# shellcheck disable=SC2016 # it's for the shell in there
	exec chroot "$root" env -i HOME=/root TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		${CI:+CI="$CI"} ${http_proxy:+http_proxy="$http_proxy"} \
		sh -c 'cd ~/pci-liveupdate && make demo && exec make check'
}

new_root()
{
	local mirror

	mirror=$(debian_sources "$suite" | sed -n '1s/.*] \([^ ]*\) .*/\1/p')
	[ -n "$mirror" ] || die "apt's sources name no Debian mirror to have $suite from"
	mkdir -p "$debs/partial"
	say "a new $suite in $root"
	debootstrap --variant=minbase --include=git,make --cache-dir="$debs" \
		"$suite" "$root" "$mirror" >"$log" 2>&1 ||
		die "debootstrap can't make a $suite:" "$(tail -n 1 "$log")" "all of it: $log"
	cp /etc/resolv.conf "$root/etc/"
	git clone -q "$top" "$root/root/pci-liveupdate"
}

if [ "${1:-}" = --inside ]; then
	inside
fi
[ "$(id -u)" = 0 ] || die "only root can make a Debian in a folder"
[ -z "$(git -C "$top" status --porcelain)" ] || say "not tested, as not committed: see git status"
lock "$root"
trap 'rm -rf "$root"' EXIT
for signal in INT TERM HUP; do
	# The namespaces' first process goes with unshare
	trap 'kill "${unshare:-$$}" 2>/dev/null; wait; exit 1' $signal
done
rm -rf "$root"
new_root
unshare --mount --pid --fork --kill-child "$0" --inside &
unshare=$!
wait "$unshare"
