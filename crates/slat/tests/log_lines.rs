//! The lines of the log: debug for each operation, warn for each fault that is refused. In a process of its own, for there
//! is one logger in each.

use log::{Level, LevelFilter, Log, Metadata, Record};
use slat::test_util::HeapHal;
use slat::{AddrSpace, FaultError, GuestPhysAddr, HostPhysAddr, LogUnit, MappingFlags, device::DeviceId};
use std::sync::Mutex;

struct Lines(Mutex<Vec<(Level, String)>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().expect("no panic").push((record.level(), record.args().to_string()));
    }

    fn flush(&self) {}
}

impl Lines {
    /// What was logged since the last call.
    fn take(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

#[test]
fn operations_are_debug_refused_faults_warn_and_others_trace() {
    log::set_logger(&LINES).expect("the only logger");
    log::set_max_level(LevelFilter::Trace);
    let gpa = GuestPhysAddr::new;
    let host = HeapHal::new();
    let mut space: AddrSpace<&HeapHal> =
        AddrSpace::with_format(&host, Default::default(), gpa(0), 1 << 30, 1).expect("a root");
    LINES.take();

    // One line for each operation, named after its method.
    let mut names = Vec::new();
    let mut did = |name: &'static str| {
        let lines = LINES.take();
        assert!(lines.iter().all(|(level, _)| *level >= Level::Debug), "{name}: {lines:?}");
        let of_it = lines.iter().filter(|(level, line)| *level == Level::Debug && line.starts_with(name));
        assert_eq!(of_it.count(), 1, "{name}: {lines:?}");
        names.push(name);
    };
    space.map_linear(gpa(0), HostPhysAddr::new(0x8000_0000), 0x1000, RW).expect("free");
    did("map_linear");
    space.map_alloc(gpa(0x10000), 0x4000, RW, true).expect("free");
    did("map_alloc");
    space.map_trap(gpa(0x20000), 0x1000, DeviceId(1)).expect("free");
    did("map_trap");
    space.protect(gpa(0x10000), 0x1000, MappingFlags::READ).expect("mapped");
    did("protect");
    space.migrate(gpa(0x10000), 0x1000).expect("owned");
    did("migrate");
    space.discard(gpa(0x11000), 0x1000).expect("owned");
    did("discard");
    space.populate(gpa(0x10000), 0x4000).expect("memory");
    did("populate");
    space.collapse(gpa(0x10000), 0x4000).expect("mapped");
    did("collapse");
    space.pin(gpa(0x11000), 0x1000).expect("memory");
    did("pin");
    space.unpin(gpa(0x11000), 0x1000).expect("pinned");
    did("unpin");
    space.start_dirty_log(gpa(0x10000), 0x4000, LogUnit::Page).expect("mapped");
    did("start_dirty_log");
    space.collect_dirty(gpa(0x10000), 0x4000, |_| {}).expect("logged");
    did("collect_dirty");
    space.collect_logged([gpa(0x11000)], |_| {});
    did("collect_logged");
    space.stop_dirty_log(gpa(0x10000), 0x4000).expect("logged");
    did("stop_dirty_log");
    space.scan_idle(gpa(0x10000), 0x4000, &mut [0; 4], 1, |_, _| {}).expect("room");
    did("scan_idle");
    space.set_in_children(gpa(0x20000), 0x1000, false).expect("mapped");
    did("set_in_children");
    let fork = space.fork(2).expect("memory");
    did("fork");
    drop(fork);
    let snapshot = space.snapshot().expect("memory");
    did("snapshot");
    space.reset(&snapshot).expect("the same");
    did("reset");
    drop(snapshot);
    LINES.take();
    space.consolidate();
    did("consolidate");
    space.unmap(gpa(0x13000), 0x1000).expect("mapped");
    did("unmap");
    assert_eq!(names.len(), 21);

    // Faults.
    space.map_alloc(gpa(0x30000), 0x4000, MappingFlags::READ, false).expect("free");
    LINES.take();
    space.handle_page_fault(gpa(0x30000), MappingFlags::READ).expect("lazy");
    let populated = "fault `r---` at 0x30000: populated a page".to_string();
    assert_eq!(LINES.take(), [(Level::Trace, populated)]);
    let refused = |at: u64, access: MappingFlags, error: FaultError| {
        assert_eq!(space.handle_page_fault(gpa(at), access), Err(error));
        assert_eq!(LINES.take(), [(Level::Warn, format!("fault `{access}` at {at:#x}: {error}"))]);
    };
    refused(0x5_0000, RW, FaultError::NoRegion(gpa(0x5_0000)));
    let range = slat::GuestPhysRange::new(gpa(0), 1 << 30).expect("valid");
    refused(1 << 40, RW, FaultError::OutsideSpace { gpa: gpa(1 << 40), space: range });
    let region = slat::GuestPhysRange::new(gpa(0x30000), 0x4000).expect("valid");
    let (access, allowed) = (MappingFlags::WRITE, MappingFlags::READ);
    refused(0x30000, access, FaultError::Permission { gpa: gpa(0x30000), access, region, allowed });
    host.limit_in_use(Some(0));
    refused(0x31000, MappingFlags::READ, FaultError::OutOfMemory(gpa(0x31000)));

    space.clear().expect("nothing is pinned");
    assert!(LINES.take().iter().any(|(level, line)| *level == Level::Debug && line.starts_with("clear")));
}
