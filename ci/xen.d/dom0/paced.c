/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * paced DOMID from|to N SECONDS: waits until a domain has at least ("to") or at
 * most ("from") N pages out. Prints the time in ms (of a clock that runs since
 * boot) and how many are out. Exit code 1 if that did not happen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xenctrl.h>

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
    xc_interface *xch = xc_interface_open(NULL, NULL, 0);
    xc_domaininfo_t info;

    if (argc != 5 || !xch)
        return 2;
    uint32_t domid = strtoul(argv[1], NULL, 10);
    int down = !strcmp(argv[2], "from");
    unsigned long wanted = strtoul(argv[3], NULL, 10);
    long long end = now_ms() + 1000 * strtoul(argv[4], NULL, 10);
    for (;;) {
        if (xc_domain_getinfolist(xch, domid, 1, &info) != 1 || info.domain != domid)
            return 1;
        if (down ? info.paged_pages <= wanted : info.paged_pages >= wanted)
            break;
        if (now_ms() > end)
            return 1;
        usleep(1000);
    }
    printf("%lld %llu\n", now_ms(), (unsigned long long)info.paged_pages);
    return 0;
}
