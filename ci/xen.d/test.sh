#!/usr/bin/env bash
# ci/xen test [c|rust] [NAME...]: boots once, runs the tests (ci/xen.d/tests; all, or those whose name contains a NAME), prints
# a line for each and "N passed, N failed" at the end. A test that did not end counts as failed.
# A test with a line "# c-defect: …" shows a defect that Xen's own C has: there it is expected to fail and printed as such.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/qemu.sh"

flavour=c
case ${1:-} in c | rust) flavour=$1; shift ;; esac
"$here/build.sh" "$flavour"
"$here/image.sh"

test=$(mktemp -d)
trap 'rm -rf "$test"' EXIT
header() { sed -n "s/^# $2: //p" "$here/tests/$1.sh" | head -n 1; }
wanted() {
    local name=$1 part; shift
    [ $# -gt 0 ] || return 0
    for part in "$@"; do case $name in *"$part"*) return 0 ;; esac; done
    return 1
}
names=() limit=60
for file in "$here"/tests/*.sh; do
    name=$(basename "$file" .sh)
    wanted "$name" "$@" || continue
    names+=("$name")
    deadline=$(header "$name" deadline)
    limit=$((limit + ${deadline:-60} + 15))
    printf '%s %s\n' "$name" "${deadline:-60}" >>"$test/names"
    cp "$file" "$test/"
done
[ ${#names[@]} -gt 0 ] || die "no test is called like '$*' (see $here/tests)"
cp "$here/dom0/lib.sh" "$here"/tests/memops.* "$test/"
echo "$flavour" >"$test/flavour"
cp "$here/dom0/run-tests" "$test/run"

log=$(new_run "test-$flavour")
say "${#names[@]} tests on the $flavour hypervisor (log: $log)"
passed=0 failed=0 known=0 current='' reason='' notes=()
declare -A seen=()

result() {
    local name=$1 status=$2 took=$3 defect=''
    [ "$flavour" != c ] || defect=$(header "$name" c-defect)
    seen[$name]=1
    if [ "$status" = 0 ] && [ -n "$defect" ]; then
        failed=$((failed + 1)); echo "FAILED  $name ($took s): passes although C is known to fail ($defect): correct the mark"
    elif [ "$status" = 0 ]; then
        passed=$((passed + 1)); echo "ok      $name ($took s)"
    elif [ -n "$defect" ]; then
        known=$((known + 1)); echo "defect  $name ($took s): known in C, $defect: $reason"
    else
        failed=$((failed + 1)); echo "FAILED  $name ($took s): ${reason:-exit status $status}"
    fi
    [ ${#notes[@]} -eq 0 ] || printf '          %s\n' "${notes[@]}"
}
on_line() {
    local rest
    case $1 in
        *@@start\ *@@*) current=${1##*@@start }; current=${current%%@@*} reason='' notes=() ;;
        *@@result\ *@@*)
            rest=${1##*@@result }
            # shellcheck disable=SC2086
            result ${rest%%@@*}
            current='' ;;
        "reason: "*) [ -n "$reason" ] || reason=${1#reason: } ;;
        "note: "*) notes+=("${1#note: }") ;;
        *"Panic on CPU"*) reason="Xen panicked" ;;
    esac
}
status=0
qemu_boot "$flavour" "$test" "$log" "${XEN_TIMEOUT:-$limit}" on_line || status=$?
case $status in
    124) : "${reason:=no end after ${XEN_TIMEOUT:-$limit} s}" ;;
    125) : "${reason:=Xen, dom0 or QEMU died}" ;;
esac
for name in "${names[@]}"; do
    [ -z "${seen[$name]:-}" ] || continue
    if [ "$name" = "$current" ]; then result "$name" "$status" '?'; continue; fi
    failed=$((failed + 1))
    echo "FAILED  $name: did not run"
done
[ "$known" = 0 ] || echo "$known known defects of C shown"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] || { say "the whole console: $log"; exit 1; }
