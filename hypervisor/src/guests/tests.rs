use super::*;
use crate::cpus::{Cpus, Entry};
use crate::pool::tests::{Nothing, pool};
use crate::run::Reclaim;
use crate::run::tests::{job, space, write};
use crate::vcpu::{BufferAnswer, Event, Exit};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use slat::GuestPhysAddr;
use slat::device::DataAccess;
use slat::format::stage2::Stage2;
use slat_hv_protocol::Faults;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex as StdMutex};
use std::thread;
use std::time::{Duration, Instant};

const RAM: u64 = 0x4000_0000;

/// What a vCPU does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It writes to so many pages from this one on.
    Touch(u64, u64),
    /// It turns on another CPU of its guest.
    Start(usize),
    /// It sends another CPU of its guest an event.
    Wake(usize),
    /// It waits for an event.
    Event,
    /// It waits for so many ticks.
    Sleep(u64),
    /// It runs until somebody stops it.
    Spin,
    /// It has printed what stops it for a while.
    Pause,
    PowerOff,
}

/// What the vCPUs of a guest see of each other.
struct Board {
    cpus: Cpus,
    events: Vec<AtomicBool>,
    scheduler: &'static Scheduler,
    guest: usize,
    /// The root register that a vCPU of the guest runs with.
    tag: AtomicU64,
}

struct Worker {
    id: usize,
    board: &'static Board,
    steps: VecDeque<Step>,
    deadline: Option<u64>,
    begin: Instant,
}

impl Vcpu for Worker {
    type Config = (&'static Board, Vec<Step>, Instant);
    type Root = u64;

    fn new(id: usize, (board, steps, begin): Self::Config) -> Self {
        Self { id, board, steps: steps.into(), deadline: None, begin }
    }
    fn set_entry(&mut self, _: GuestPhysAddr, _: u64) {}
    fn set_root(&mut self, root: u64) {
        self.board.tag.store(root >> 48, Ordering::SeqCst);
    }
    fn bind(&mut self) {
        self.deadline = None;
    }
    fn unbind(&mut self) {}
    fn run(&mut self) -> Exit {
        let each = self.board.cpus.count();
        let Some(step) = self.steps.pop_front() else { return Exit::Unsupported("no more steps".into()) };
        match step {
            Step::Touch(_, 0) => return Exit::Answered,
            Step::Touch(page, more) => {
                self.steps.push_front(Step::Touch(page + 1, more - 1));
                return write(RAM + page * 4096);
            }
            Step::Start(cpu) => {
                let entry = Entry { address: RAM, argument: 0 };
                assert_eq!(self.board.cpus.start(cpu, entry), Ok(()));
            }
            Step::Wake(cpu) => {
                self.board.events[cpu].store(true, Ordering::SeqCst);
                self.board.scheduler.wake(self.board.guest * each + cpu);
            }
            Step::Event if self.board.events[self.id].swap(false, Ordering::SeqCst) => {}
            Step::Event => {
                self.steps.push_front(step);
                return Exit::Wait;
            }
            Step::Sleep(ticks) => {
                self.deadline = Some(self.begin.elapsed().as_micros() as u64 + ticks);
                return Exit::Wait;
            }
            Step::Spin => {
                self.steps.push_front(step);
                thread::yield_now();
                return Exit::Preempted;
            }
            Step::Pause => return Exit::Paused,
            Step::PowerOff => return Exit::PowerOff,
        }
        Exit::FirmwareCall
    }
    fn program_counter(&self) -> u64 {
        0
    }
    fn register(&self, _: usize) -> Option<u64> {
        None
    }
    fn set_register(&mut self, _: usize, _: u64) {}
    fn data_access(&self) -> Option<DataAccess> {
        None
    }
    fn advance(&mut self) {}
    fn next_timer(&self) -> Option<u64> {
        self.deadline
    }
    fn wait(&mut self) {
        panic!("in slices nobody sleeps in a vCPU");
    }
    fn answer_request(&mut self, _: bool) {}
    fn answer_buffer_call(&mut self, _: BufferAnswer) {}
    fn inject(&mut self, _: Event) {}
}

impl Replica for Worker {
    fn take_after(&mut self, original: &Self) {
        self.steps.clone_from(&original.steps);
    }
}

type Latches = Arc<Vec<(StdMutex<bool>, Condvar)>>;

/// A hart that is a thread; its ticks are microseconds.
struct ThreadHart {
    begin: Instant,
    latches: Latches,
    index: usize,
}

impl Hart for ThreadHart {
    fn now(&self) -> u64 {
        self.begin.elapsed().as_micros() as u64
    }
    fn preempt_at(&mut self, _: u64) {}
    fn sleep(&mut self, until: Option<u64>) {
        // Nothing takes longer than this, or somebody was forgotten.
        let time = until.map_or(20_000_000, |until| until.saturating_sub(self.now()));
        let (kicked, changed) = &self.latches[self.index];
        let guard = kicked.lock().expect("no panic");
        let (mut kicked, result) = changed
            .wait_timeout_while(guard, Duration::from_micros(time), |kicked| !*kicked)
            .expect("no panic");
        assert!(until.is_some() || !result.timed_out(), "hart {} was forgotten", self.index);
        *kicked = false;
    }
}

/// Runs guests whose vCPUs have these programs on so many harts, in so many frames.
fn run(frames: usize, harts: usize, programs: Vec<Vec<Vec<Step>>>) -> (Total, Vec<GuestReport>) {
    run_with_places(frames, harts, programs, 0, |_, _| Verdict::GoesOn)
}

/// The same with so many places for forks, which are the last ones, and somebody who keeps guests that stop.
fn run_with_places(
    frames: usize,
    harts: usize,
    programs: Vec<Vec<Vec<Step>>>,
    places: usize,
    keeper: for<'a> fn(&Guests<'a, &'a Pool<Nothing>, Stage2, Worker>, usize) -> Verdict,
) -> (Total, Vec<GuestReport>) {
    let begun = programs.len() - places;
    let each = programs[0].len();
    let latches: Latches = Arc::new((0..harts).map(|_| Default::default()).collect());
    let kicks = latches.clone();
    let kick = move |hart: usize| {
        let (kicked, changed) = &kicks[hart];
        *kicked.lock().expect("no panic") = true;
        changed.notify_one();
    };
    let scheduler: &Scheduler = Box::leak(Box::new(Scheduler::new(programs.len(), each, harts, kick)));
    let (pool, reclaim, begin) = (pool(frames, true), Reclaim::default(), Instant::now());
    let tags = TagPool::new(&pool, 2, harts).expect("frames");
    let mut original: Option<Machine<'_, &Pool<Nothing>, Stage2>> = None;
    let guests = programs.into_iter().enumerate().map(|(guest, programs)| {
        let power_on = move |cpu: usize| {
            scheduler.start(guest * each + cpu);
            true
        };
        let cpus = Cpus::in_slices(each, RAM..RAM + (4 << 20), Entry { address: RAM, argument: 0 }, power_on);
        let board: &Board = Box::leak(Box::new(Board {
            cpus,
            events: (0..each).map(|_| AtomicBool::new(false)).collect(),
            scheduler,
            guest,
            tag: AtomicU64::new(0),
        }));
        let new = || Machine::new(space(&pool), &board.cpus, job()).expect("regions");
        let machine = if guest < begun { new() } else { original.get_or_insert_with(new).place(&board.cpus) };
        let vcpus = programs.into_iter().enumerate();
        let vcpus = vcpus.map(|(id, steps)| Worker::new(id, (board, steps, begin)));
        (machine.sharing(guest as u32, &reclaim), vcpus.collect())
    });
    let guests: Guests<'_, &Pool<Nothing>, Stage2, Worker> =
        Guests::new(scheduler, each, 1000, tags, guests.collect::<Vec<_>>()).with_keeper(places, keeper);
    drop(original);
    guests.start();
    let told = StdMutex::new(Vec::new());
    let serve = |index| {
        let mut hart = ThreadHart { begin, latches: latches.clone(), index };
        guests.serve(
            index,
            &mut hart,
            |space, register| {
                assert_eq!(register >> 48, u64::from(space.tag()));
                register
            },
            |report| told.lock().expect("no panic").push(report),
        )
    };
    let totals: Vec<_> = thread::scope(|scope| {
        let serve = &serve;
        let threads: Vec<_> = (0..harts).map(|index| scope.spawn(move || serve(index))).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
    });
    let [Ok(total)] = &totals[..] else { panic!("one hart reports: {totals:?}") };
    assert_eq!(pool.counts().taken, pool.counts().returned, "all frames are back");
    let Faults { total: all, populated, spurious, copied, upgraded, restored, unanswered, retried } =
        total.outcome.faults;
    assert_eq!(all, populated + spurious + copied + upgraded + restored + unanswered + retried);
    (total.clone(), told.into_inner().expect("no panic"))
}

#[test]
fn guests_with_two_vcpus_each_share_two_harts_and_all_end() {
    use Step::{Event, PowerOff, Sleep, Spin, Start, Touch, Wake};
    for harts in [1, 2, 3] {
        let first = |guest: u64| {
            vec![Touch(0, 50), Sleep(300), Start(1), Event, Touch(20, 80 + guest), Wake(1), Event, PowerOff]
        };
        // Whoever ends the guest, it is at work.
        let second = vec![Touch(200, 50), Wake(0), Event, Touch(300, 10), Wake(0), Sleep(100), Spin];
        let (total, told) =
            run(8192, harts, (0..3).map(|guest| vec![first(guest), second.clone()]).collect());
        assert_eq!((&total.outcome.end, total.guests.len(), told.len()), (&End::PowerOff, 3, 3));
        for (index, guest) in total.guests.iter().enumerate() {
            assert_eq!((guest.guest as usize, &guest.end), (index, &End::PowerOff));
            assert_eq!(guest.faults.populated, 100 + index as u64 + 60);
            assert!(told.contains(guest));
        }
        assert_eq!(total.outcome.faults.populated, 3 * 160 + 3);
        assert_eq!(total.outcome.exits, total.guests.iter().map(|guest| guest.exits).sum::<u64>());
        assert_eq!(total.outcome.exits_by_cpu.len(), 2);
    }
}

#[test]
fn more_memory_than_there_is_ends_one_guest_and_the_others_go_on() {
    use Step::{PowerOff, Sleep, Touch};
    for harts in [1, 2] {
        // 600 pages each, with three times 1024 of guest memory, in 1500 frames.
        let program = vec![Touch(0, 300), Sleep(100), Touch(300, 300), Sleep(5000), Touch(0, 600), PowerOff];
        let (total, _) = run(1500, harts, vec![vec![program]; 3]);
        let starved: Vec<_> = total.guests.iter().filter(|guest| guest.end != End::PowerOff).collect();
        let [GuestReport { guest, end: End::OutOfMemory { description }, .. }] = &starved[..] else {
            panic!("one of them: {:?}", total.guests)
        };
        assert!(description.starts_with(&alloc::format!("guest {guest}: ")), "{description}");
        assert!(description.contains("GPA 0x40") && description.contains(" are left"), "{description}");
        assert_eq!(&total.outcome.end, &starved[0].end);
    }
}

#[test]
fn a_guest_that_waits_for_nothing_ends_and_the_others_go_on() {
    use Step::{Event, PowerOff, Sleep, Touch};
    let stuck = vec![Touch(0, 5), Event, PowerOff];
    let lively = vec![Touch(0, 5), Sleep(3000), PowerOff];
    let (total, told) = run(4096, 2, vec![vec![stuck], vec![lively]]);
    let End::Unsupported { description } = &total.guests[0].end else { panic!("{:?}", total.guests) };
    assert!(description.starts_with("guest 0: all its CPUs wait"), "{description}");
    assert_eq!((total.guests[1].end == End::PowerOff, told.len()), (true, 2));
}

#[test]
fn more_guests_than_tags_and_than_harts() {
    use Step::{PowerOff, Sleep, Touch};
    let program = |guest: u64| {
        let rounds = (0..10).flat_map(move |round| [Touch(round * 7, 7 + guest), Sleep(20)]);
        rounds.chain([PowerOff]).collect()
    };
    let (total, _) = run(8192, 2, (0..7).map(|guest| vec![program(guest)]).collect());
    assert_eq!(total.outcome.end, End::PowerOff);
    assert!(total.guests.iter().all(|guest| guest.faults.unanswered == 0), "{:?}", total.guests);
}

#[test]
fn one_guest_alone_is_reported_as_ever() {
    let (total, told) = run(1024, 1, vec![vec![vec![Step::Touch(0, 3), Step::PowerOff]]]);
    assert_eq!((total.guests, told), (vec![], vec![]));
    assert_eq!((total.outcome.faults.populated, total.outcome.exits), (3, 5));
    assert_eq!(Outcome::default(), core::iter::empty().sum());
}

#[test]
fn a_guest_is_forked_while_it_is_stopped_and_each_goes_on_with_pages_of_its_own() {
    use Step::{Pause, PowerOff, Sleep, Touch};
    fn twice<'a>(guests: &Guests<'a, &'a Pool<Nothing>, Stage2, Worker>, index: usize) -> Verdict {
        for number in [1, 2] {
            assert_eq!(guests.fork(index, || 7), Ok((number, 0)));
        }
        let none = guests.fork(index, || 7);
        assert_eq!(none, Err("there is no place for another guest".to_string()));
        guests.resume(1);
        guests.resume(2);
        Verdict::GoesOn
    }
    for harts in [1, 2] {
        let program = vec![Touch(0, 100), Pause, Touch(60, 100), Sleep(100), Touch(0, 10), PowerOff];
        let (total, told) =
            run_with_places(4096, harts, vec![vec![program], vec![vec![]], vec![vec![]]], 2, twice);
        assert_eq!((&total.outcome.end, total.guests.len(), told.len()), (&End::PowerOff, 3, 3));
        for guest in &total.guests {
            let before = if guest.guest == 0 { 100 } else { 0 };
            let Faults { populated, copied, upgraded, .. } = guest.faults;
            // The last one that shares a page need not copy it.
            assert_eq!((populated, copied + upgraded), (before + 60, 50), "{guest:?}");
            assert!(copied >= 40, "{guest:?}");
            assert_eq!(guest.own.memory, 110, "what it wrote after the fork");
        }
    }
}

#[test]
fn places_that_stay_free_are_not_waited_for_and_who_stops_may_be_ended() {
    use Step::{Pause, PowerOff, Touch};
    let place = || vec![vec![]];
    let program = vec![Touch(0, 5), PowerOff];
    let (total, _) = run_with_places(1024, 2, vec![vec![program], place()], 1, |_, _| unreachable!());
    assert_eq!((total.outcome.end, total.guests.len()), (End::PowerOff, 1));
    let program = vec![Touch(0, 5), Pause, Touch(0, 5), PowerOff];
    let (total, _) =
        run_with_places(1024, 2, vec![vec![program], place()], 1, |_, _| Verdict::Ends(End::Reset));
    assert_eq!((total.outcome.end, total.outcome.faults.populated), (End::Reset, 5));
}
