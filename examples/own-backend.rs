//! A backend of one's own: a boot image whose pages are copied when the guest first touches them, and a count of those that it wrote to.
//!
//! `cargo run --example own-backend`
//!
//! ```text
//! the guest read two pages: 2 of the image's pages are in memory
//! behind the image: the backend has no page at address 0x6000
//! given back: 2 pages, 1 of them written to
//! ```

#![expect(unsafe_code, reason = "implements CustomBackend")]

use slat::format::ept::Ept;
use slat::{
    AddrSpace, BackendError, BackendPage, CustomBackend, FaultError, GuestPhysAddr, Hal, HostPhysAddr,
    MappingFlags, PAGE_SIZE,
};
use slat_examples::{Host, intel};
use std::cell::Cell;

/// The number by which the guest's regions name this image.
const IMAGE: u16 = 7;
const FRAMES: u64 = 64;

/// An image of a few bytes per page, from wherever: a file, a network, an archive.
struct Image<'h> {
    host: &'h Host<Ept>,
    bytes: Vec<u8>,
    given: Cell<usize>,
    written: Cell<usize>,
}

// SAFETY: each frame comes from the space's own host, is given for one page, and stays taken until it comes back.
unsafe impl CustomBackend for Image<'_> {
    fn take(&self, page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        let start = usize::try_from(page.offset).map_err(|_| BackendError::NoSuchPage)?;
        let contents =
            self.bytes.get(start..).filter(|_| page.source == IMAGE).ok_or(BackendError::NoSuchPage)?;
        let frame = self.host.alloc_frames(1, 1).ok_or(BackendError::OutOfMemory)?;
        let pointer = self.host.phys_to_virt(frame);
        let length = contents.len().min(PAGE_SIZE as usize);
        // SAFETY: the frame was just taken, and this host's pointer reaches all of it.
        unsafe { pointer.write_bytes(0, PAGE_SIZE as usize) }; // nothing of a previous owner may be left
        // SAFETY: as above; the image is not in a frame.
        unsafe { pointer.copy_from_nonoverlapping(contents.as_ptr(), length) };
        self.given.set(self.given.get() + 1);
        Ok(frame)
    }

    unsafe fn give_back(&self, _page: &BackendPage, frame: HostPhysAddr, written: bool) {
        self.written.set(self.written.get() + usize::from(written));
        // SAFETY: `take` got it from this host, and no CPU reaches it any more (the caller's promise).
        unsafe { self.host.dealloc_frames(frame, 1) };
    }
}

type Guest<'h> = AddrSpace<&'h Host<Ept>, Ept, &'h Image<'h>>;

fn load(host: &Host<Ept>, guest: &Guest<'_>, gpa: u64) -> Result<u64, FaultError> {
    loop {
        match host.load(0, GuestPhysAddr::new(gpa)) {
            Ok(value) => return Ok(value),
            Err(fault) => drop(guest.handle_nested_fault(&fault)?),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // With dirty flags, so that the CPU itself says which pages were written to.
    let format = intel(true);
    let host = Host::new(format, FRAMES, 1);
    let bytes = (0..5 * PAGE_SIZE + 100).map(|at| (at / PAGE_SIZE + 1) as u8).collect();
    let image = Image { host: &host, bytes, given: Cell::new(0), written: Cell::new(0) };

    let start = GuestPhysAddr::new(0);
    let mut guest = Guest::with_backend(&host, format, start, 1 << 30, 1, &image)?;
    guest.map_custom(start, IMAGE, 0, 8 * PAGE_SIZE, MappingFlags::READ | MappingFlags::WRITE)?;
    host.enter(0, &guest);

    assert_eq!(load(&host, &guest, 0x2000)?, 0x0303_0303_0303_0303);
    assert_eq!(load(&host, &guest, 0x5000 + 96)?, 0x0606_0606, "half of the word is behind the image");
    println!("the guest read two pages: {} of the image's pages are in memory", image.given.get());
    assert_eq!(image.given.get(), 2);

    let behind = load(&host, &guest, 0x6000);
    println!("behind the image: {}", behind.as_ref().expect_err("there is no such page"));

    host.store(0, GuestPhysAddr::new(0x2008), 1).expect("the page is there");
    guest.unmap(start, 8 * PAGE_SIZE)?; // the pages come back after the invalidation
    println!("given back: {} pages, {} of them written to", image.given.get(), image.written.get());
    assert_eq!(image.written.get(), 1);
    host.leave(0);
    drop(guest);
    assert_eq!(host.free_frames() as u64, FRAMES);
    Ok(())
}
