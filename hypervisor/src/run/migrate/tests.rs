use super::*;
use crate::cpus::{Cpus, Entry};
use crate::pool::Pool;
use crate::pool::tests::{Nothing, pool};
use crate::run::tests::{job, space};
use slat::format::stage2::Stage2;

type Tested<'a> = Machine<'a, &'a Pool<Nothing>, Stage2>;

const TEXT: &str = "text";

fn cpus() -> Cpus {
    let job = job();
    let entry = Entry { address: job.ram, argument: 0 };
    Cpus::in_slices(1, job.ram..job.ram + job.memory, entry, |_| true)
}

fn put(machine: &Tested<'_>, page: u64, text: &str) {
    let gpa = GuestPhysAddr::new(machine.job.ram + page * PAGE_SIZE);
    machine.space.read().as_ref().expect("a space").write(gpa, text.as_bytes()).expect("memory");
}

fn all(machine: &Tested<'_>) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    let read = machine.each_page(|_, page| {
        pages.push(page.to_vec());
        Ok::<(), String>(())
    });
    assert_eq!(read, Ok(()));
    pages
}

#[test]
fn what_is_there_and_what_is_written_later_comes_along() {
    let pool = pool(8192, true);
    {
        let both = [cpus(), cpus()];
        let machine = Machine::new(space(&pool), &both[0], job()).expect("regions");
        let place = machine.place(&both[1]);
        (0..20).for_each(|page| put(&machine, page, "text 0"));
        assert_eq!(machine.begin_move(&place, space(&pool)), Ok(20));
        assert_eq!(all(&machine), all(&place));

        [3, 4, 9, 30].into_iter().for_each(|page| put(&machine, page, "text 1"));
        assert_ne!(all(&machine), all(&place));
        assert_eq!(machine.copy_round(&place, None), Ok(4));
        assert_eq!(all(&machine), all(&place));
        assert_eq!(machine.copy_round(&place, None), Ok(0));

        machine.type_in("word");
        machine.end_move(&place);
        assert_eq!(place.port(), machine.port());
        // Each is by itself now.
        put(&place, 5, "text 2");
        assert_ne!(all(&machine), all(&place));
        place.abandon();
    }
    assert_eq!(pool.counts().taken, pool.counts().returned);
}

#[test]
fn a_page_that_is_left_out_is_one_that_has_changed_and_begins_with_the_text() {
    let pool = pool(8192, true);
    let both = [cpus(), cpus()];
    let machine = Machine::new(space(&pool), &both[0], job()).expect("regions");
    let place = machine.place(&both[1]);
    (0..8).for_each(|page| put(&machine, page, "text 0"));
    assert_eq!(machine.begin_move(&place, space(&pool)), Ok(8));
    let none = machine.copy_round(&place, Some(TEXT));
    assert_eq!(none, Err("there is no page to be left out".to_string()));
    // Of these one has not changed and one begins otherwise.
    for (page, text) in [(1, "text 0"), (2, "other"), (4, "text 1"), (6, "text 1")] {
        put(&machine, page, text);
    }
    assert_eq!(machine.copy_round(&place, Some(TEXT)), Ok(4));
    let (own, other) = (all(&machine), all(&place));
    let differ: Vec<_> = (0..own.len()).filter(|page| own[*page] != other[*page]).collect();
    assert_eq!(differ, [4]);
}
