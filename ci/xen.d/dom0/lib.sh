# Helpers for test scripts inside dom0 (busybox sh).
