#![expect(unsafe_code, reason = "implements Hal")]

use super::{CacheActions, CacheMaintenance, Hal};
use crate::addr::{HostPhysAddr, HostPhysRange};

#[test]
fn maintenance_is_of_whole_frames() {
    let of = |frames| {
        let (start, actions) = (HostPhysAddr::new(0x1000), CacheActions::CLEAN_TO_POU);
        CacheMaintenance { start, frames, actions }.bytes()
    };
    assert_eq!([1, 3, 512].map(of), [4096, 3 * 4096, 2 << 20]);
}

/// A host that implements no more than it must.
struct Least;

// SAFETY: no frame is ever given out.
unsafe impl Hal for Least {
    fn alloc_frames(&self, _count: usize, _align: usize) -> Option<HostPhysAddr> {
        None
    }

    unsafe fn dealloc_frames(&self, _start: HostPhysAddr, _count: usize) {}

    fn phys_to_virt(&self, _hpa: HostPhysAddr) -> *mut u8 {
        core::ptr::null_mut()
    }
}

#[test]
fn a_host_reaches_no_linear_memory_unless_it_says_so() {
    let range = HostPhysRange::new(HostPhysAddr::new(0x1000), 1).expect("a range");
    assert_eq!(Least.linear_to_virt(range), None);
}
