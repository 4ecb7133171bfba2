// SPDX-License-Identifier: GPL-2.0-only
//! Output for people: the console, and the message of a panic.

use core::fmt::{self, Write};

use crate::shim;

/// Xen's console. Each `write!` to it should be a line: Xen may put lines of others in between.
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let len = u32::try_from(s.len()).unwrap_or(u32::MAX);
        // SAFETY: `len` bytes that stay valid during the call.
        unsafe { shim::xen_shim_print(s.as_ptr(), len) };
        Ok(())
    }
}

/// A broken invariant. Xen's locks may be held, so there is no way back to the caller: the host
/// stops. The place is printed first, then Xen's own register and stack dump.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "memory paging: {info}");
    // SAFETY: does not return.
    unsafe { shim::xen_shim_panic() }
}
