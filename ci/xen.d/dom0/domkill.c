/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* domkill DOMID: destroys a domain that xl does not know or destroy. */
#include <stdlib.h>
#include <xenctrl.h>

int main(int argc, char **argv)
{
    xc_interface *xch = xc_interface_open(NULL, NULL, 0);
    return argc != 2 || !xch || xc_domain_destroy(xch, strtoul(argv[1], NULL, 10));
}
