// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pager locks all its memory, and all that it maps later. That must not allocate an index, which is
//! sparse. In a process of its own: nothing else is locked with it.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use p2m_paging::Gfn;
use pager_core::Location;
use pager_store::index::{GuestIdentity, Identity, Index, StoreIdentity, StoreKind};
use rustix::fs::MemfdFlags;
use rustix::mm::MlockAllFlags;
use uuid::Uuid;

#[test]
fn locked_memory_leaves_an_index_sparse() {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    if let Err(errno) = rustix::mm::mlockall(flags) {
        return eprintln!("nothing is shown: no right to lock memory ({errno})");
    }
    let file = File::from(rustix::fs::memfd_create("index", MemfdFlags::CLOEXEC).unwrap());
    let identity = Identity {
        guest: GuestIdentity {
            domain: 1,
            uuid: Uuid::nil(),
        },
        store: StoreIdentity {
            kind: StoreKind::PAGEFILE,
            device: 1,
            inode: 1,
        },
    };
    let pages = || file.metadata().unwrap().blocks() / 8;
    // 64 MiB of entries.
    let index = Index::create(file.try_clone().unwrap(), identity, 1 << 22).unwrap();
    assert_eq!(pages(), 1, "the header");
    let gfn = Gfn::new_truncate(1 << 20);
    index.set(gfn, Location::Zeros, 0).unwrap();
    drop(index);
    let index = Index::open(file.try_clone().unwrap(), identity).unwrap();
    assert_eq!(index.entries().count(), 1);
    assert_eq!(pages(), 2);
}
