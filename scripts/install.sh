#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Install the Debian packages that the build and the tests need, or only those that are
# named: each brings a command of its name. Where nothing is missing it asks neither apt nor
# root.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

# What must be there, and the package that brings it: a command, a file, a library to link
# with, or a module of Perl, Python or the Python that Sphinx has, however it came here. What
# Debian's Essential packages have isn't named.
needs="
gcc			gcc
objdump			binutils
/usr/include/stdio.h	libc6-dev
lib:libc.a		libc6-dev
/usr/include/linux/if.h	linux-libc-dev
make			make
flex			flex
bison			bison
m4			m4
bc			bc
perl			perl
perl:Encode		perl
perl:Term::ANSIColor	perl
python3			python3
python3:ctypes		python3
python3:unittest	python3
/usr/include/gelf.h	libelf-dev
/usr/include/uuid/uuid.h	uuid-dev
ccache			ccache
quilt			quilt
patch			patch
rsync			rsync
xz			xz-utils
flock			util-linux
git			git
gnuplot			gnuplot-nox
/bin/busybox		busybox-static
sparse			sparse
codespell		codespell
shellcheck		shellcheck
flake8			flake8
sphinx-build		python3-sphinx
sphinx:yaml		python3-yaml
dot			graphviz
"
[ $# = 0 ] || needs=
for package; do
	needs+="$package $package"$'\n'
done
log=$out/install.log

there()		# NEED
{
	case $1 in
	perl:*)	perl -M"${1#*:}" -e 1 ;;
	python3:*) python3 -c "import ${1#*:}" ;;
	sphinx:*) $(sed -n '1s/^#!//p' "$(command -v sphinx-build)") -c "import ${1#*:}" ;;
	lib:*)	[ -e "$(gcc -print-file-name="${1#*:}")" ] ;;
	/*)	[ -e "$1" ] ;;
	*)	command -v "$1" ;;
	esac >/dev/null 2>&1
}

missing()
{
	local need package

	while read -r need package; do
		[ -z "$need" ] || there "$need" || echo "$package"
	done <<<"$needs" | sort -u
	# The package busybox isn't static
	! grep -qs /ld-linux /bin/busybox || [[ $needs != *busybox* ]] || echo busybox-static
}

apt()
{
	# The braces hold the pipe open
	{ DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
		--no-install-recommends --no-remove "$@" >>"$log" 2>&1 </dev/null
	} | alive installing ||
		die "can't install $packages:" "$(apt_error "$log")" "all of it: $log"
}

packages=$(missing | paste -sd ' ')
[ -n "$packages" ] || exit 0
command -v apt-get >/dev/null ||
	die "these Debian packages, or what they are called here, are missing: $packages"
[ "$(id -u)" = 0 ] ||
	die "missing, and only root can install it: apt-get install --no-install-recommends $packages"

lock "$cache/install"
packages=$(missing | paste -sd ' ')
[ -n "$packages" ] || exit 0	# somebody else was faster
say "installing: $packages"
: >"$log"
apt update
# shellcheck disable=SC2086 # several words
apt install $packages
packages=$(missing | paste -sd ' ')
[ -z "$packages" ] || die "installed, but still missing what these should bring: $packages"
