#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen matrix [ROUNDS|instructions]: two pagers (Debian's with its responses filled in, and ours)
# on two hypervisors, with the same guest, target and frames; the guest's pattern is checked. A
# round is a boot of each hypervisor with both pagers one after the other. Which hypervisor and
# which pager come first alternates. "instructions": one round, on a machine whose clock counts
# instructions. Prints a line for each cell, then a table of docs/xen-pager.md: for each figure the
# median over the rounds, the minimum and the maximum.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/machine.sh"

kind=time slow_us=100 rounds=${1:-1}
if [ "$rounds" = instructions ]; then
    # By this clock a fault takes less time than a resident page takes by the host's clock.
    kind=instructions slow_us=40 rounds=1
    export XEN_TCG_THREADS=single XEN_QEMU_EXTRA="-icount shift=0,sleep=off"
fi
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "how many rounds? '$rounds' is no number of them"
cells=$(mktemp)
test=$(mktemp -d)
trap 'rm -rf "$test" "$cells"' EXIT
for flavour in c rust; do "$here/build.sh" "$flavour"; done
"$here/image.sh"
cp "$here/dom0/lib.sh" "$test/"
cp "$here/dom0/matrix.sh" "$test/run"
echo $slow_us >"$test/slow_us"
failed=0

# measure FLAVOUR PAGER...
measure() {
    local flavour=$1 log; shift
    echo "$*" >"$test/pagers"
    log=$(new_run "matrix-$flavour")
    say "hypervisor $flavour (log: $log)"
    on_line() {
        case $1 in
            "cell "*) echo "$flavour ${1#cell }" | tee -a "$cells" ;;
            "reason: "* | *"Panic on CPU"* | *"domain_crash called"*) echo "hypervisor $flavour: $1" ;;
        esac
    }
    boot_machine "$flavour" "$test" "$log" "${XEN_TIMEOUT:-560}" on_line || { say "ended with $?: see $log"; failed=1; }
}

for ((round = 1; round <= rounds; round++)); do
    if ((round % 2)); then order=(c rust) pagers=(fixed rust); else order=(rust c) pagers=(rust fixed); fi
    for flavour in "${order[@]}"; do measure "$flavour" "${pagers[@]}"; done
done

awk -v kind=$kind '
    { for (i = 3; i < NF; i += 2) value[$1, $2, $i, ++count[$1, $2, $i]] = $(i + 1) }
    function figure(h, p, name,    n, i, j, x, v) {
        n = count[h, p, name]
        if (!n) return "-"
        for (i = 1; i <= n; i++) v[i] = value[h, p, name, i]
        for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] < v[j - 1]; j--) { x = v[j]; v[j] = v[j - 1]; v[j - 1] = x }
        return v[int((n + 1) / 2)] (v[1] != v[n] ? " (" v[1] "-" v[n] ")" : "")
    }
    function row(h, p,    r, i) {
        r = "| " label[h] " | " label[p] " |"
        for (i = 1; i <= n; i++) r = r " " figure(h, p, names[i]) " |"
        print r
    }
    function ratio(name) { return count["c", "fixed", name] ? figure("rust", "rust", name) / figure("c", "fixed", name) : "nan" }
    END {
        label["c"] = label["fixed"] = "C"; label["rust"] = "Rust"
        if (kind == "time") {
            n = split("out/s back/s faults/s fault_us p50_us p99_us calls peak_kib", names)
            print "| hypervisor | pager | out, pages/s | back, pages/s | faults/s | a fault, us | p50, us | p99, us | hypercalls + maps per page and way | peak memory of the pager, KiB |"
            print "|---|---|---|---|---|---|---|---|---|---|"
        } else {
            n = split("out_ns back_ns cycle_ns", names)
            print "| hypervisor | pager | instructions per page out | per page back | per fault and page out |"
            print "|---|---|---|---|---|"
        }
        row("c", "fixed"); row("c", "rust"); row("rust", "fixed"); row("rust", "rust")
        if (kind == "time")
            printf "Rust and Rust beside C and C: page-out %.1f times, a fault %.2f of the time (p50: %.2f)\n",
                ratio("out/s"), ratio("fault_us"), ratio("p50_us")
    }' "$cells"
exit "$failed"
