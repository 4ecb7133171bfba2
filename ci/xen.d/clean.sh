#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# ci/xen clean: removes builds, images and logs; keeps downloads.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lock_cache
rm -rf "$cache/build" "$cache/images" "$cache/runs" "$cache"/build-*.log
say "removed builds, images and logs from $cache"
