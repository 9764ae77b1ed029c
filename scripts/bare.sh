#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# "make demo" and "make check" as on a machine that is new: in a Debian minbase with git and
# make and nothing else, in a clone of what is committed here. What was downloaded and
# compiled before is found again. All mounts and processes are in namespaces of their own,
# and go with them. Its last line is that of "make check"; if that fails, its logs are kept.
#
#   SUITE=bookworm, trixie, ...	the Debian; bookworm if it isn't said

set -euo pipefail
. "$(dirname "$0")/lib.sh"

suite=${SUITE:-bookworm}
debs=$cache/debs-$suite
root=$out/bare-$suite
log=$out/bare-$suite.log
logs=$out/bare-$suite.logs
clone=$root/root/pci-liveupdate

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
	git clone -q "$top" "$clone"
}

clean_up()	# STATUS
{
	if [ "$1" != 0 ] && [ -d "$clone/out" ]; then
		rm -rf "$logs"
		mkdir "$logs"
		find "$clone/out" -mindepth 1 -maxdepth 1 \( -name '*.log' -o -name demo -o -name selftests \) \
			-exec mv -t "$logs" {} +
		echo "bare: what is named in out/ is in $logs" >&2
	fi
	rm -rf --one-file-system "$root"
}

if [ "${1:-}" = --inside ]; then	# the namespaces
	new_root
	inside
fi
[ "$(id -u)" = 0 ] || die "only root can make a Debian in a folder"
[ -z "${KERNEL:-}${QEMU:-}" ] || die "it takes Debian's kernel and QEMU, not KERNEL= and QEMU="
"$top/scripts/install.sh" debootstrap git
[ -z "$(git -C "$top" status --porcelain)" ] || say "uncommitted changes aren't tested: see git status"
lock "$root"
trap 'clean_up $?' EXIT
# Nothing but SIGKILL ends a namespace's first process, or unshare while it waits for that
trap 'kill -KILL ${unshare:-} 2>/dev/null; wait; exit 1' INT TERM HUP
rm -rf --one-file-system "$root"
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$0" --inside &
unshare=$!
wait "$unshare"
