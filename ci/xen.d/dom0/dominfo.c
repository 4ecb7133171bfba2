/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * dominfo DOMID: "tot_pages paged_pages max_pages flags" as Xen counts them.
 * dominfo all: the ids of all guests. dominfo host: the host's free pages.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenctrl.h>

int main(int argc, char **argv)
{
    xc_interface *xch = xc_interface_open(NULL, NULL, 0);
    xc_domaininfo_t info[64];
    int n;

    if (argc != 2 || !xch)
        return 2;
    if (!strcmp(argv[1], "all")) {
        n = xc_domain_getinfolist(xch, 1, 64, info);
        for (int i = 0; i < n; i++)
            printf("%u\n", info[i].domain);
        return n < 0;
    }
    if (!strcmp(argv[1], "host")) {
        xc_physinfo_t host = { 0 };

        n = xc_physinfo(xch, &host);
        printf("%" PRIu64 "\n", (uint64_t)host.free_pages);
        return n < 0;
    }
    uint32_t domid = strtoul(argv[1], NULL, 10);
    if (xc_domain_getinfolist(xch, domid, 1, info) != 1 || info[0].domain != domid)
        return 1;
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %#x\n", (uint64_t)info[0].tot_pages, (uint64_t)info[0].paged_pages,
           (uint64_t)info[0].max_pages, info[0].flags);
    return 0;
}
