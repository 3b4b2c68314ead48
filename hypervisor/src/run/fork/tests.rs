use super::*;
use crate::cpus::Entry;
use crate::pool::Pool;
use crate::pool::tests::{Nothing, pool};
use crate::run::tests::{job, space};
use slat::format::stage2::Stage2;

fn cpus() -> Cpus {
    let job = job();
    let entry = Entry { address: job.ram, argument: 0 };
    Cpus::in_slices(1, job.ram..job.ram + job.memory, entry, |_| true)
}

fn byte(machine: &Machine<'_, &Pool<Nothing>, Stage2>, gpa: GuestPhysAddr) -> u8 {
    let mut byte = [0];
    machine.space.read().as_ref().expect("a space").read(gpa, &mut byte).expect("memory");
    byte[0]
}

fn put(machine: &Machine<'_, &Pool<Nothing>, Stage2>, gpa: GuestPhysAddr, text: &[u8]) {
    machine.space.read().as_ref().expect("a space").write(gpa, text).expect("memory");
}

#[test]
fn a_fork_has_what_was_there_and_a_page_that_is_shared_by_mistake_is_seen_by_both() {
    let pool = pool(8192, true);
    {
        let both = [cpus(), cpus()];
        let machine = Machine::new(space(&pool), &both[0], job()).expect("regions");
        let child = machine.place(&both[1]);
        let page = GuestPhysAddr::new(machine.job.ram + 5 * PAGE_SIZE);
        put(&machine, page, b"text");
        assert_eq!((machine.page_with("text"), machine.page_with("none")), (Some(page), None));
        assert!(machine.share_with_fork(&child, "none").is_err());
        let before = machine.own_frames();
        assert_eq!(before.memory, 1);

        machine.fork_into(&child, || 3).expect("frames");
        assert_eq!(
            (byte(&child, page), machine.own_frames().memory, child.own_frames().memory),
            (b't', 0, 0)
        );
        put(&machine, page, b"a");
        assert_eq!((byte(&machine, page), byte(&child, page)), (b'a', b't'));
        put(&machine, page, b"text");
        machine.share_with_fork(&child, "text").expect("a page");
        let frame = |of: &Machine<'_, &Pool<Nothing>, Stage2>| {
            of.space.read().as_ref().and_then(|space| space.translate(page))
        };
        assert_eq!(frame(&machine), frame(&child));
    }
    assert_eq!(pool.counts().taken, pool.counts().returned);
}
