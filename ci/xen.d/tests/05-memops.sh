# Every paging operation on a page in every state, and every refusal of enabling: errno, page counts and requests as in the
# table of the C hypervisor (memops.table), but for the cases where Rust is meant to differ (memops.rust says why).
# deadline: 120
memops >/tmp/memops.out || { tail -n 2 /tmp/memops.out; bad "memops stopped"; }
# An override replaces the line of the same case; comments explain it.
override=/dev/null
[ "$(cat /test/flavour)" != rust ] || override=/test/memops.rust
grep -v '^#' "$override" | awk -F' = ' 'FILENAME == "-" { other[$1] = $0; next } { print ($1 in other) ? other[$1] : $0 }' - /test/memops.table >/tmp/memops.wanted
diff -U 0 /tmp/memops.wanted /tmp/memops.out | grep '^[-+][^-+]' >/tmp/memops.diff && {
    cat /tmp/memops.diff
    bad "$(grep -c '^+' /tmp/memops.diff) of $(wc -l </tmp/memops.out) cases differ (-: wanted, +: got): $(head -n 4 /tmp/memops.diff | tr '\n' ';')"
}
echo "note: $(wc -l </tmp/memops.out) cases as in the table"
