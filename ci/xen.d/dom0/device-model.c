/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * device-model DOMID GFN COUNT: stands in for a device model that keeps guest
 * frames mapped, as qemu-traditional does. It takes commands in the same way:
 * it watches the node and removes the command. At "flush-cache" it unmaps every
 * frame. It prints a line at the start. For each flush it prints how many
 * frames were mapped and how many pages of the domain were out.
 */
#define XC_WANT_COMPAT_MAP_FOREIGN_API
#include <err.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xenctrl.h>
#include <xenstore.h>

static uint64_t pages_out(xc_interface *xch, uint32_t domid)
{
    xc_domaininfo_t info;

    if (xc_domain_getinfolist(xch, domid, 1, &info) != 1 || info.domain != domid)
        errx(1, "domain %u is gone", domid);
    return info.paged_pages;
}

int main(int argc, char **argv)
{
    xc_interface *xch = xc_interface_open(NULL, NULL, 0);
    struct xs_handle *store = xs_open(0);
    char command_path[64], state_path[64];
    unsigned int fields, length;

    if (argc != 4 || !xch || !store)
        errx(2, "not three arguments, or no Xen, or no xenstore");
    uint32_t domid = strtoul(argv[1], NULL, 0);
    unsigned long first = strtoul(argv[2], NULL, 0), count = strtoul(argv[3], NULL, 0);
    xen_pfn_t *gfns = calloc(count, sizeof(*gfns));
    for (unsigned long n = 0; n < count; n++)
        gfns[n] = first + n;
    void *frames = xc_map_foreign_pages(xch, domid, PROT_READ | PROT_WRITE, gfns, count);
    if (!frames)
        err(1, "cannot map %lu frames from %#lx on", count, first);

    snprintf(command_path, sizeof(command_path), "/local/domain/0/device-model/%u/command", domid);
    snprintf(state_path, sizeof(state_path), "/local/domain/0/device-model/%u/state", domid);
    if (!xs_watch(store, command_path, "dm-command") || !xs_write(store, XBT_NULL, state_path, "running", 7))
        err(1, "cannot use xenstore");
    printf("%lu frames mapped\n", count);
    fflush(stdout);
    for (;;) {
        free(xs_read_watch(store, &fields));
        char *command = xs_read(store, XBT_NULL, command_path, &length);
        if (!command)
            continue;
        xs_rm(store, XBT_NULL, command_path);
        if (!strcmp(command, "flush-cache")) {
            printf("flush-cache with %lu frames mapped, %" PRIu64 " pages out\n", frames ? count : 0, pages_out(xch, domid));
            fflush(stdout);
            if (frames)
                munmap(frames, count << XC_PAGE_SHIFT);
            frames = NULL;
        }
        free(command);
    }
}
