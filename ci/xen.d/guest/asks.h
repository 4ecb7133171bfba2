/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Hypercalls whose arguments may be paged out: a thread, and how many it has
 * made.
 */
extern unsigned long asks;
void *ask(void *);
