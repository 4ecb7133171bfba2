#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen table: prints the last result of every test, Xen's own code beside the crate, as the table
# of docs/xen.md. The results are those of QEMU (AMD's nested page tables) and, with the crate,
# those that there are of Bochs (Intel's EPT).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cell() {
    local file=$cache/results/$1/$2
    # Without the times at which a pager wrote its last line.
    if [ -e "$file" ]; then sed -E 's/[-0-9]{10}T[:.0-9]+Z +INFO //g; s/\|/\\|/g' "$file"; else echo "${3:-not run}"; fi
}
# The comment at a test's head, up to the first mark.
about() { sed -n '/^# SPDX/d; /^# [a-z-]*: /q; /^[^#]/q; s/^# //p' "$here/tests/$1.sh" | tr '\n' ' '; }

echo "| test | what it shows | Xen's C | the crate | the crate on EPT |"
echo "|---|---|---|---|---|"
for file in "$here"/tests/*.sh; do
    name=$(basename "$file" .sh)
    echo "| $name | $(about "$name") | $(cell c "$name") | $(cell rust "$name") | $(cell rust-bochs "$name" -) |"
done
