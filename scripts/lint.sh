#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the kernel's own checkers and Debian's say about the series, our files and these
# scripts. A finding of checkpatch may stay if the commit message names its type, and
# says why. With --no-build, the compiler and sparse aren't asked.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

series=$out/lint/series
selftest=$top/tools/testing/selftests/pci_liveupdate

# Somebody has to sign off what nobody mails
export GIT_AUTHOR_NAME=lint GIT_AUTHOR_EMAIL=lint@example.com
export GIT_COMMITTER_NAME=lint GIT_COMMITTER_EMAIL=lint@example.com

# Files that are in no kernel tree
tooling()
{
	cd "$top"
	find .ci Makefile README.md patches/cover-* scripts -type f ! -name '*.pyc'
}

sources()
{
	our_files | grep '\.[ch]$'
}

checkpatch()
{
	cd "$linux"
	# shellcheck disable=SC2016 # for the shell that xargs starts
	find "$series" -name '*.patch' ! -name '0000-*' | sort |
		xargs -P "$(nproc)" -n 1 bash -c '
			types=$(sed "/^---$/,\$d" "$0" | grep -oE "\b[A-Z]+(_[A-Z]+)+\b" | paste -sd ,)
			said=$(perl scripts/checkpatch.pl --strict --terse --no-summary --show-types \
				${types:+--ignore "$types"} "$0") || { echo "$said"; exit 1; }'
}

kernel_doc()
{
	cd "$linux"
	sources | xargs tools/docs/kernel-doc -none -Wall -Werror
}

# The words are names: "ser" is serialized data in all of Live Update, HDA a bus, AER
# Advanced Error Reporting
spelling()
{
	local names=(--ignore-words-list "ser,hda,aer") failed=0

	cd "$top"
	{ our_files; tooling; } | xargs codespell "${names[@]}" || failed=1
	# The context is others'
	awk 'FNR == 1 { ours = 1 } /^---$/ { ours = 0 } ours || /^\+/' patches/*.patch |
		codespell "${names[@]}" - || failed=1
	return $failed
}

shell()
{
	cd "$top"
	{ our_files; tooling; } | xargs grep -lE '^#! ?/bin/(ba|busybox )?sh' |
		xargs shellcheck --severity=warning --external-sources --source-path=SCRIPTDIR
}

python()
{
	cd "$top"
	{ our_files; tooling; } | grep '\.py$' | xargs flake8 --max-line-length=100
}

# Each of check-the-checks still breaks something
breakages()
{
	DRY=1 "$top/scripts/check-the-checks.sh"
}

# Each of our files belongs to our entry, which itself is in order
maintainers()
{
	local file entry sections failed=0

	# get_maintainer's self-test wants to see a kernel tree, and git
	cd "$series.git"
	touch COPYING CREDITS Kbuild Makefile README
	mkdir -p Documentation arch include drivers fs init ipc kernel lib scripts
	while read -r file; do
		sections=$(perl "$linux/scripts/get_maintainer.pl" --no-tree --no-git \
			--no-git-fallback --sections -f "$file")
		grep -qx 'PCI LIVE UPDATE' <<<"$sections" ||
			{ echo "MAINTAINERS: not in PCI LIVE UPDATE: $file"; failed=1; }
	done < <(our_files)
	entry=$(grep -nx 'PCI LIVE UPDATE' MAINTAINERS | cut -d: -f 1)
	perl "$linux/scripts/get_maintainer.pl" --self-test=sections,patterns \
		>"$out/lint/self-test" 2>&1 || { cat "$out/lint/self-test"; failed=1; }
	! awk -F: -v first="$entry" '$2 >= first && $2 < first + 20' "$out/lint/self-test" |
		grep . || failed=1
	rm -f "$out/lint/MAINTAINERS"
	perl "$linux/scripts/parse-maintainers.pl" --order --output="$out/lint/MAINTAINERS" || failed=1
	diff <(entry MAINTAINERS) <(entry "$out/lint/MAINTAINERS") || failed=1
	return $failed
}

# With its neighbours' names
entry()
{
	grep -E '^[A-Z].*:\s|^$' -v "$1" | grep -C 1 -x 'PCI LIVE UPDATE'
	sed -n '/^PCI LIVE UPDATE$/,/^$/p' "$1"
}

# The KUnit tests are part of what they test
compile()
{
	local dir=$out/build-lint objects

	mkdir -p "$dir"
	mapfile -t objects < <(our_files | grep -v /tests/ |
		sed -n 's,^\(drivers\|samples\)\(.*\)\.c$,\1\2.o,p')
	# A warning appears only when a file is compiled
	(cd "$dir" && rm -f "${objects[@]}")
	configure "$dir" "$selftest"/config{,.x86_64,.kunit,.debug}
	build "$dir" W=1 C=2 CF="$sparse_flags" "${objects[@]}"
	! { grep -i 'warning: ' "$dir/config.log"; findings "$dir"; } | grep .
}

# Our pages, with those that they link to: "make htmldocs SPHINXDIRS=..." would not
# find pages of other directories.
htmldocs()
{
	local docs=$out/lint/docs source=$out/lint/docs/Documentation

	rm -rf "$docs"
	mkdir -p "$source"
	# What Sphinx reads, and what our pages include
	ln -s "$linux"/{MAINTAINERS,samples,tools} "$docs"
	cd "$linux/Documentation"
	{
		our_files | sed -n 's,^Documentation/,,p'
		printf '%s\n' {core,userspace}-api/liveupdate.rst core-api/kho/{index,abi}.rst \
			admin-guide/mm/kho.rst mm/memfd_preservation.rst
	} | xargs cp --parents -t "$source"
	{
		printf '%s\n' 'Live update' =========== '' '.. toctree::' ''
		(cd "$source" && find . -name '*.rst' -printf '   %P\n' | sort)
	} >"$docs/index"
	mv "$docs/index" "$source/index.rst"
	cd "$linux"
	srctree=$linux sphinx-build -q -W --keep-going -b html -c Documentation \
		-D kerneldoc_srctree="$linux" -D version= -D release= "$source" "$docs/html"
}

# What the code may log has an explanation on one of our pages. Formats are cut at what
# is filled in.
messages()
{
	local text failed=0

	cd "$top"
	our_files | grep '^Documentation.*rst$' | xargs cat | tr -s '[:space:]' ' ' >"$out/lint/pages"
	{
		our_files | grep '^drivers.*\.c$' | grep -v /tests/ | xargs cat
		sed -n 's/^+//p' patches/*.patch
	} | perl -0777 -ne '
		while (/(?:\b(?:pci|pr)_(?:warn|err|info)|quiesce|abandon|table_err)\([^";]*"([^"]*)"/g) {
			push @texts, $1;
		}
		push @texts, $1 while /(?:return|why =)\s+"([^"]*)"/g;
		push @texts, $1 while /record_(?:error|insert)\([^;]*?"([^"]*)"/g;
		print map { "$_\n" } grep { length > 12 }
			map { split /\\n|%[-#0-9.]*(?:p[A-Za-z]*|l*[a-z])/ } @texts' >"$out/lint/messages"
	[ -s "$out/lint/messages" ] || return 1
	while read -r text; do
		grep -qF -- "$text" "$out/lint/pages" ||
			{ echo "not in Documentation: $text"; failed=1; }
	done <"$out/lint/messages"
	return $failed
}

n=0
failed=0

run()
{
	local result=ok start=$SECONDS

	"$2" 2>&1 | sed -u 's/^/# /' || { result="not ok"; failed=1; }
	n=$((n + 1))
	echo "$result $n - $1, $((SECONDS - start)) s"
}

mkdir -p "$out/lint"
lock "$out/lint"
rm -rf "$series"
"$top/scripts/tree.sh" | sed -u 's/^/# /'
"$top/scripts/series.sh" "$series" | sed -u 's/^/# /'
if [ "${1:-}" = --no-build ]; then
	echo 1..9
else
	echo 1..10
	run "gcc W=1, sparse" compile
fi
run "checkpatch.pl --strict" checkpatch
run "kernel-doc -Wall" kernel_doc
run "MAINTAINERS" maintainers
run "sphinx" htmldocs
run "messages are documented" messages
run "codespell" spelling
run "shellcheck" shell
run "flake8" python
run "breakages" breakages
exit $failed
