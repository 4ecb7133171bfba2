// SPDX-License-Identifier: MIT OR Apache-2.0
//! The format of the packets. A call is `[op, arguments…]`, its reply is `[errno or 0, results…]`.
//! A notice is `[kind, argument]` and has no reply.

use pager_shell::MachineEvent;
use pager_shell::socket::PACKET_WORDS;

/// The version of the protocol. Both sides must have the same: [`Op::Info`] checks it.
pub const PROTOCOL: u64 = 4;
/// The most pages of a batch.
pub const MAX_BATCH: usize = 1024;

// An op, and a prep (frame and buffer) for each page of a batch.
const _: () = assert!(1 + 2 * MAX_BATCH == PACKET_WORDS);

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum $name { $($(#[$variant_doc])* $variant = $number,)* }

        impl $name {
            /// The call with this number.
            pub const fn try_from_raw(raw: u64) -> Option<Self> {
                match raw { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

numbered! {
    /// The calls of a pager. Batches return one errno (or 0) for each page.
    Op {
        /// `[pages of buffers]` with the buffers' memory → `[]` with guest memory, shared pages,
        /// events, doorbell, and a socket for notices.
        Attach = 1,
        /// `[]` → `[]`: takes over if the pager before this one died.
        Enable = 2,
        /// `[]` → `[]`
        Disable = 3,
        /// `[gfn…]`
        Nominate = 4,
        /// `[gfn…]`
        Evict = 5,
        /// `[gfn, buffer in bytes…]`
        Prep = 6,
        /// `[gfn…]`: has the hypervisor request a nominated page, so that it becomes resident.
        Restore = 7,
        /// `[gfn…]`: the caller uses the frame from here on. ENOENT: the page is out and has been
        /// requested; try again.
        Map = 8,
        /// `[gfn…]`
        Unmap = 9,
        /// `[PROTOCOL]` → `[max_pages, cpu + 1 or 0, pages that are out]`: the first call of every pager.
        Info = 10,
        /// `[gfn, words]` → `[bits…]`: reads and clears the accessed bits of 64 gfns for each word,
        /// from a multiple of 64 on. EOPNOTSUPP: this host cannot read them.
        AccessBits = 11,
        /// `[gfn, groups]` → `[out, nominated…]`: which of 64 gfns are out, and which are nominated, for
        /// each group, from a multiple of 64 on.
        PagingStates = 12,
        /// `[0 or 1]` → `[]`: pauses the guest, or crashes it.
        StopGuest = 13,
    }
}

/// A notice as a packet.
pub const fn event_words(event: MachineEvent) -> [u64; 2] {
    match event {
        MachineEvent::Target(pages) => [1, pages.cast_unsigned()],
        MachineEvent::Resident(pages) => [2, pages],
        MachineEvent::DomainGone => [3, 0],
        MachineEvent::Replaced => [4, 0],
        MachineEvent::Disabled => [5, 0],
    }
}

/// The notice in a packet, if the packet is one.
pub const fn parse_event(words: &[u64]) -> Option<MachineEvent> {
    match words {
        [1, pages] => Some(MachineEvent::Target(pages.cast_signed())),
        [2, pages] => Some(MachineEvent::Resident(*pages)),
        [3, _] => Some(MachineEvent::DomainGone),
        [4, _] => Some(MachineEvent::Replaced),
        [5, _] => Some(MachineEvent::Disabled),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_round_trip_and_garbage_is_none() {
        for event in [
            MachineEvent::Target(-5),
            MachineEvent::Resident(7),
            MachineEvent::DomainGone,
            MachineEvent::Replaced,
            MachineEvent::Disabled,
        ] {
            assert_eq!(parse_event(&event_words(event)), Some(event));
        }
        for garbage in [&[][..], &[1], &[9, 9], &[1, 2, 3]] {
            assert_eq!(parse_event(garbage), None);
        }
        assert_eq!(Op::try_from_raw(Op::Unmap as u64), Some(Op::Unmap));
        assert_eq!(Op::try_from_raw(0), None);
        assert_eq!(Op::try_from_raw(u64::MAX), None);
    }
}
