#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen test [c|rust] [NAME...]: runs the tests (ci/xen.d/tests; all, or those whose name contains
# a NAME). Prints a line for each and "N passed, N failed" at the end. A test that did not end
# counts as failed.
# XEN_DEBUG=1: with the debug build of Xen, whose assertions are on; one that fails is printed.
# XEN_MACHINE=bochs: see test-ept.
#
# Lines in a test's head:
#   # deadline: SECONDS         in dom0, far above what the test takes: each wait needs progress
#                               (wait_while in dom0/lib.sh). The host allows a minute more before it
#                               stops the machine
#   # own-boot: WHY             with C in a machine of its own, because it may crash the hypervisor
#   # image: NAME               dom0 has this image, too
#   # memory: MIB               in a machine of its own, with that much memory (QEMU's)
#   # c-defect: WHAT            shows a defect of Xen's own C: there it must fail, and is printed so
#   # c-defect-sometimes: WHAT  may fail there (a race)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/machine.sh"

take_flavour "$@"
set -- ${rest[@]+"${rest[@]}"}
header() { sed -n "s/^# $2: //p" "$here/tests/$1.sh" | head -n 1; }
deadline_of() { local d; d=$(header "$1" deadline); printf '%s' "${d:-600}"; }
wanted() {
    local name=$1 part; shift
    [ $# -gt 0 ] || return 0
    for part in "$@"; do case $name in *"$part"*) return 0 ;; esac; done
    return 1
}

passed=0 failed=0 known=0 current='' reason='' crash='' notes=()
declare -A seen=()

# For `ci/xen table`: the last result of this test.
results=$cache/results/$flavour
[ "$machine" = qemu ] || results=$results-$machine
note_result() { mkdir -p "$results"; printf '%s\n' "$2" >"$results/$1"; }

# result NAME STATUS SECONDS: prints the result of a test and counts it.
result() {
    local name=$1 status=$2 took=$3 defect='' sometimes=''
    # The test's own message comes first: the test may crash a guest on purpose.
    : "${reason:=$crash}"
    [ "$flavour" != c ] || { defect=$(header "$name" c-defect); sometimes=$(header "$name" c-defect-sometimes); }
    seen[$name]=1
    if [ "$status" = 0 ]; then
        note_result "$name" "passes${XEN_DEBUG:+, assertions on}${notes[0]:+: $(printf '%s; ' "${notes[@]}" | sed 's/; $//')}"
    else
        note_result "$name" "${defect:+known defect: $defect; }${sometimes:+known defect, not always: $sometimes; }seen: ${reason:-exit status $status}"
    fi
    local said note
    if [ "$status" = 0 ] && [ -n "$defect" ]; then
        failed=$((failed + 1)); said="FAILED  $name ($took s): passes although C is known to fail ($defect): correct the mark"
    elif [ "$status" = 0 ]; then
        passed=$((passed + 1)); said="ok      $name ($took s)"
    elif [ -n "$defect$sometimes" ]; then
        known=$((known + 1)); said="defect  $name ($took s): known in C: $defect$sometimes"$'\n'"          seen: $reason"
    else
        failed=$((failed + 1)); said="FAILED  $name ($took s): ${reason:-exit status $status}"
    fi
    for note in ${notes[@]+"${notes[@]}"}; do said+=$'\n'"          $note"; done
    # In one write: tests of another machine may end at the same time.
    printf '%s\n' "$said"
}

on_line() {
    local rest
    case $1 in
        *@@start\ *@@*)
            current=${1##*@@start }; current=${current%%@@*} reason='' crash='' notes=()
            # dom0 keeps the deadline, unless it is dead.
            line_deadline=$((SECONDS + ($(deadline_of "$current") + 60) * slowness)) ;;
        *@@result\ *@@*)
            rest=${1##*@@result }
            # shellcheck disable=SC2086
            result ${rest%%@@*}
            current='' line_deadline=$((SECONDS + 90 * slowness)) ;;
        "reason: "*) [ -n "$reason" ] || reason=${1#reason: } ;;
        "note: "*) notes+=("${1#note: }") ;;
        *"domain_crash called from"*) [ -n "$crash" ] || crash="Xen crashed a guest (${1#*called from })" ;;
        *"Assertion '"*"' failed at "*) reason="Xen: Assertion ${1#*Assertion }" ;;
        *"Panic on CPU"*) case $reason in "Xen: Assertion"*) ;; *) reason="Xen panicked" ;; esac ;;
    esac
}

# Runs these tests on one machine, one after the other.
run_group() {
    local name limit=$((90 * slowness)) status=0 log began more
    rm -rf "${test:?}"/*
    for name in "$@"; do
        limit=$((limit + ($(deadline_of "$name") + 60) * slowness))
        printf '%s %s\n' "$name" "$(deadline_of "$name")" >>"$test/names"
        cp "$here/tests/$name.sh" "$test/"
    done
    cp "$here/dom0/lib.sh" "$here"/tests/*.table "$here"/tests/*.for-* "$test/"
    cp "$here/dom0/run-tests" "$test/run"
    echo "$flavour" >"$test/flavour"
    echo "$machine" >"$test/machine"
    echo "$slowness" >"$test/slowness"
    log=$(new_run "test-$flavour")
    say "$* (log: $log)"
    current='' reason='' crash='' began=$SECONDS
    more=$(for name in "$@"; do header "$name" image; done | sort -u)
    XEN_IMAGES=$more XEN_MEMORY_MIB=$(header "$1" memory) boot_machine "$flavour" "$test" "$log" "$limit" on_line || status=$?
    : "${reason:=$crash}"
    case $status in
        124) reason="${reason:+$reason, then }the host stood still" ;;
        125) : "${reason:=Xen, dom0 or the machine died}" ;;
    esac
    for name in "$@"; do
        [ -z "${seen[$name]:-}" ] || continue
        if [ "$name" = "$current" ]; then
            result "$name" "$status" $((SECONDS - began))
        else
            failed=$((failed + 1)); seen[$name]=1; echo "FAILED  $name: did not run: ${reason:-dom0 ended}"
        fi
    done
}

together=() alone=()
for file in "$here"/tests/*.sh; do
    name=$(basename "$file" .sh)
    wanted "$name" "$@" || continue
    if [ -n "$(header "$name" memory)" ] || { [ "$flavour" = c ] && [ -n "$(header "$name" own-boot)" ]; }; then alone+=("$name"); else together+=("$name"); fi
done
[ $((${#together[@]} + ${#alone[@]})) -gt 0 ] || die "no test is called like '$*' (see $here/tests)"
make_machine
[ ${#together[@]} -eq 0 ] || run_group "${together[@]}"
for name in ${alone[@]+"${alone[@]}"}; do run_group "$name"; done

[ "$known" = 0 ] || echo "$known known defects of C shown"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] || { say "the consoles are in $cache/runs"; exit 1; }
