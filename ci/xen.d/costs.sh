#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen costs: instructions per paging operation, Rust beside C, counted by QEMU. The count is
# deterministic: one CPU of the host runs both of the machine's CPUs in turn, and its clock is the
# number of instructions. Fails if Rust needs more than 1.10 times as many instructions on the way
# out, or more than 1.05 times as many on the way in (docs/performance.md gives the reasons).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/machine.sh"

export XEN_TCG_THREADS=single XEN_QEMU_EXTRA="-icount shift=0,sleep=off"
costs=()
take_cost() { case $1 in "cost: "*) costs+=("$flavour ${1#cost: }") ;; "reason: "*) say "$1" ;; esac; }
for flavour in c rust; do
    make_machine
    echo costs >"$test/run"
    log=$(new_run "costs-$flavour")
    say "counting in hypervisor $flavour (log: $log)"
    status=0
    boot_machine "$flavour" "$test" "$log" 400 take_cost || status=$?
    [ "$status" = 0 ] || die "the count ended with $status: see $log"
    rm -rf "$test"
done
printf '%s\n' "${costs[@]}" | awk '
    { if (!($2 in seen)) order[++n] = $2; seen[$2]; count[$1, $2] = $3 }
    END {
        printf("%-26s %8s %8s %8s\n", "instructions per page", "C", "Rust", "Rust/C")
        for (i = 1; i <= n; i++) {
            name = order[i]; ratio = count["rust", name] / count["c", name]
            bar = name ~ /^out:/ ? 1.10 : name ~ /^in:/ ? 1.05 : 0
            gsub(/_/, " ", name)
            printf("%-26s %8d %8d %8.3f%s\n", name, count["c", order[i]], count["rust", order[i]], ratio, (bar && ratio > bar) ? sprintf("  more than %.2f", bar) : "")
            if (bar) { if (ratio > bar) failed++; else passed++ }
        }
        printf "%d passed, %d failed\n", passed, failed
        exit failed > 0
    }'
