use super::{CacheActions, CacheMaintenance};
use crate::addr::HostPhysAddr;

#[test]
fn maintenance_is_of_whole_frames() {
    let of = |frames| {
        let (start, actions) = (HostPhysAddr::new(0x1000), CacheActions::CLEAN_TO_POU);
        CacheMaintenance { start, frames, actions }.bytes()
    };
    assert_eq!([1, 3, 512].map(of), [4096, 3 * 4096, 2 << 20]);
}
