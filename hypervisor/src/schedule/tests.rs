use super::*;
use alloc::sync::Arc;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex as StdMutex};
use std::thread;

fn scheduler(guests: usize, each: usize, harts: usize) -> (Scheduler, Arc<AtomicU64>) {
    let kicked = Arc::new(AtomicU64::new(0));
    let kicks = kicked.clone();
    let kick = move |hart| {
        kicks.fetch_or(1_u64 << hart, Ordering::SeqCst);
    };
    (Scheduler::new(guests, each, harts, kick), kicked)
}

#[test]
fn ready_vcpus_take_turns_and_nobody_is_passed_over() {
    let (scheduler, _) = scheduler(3, 1, 1);
    assert_eq!(scheduler.next(0, 0), Next::Sleep { until: None });
    (0..3).for_each(|id| scheduler.start(id));
    for round in 0..4 {
        for id in 0..3 {
            assert_eq!(scheduler.next(0, round), Next::Run(id));
            assert_eq!(scheduler.done(0, id, Parked::Ready), Outlook::Alive);
        }
    }
    // One that wakes again and again does not overtake the others.
    for _ in 0..6 {
        let Next::Run(id) = scheduler.next(0, 9) else { panic!("all are ready") };
        assert_eq!(scheduler.done(0, id, Parked::WaitsUntil(None)), Outlook::Stuck);
        scheduler.wake(id);
    }
    assert_eq!(scheduler.next(0, 9), Next::Run(0));
}

#[test]
fn a_time_that_has_come_makes_ready_and_a_later_one_is_slept_for() {
    let (scheduler, kicked) = scheduler(2, 1, 2);
    scheduler.start(0);
    scheduler.start(1);
    assert_eq!((scheduler.next(0, 10), scheduler.next(1, 10)), (Next::Run(0), Next::Run(1)));
    let _ = scheduler.done(0, 0, Parked::WaitsUntil(Some(50)));
    assert_eq!(scheduler.next(0, 11), Next::Sleep { until: Some(50) });
    // Hart 1 parks its vCPU for a shorter time, and sleeps for it itself.
    let _ = scheduler.done(1, 1, Parked::WaitsUntil(Some(30)));
    assert_eq!(scheduler.next(1, 12), Next::Sleep { until: Some(30) });
    assert_eq!(kicked.load(Ordering::SeqCst), 0);
    // An event lets one of them run: somebody else has to watch the time.
    scheduler.wake(0);
    assert_eq!(kicked.swap(0, Ordering::SeqCst), 1);
    assert_eq!(scheduler.next(0, 13), Next::Run(0));
    assert_eq!(kicked.load(Ordering::SeqCst), 0, "hart 1 does");
    assert_eq!(scheduler.next(1, 30), Next::Run(1));
}

#[test]
fn whoever_stops_watching_the_time_hands_that_over() {
    let (scheduler, kicked) = scheduler(3, 1, 2);
    (0..3).for_each(|id| scheduler.start(id));
    assert_eq!((scheduler.next(0, 0), scheduler.next(1, 0)), (Next::Run(0), Next::Run(1)));
    let _ = scheduler.done(0, 0, Parked::WaitsUntil(None));
    assert_eq!(scheduler.next(0, 0), Next::Run(2));
    let _ = scheduler.done(0, 2, Parked::WaitsUntil(None));
    assert_eq!(scheduler.next(0, 0), Next::Sleep { until: None });
    let _ = scheduler.done(1, 1, Parked::WaitsUntil(Some(40)));
    assert_eq!(scheduler.next(1, 0), Next::Sleep { until: Some(40) });
    assert_eq!(kicked.swap(0, Ordering::SeqCst), 0);
    // Hart 1 wakes up by itself, and finds a vCPU: hart 0 sleeps too long.
    scheduler.state.lock().make_ready(2);
    assert_eq!(scheduler.next(1, 5), Next::Run(2));
    assert_eq!(kicked.load(Ordering::SeqCst), 1);
    assert_eq!(scheduler.next(0, 5), Next::Sleep { until: Some(40) });
}

#[test]
fn an_event_that_comes_before_a_vcpu_is_parked_is_not_lost() {
    let (scheduler, kicked) = scheduler(1, 2, 2);
    scheduler.start(1);
    assert_eq!(scheduler.next(1, 0), Next::Run(1));
    scheduler.wake(1);
    assert_eq!(kicked.load(Ordering::SeqCst), 2);
    assert_eq!(scheduler.done(1, 1, Parked::WaitsUntil(None)), Outlook::Alive);
    assert_eq!(scheduler.next(0, 0), Next::Run(1));
    // Started again before it was off; an event alone turns nobody on.
    scheduler.start(1);
    let _ = scheduler.done(0, 1, Parked::Off);
    assert_eq!(scheduler.next(0, 0), Next::Run(1));
    scheduler.wake(1);
    assert_eq!(scheduler.done(0, 1, Parked::Off), Outlook::Stuck);
    scheduler.wake(1);
    assert_eq!(scheduler.next(0, 0), Next::Sleep { until: None });
}

#[test]
fn a_guest_is_stuck_when_none_of_its_vcpus_can_be_woken_by_another() {
    let (scheduler, _) = scheduler(2, 2, 2);
    (0..4).for_each(|id| scheduler.start(id));
    assert_eq!((scheduler.next(0, 0), scheduler.next(1, 0)), (Next::Run(0), Next::Run(1)));
    // The other vCPU runs.
    assert_eq!(scheduler.done(0, 0, Parked::WaitsUntil(None)), Outlook::Alive);
    assert_eq!(scheduler.done(1, 1, Parked::WaitsUntil(Some(5))), Outlook::Alive);
    assert_eq!((scheduler.next(0, 0), scheduler.next(1, 5)), (Next::Run(2), Next::Run(3)));
    let _ = scheduler.done(1, 3, Parked::Off);
    assert_eq!(scheduler.next(1, 5), Next::Run(1));
    // Those of another guest do not help.
    assert_eq!(scheduler.done(1, 1, Parked::WaitsUntil(None)), Outlook::Stuck);
    assert_eq!(scheduler.done(0, 2, Parked::WaitsUntil(None)), Outlook::Stuck);
}

#[test]
fn a_retired_guest_runs_no_more_and_the_others_go_on() {
    let (scheduler, kicked) = scheduler(2, 2, 2);
    (0..4).for_each(|id| scheduler.start(id));
    assert_eq!((scheduler.next(0, 0), scheduler.next(1, 0)), (Next::Run(0), Next::Run(1)));
    let _ = scheduler.done(0, 0, Parked::WaitsUntil(Some(1)));
    scheduler.retire(0);
    assert_eq!(kicked.load(Ordering::SeqCst), 2, "the hart that runs one of its vCPUs");
    scheduler.start(0);
    scheduler.wake(0);
    assert_eq!(scheduler.next(0, 9), Next::Run(2));
    assert_eq!(scheduler.done(1, 1, Parked::Ready), Outlook::Alive);
    assert_eq!(scheduler.next(1, 9), Next::Run(3));
    let _ = scheduler.done(1, 3, Parked::Ready);
    assert_eq!(scheduler.next(1, 9), Next::Run(3));
    scheduler.end();
    assert_eq!(kicked.load(Ordering::SeqCst), 3);
    assert_eq!((scheduler.next(0, 9), scheduler.next(1, 9)), (Next::Over, Next::Over));
}

#[test]
fn numbers_that_nobody_has_change_nothing() {
    let (scheduler, kicked) = scheduler(1, 1, 1);
    let before = scheduler.state.lock().clone();
    for number in [1, 2, 64, usize::MAX] {
        scheduler.start(number);
        scheduler.wake(number);
        scheduler.retire(number);
        assert_eq!(scheduler.next(number, 0), Next::Over);
        assert_eq!(scheduler.done(number, 0, Parked::Ready), Outlook::Alive);
        assert_eq!(scheduler.done(0, number, Parked::Ready), Outlook::Alive);
    }
    assert_eq!((scheduler.state.lock().clone(), kicked.load(Ordering::SeqCst)), (before, 0));
}

/// The world around the scheduler, for the search through all that can happen.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    state: State,
    now: u64,
    harts: Vec<Doing>,
    /// A kick that the hart has not noticed yet.
    kicked: Vec<bool>,
    /// For each vCPU: there is an event that it has not seen.
    unseen: Vec<bool>,
    /// The same for its start.
    unstarted: Vec<bool>,
    mistake: Mistake,
}

/// What a hart is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Doing {
    /// It is about to ask.
    Asking,
    /// It was told to sleep until then; it wakes by a kick or by the time.
    Sleeping(Option<u64>),
    /// In the guest, or in the hypervisor for it.
    Running(usize),
    /// It has decided what becomes of the vCPU, and has not told the scheduler yet.
    Parking(usize, Parked),
}

/// The last time of the search.
const LAST: u64 = 2;

/// A mistake made on purpose: the search has to find what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mistake {
    None,
    /// An event for a vCPU that runs leaves no mark.
    EventForgotten,
    /// Nobody is kicked for a vCPU that became ready, nor to watch a time.
    NobodyKicked,
    /// A vCPU that was started while it went off is off.
    StartForgotten,
}

impl World {
    fn new(guests: usize, each: usize, harts: usize, mistake: Mistake) -> Self {
        let mut state = State::new(guests, each, harts);
        (0..guests).for_each(|guest| state.start(guest * each));
        let vcpus = guests * each;
        Self {
            state,
            now: 0,
            harts: vec![Doing::Asking; harts],
            kicked: vec![false; harts],
            unseen: vec![false; vcpus],
            unstarted: vec![false; vcpus],
            mistake,
        }
    }

    fn after(&self, work: impl FnOnce(&mut Self, &mut Kicks)) -> Self {
        let (mut world, mut kicks) = (self.clone(), Kicks::default());
        work(&mut world, &mut kicks);
        for task in &mut world.state.tasks {
            task.event &= world.mistake != Mistake::EventForgotten;
            task.started &= world.mistake != Mistake::StartForgotten;
        }
        if world.mistake == Mistake::NobodyKicked {
            return world;
        }
        let Kicks(more) = world.state.settle();
        for (hart, kicked) in world.kicked.iter_mut().enumerate() {
            *kicked |= (kicks.0 | more) >> hart & 1 != 0;
        }
        world
    }

    /// Everything that can happen next.
    fn successors(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for (hart, doing) in self.harts.iter().enumerate() {
            match *doing {
                Doing::Asking => all.push(self.after(|world, _| {
                    world.harts[hart] = match world.state.next(hart, world.now) {
                        Next::Run(id) => {
                            world.unstarted[id] = false;
                            Doing::Running(id)
                        }
                        Next::Sleep { until } => Doing::Sleeping(until),
                        Next::Over => panic!("nobody ends it"),
                    };
                })),
                Doing::Sleeping(until) => {
                    if self.kicked[hart] || until.is_some_and(|until| until <= self.now) {
                        all.push(self.after(|world, _| {
                            world.kicked[hart] = false;
                            world.harts[hart] = Doing::Asking;
                        }));
                    }
                }
                Doing::Running(id) => {
                    // It looks for events, and only then may wait.
                    all.push(self.after(|world, _| {
                        world.kicked[hart] = false;
                        world.unseen[id] = false;
                        world.harts[hart] = Doing::Parking(id, Parked::WaitsUntil(None));
                    }));
                    let parked =
                        [Parked::Ready, Parked::Off, Parked::WaitsUntil(Some((self.now + 1).min(LAST)))];
                    all.extend(parked.map(|parked| {
                        self.after(|world, _| {
                            world.unseen[id] = false;
                            world.harts[hart] = Doing::Parking(id, parked);
                        })
                    }));
                    // It sends events, and starts others.
                    for other in 0..self.unseen.len() {
                        all.push(self.after(|world, kicks| {
                            world.unseen[other] = true;
                            world.state.wake(other, kicks);
                        }));
                        all.push(self.after(|world, _| {
                            let parking = Doing::Parking(other, Parked::Off);
                            world.unstarted[other] |= world.harts.contains(&parking);
                            world.state.start(other);
                        }));
                    }
                }
                Doing::Parking(id, parked) => all.push(self.after(|world, _| {
                    let _ = world.state.done(hart, id, parked);
                    world.harts[hart] = Doing::Asking;
                })),
            }
        }
        if self.now < LAST {
            all.push(self.after(|world, _| world.now += 1));
        }
        all
    }

    /// The invariants of the module's header, seen from outside.
    fn check(&self) {
        let sleeps = |hart: &usize| match self.harts[*hart] {
            Doing::Sleeping(until) => !self.kicked[*hart] && until.is_none_or(|until| until > self.now),
            _ => false,
        };
        let harts = 0..self.harts.len();
        let asleep = harts.clone().filter(sleeps).count();
        let busy = self.harts.iter().filter(|doing| matches!(doing, Doing::Running(_) | Doing::Parking(..)));
        let coming = self.harts.len() - asleep - busy.count();
        for (id, task) in self.state.tasks.iter().enumerate() {
            let on = self.harts.iter().filter(
                |doing| matches!(doing, Doing::Running(other) | Doing::Parking(other, _) if *other == id),
            );
            let (on, running) = (on.count(), matches!(task.place, Place::Running(_)));
            assert!(on == usize::from(running), "vCPU {id} is on {on} harts: {:?}", self.state);
            assert_eq!(
                self.state.queue.iter().filter(|other| **other == id).count(),
                usize::from(task.place == Place::Ready)
            );
            let waits = matches!(task.place, Place::Waiting(_));
            assert!(!(waits && self.unseen[id]), "vCPU {id} sleeps through its event: {:?}", self.state);
            let off = task.place == Place::Off;
            assert!(!(off && self.unstarted[id]), "vCPU {id} is off in spite of its start: {:?}", self.state);
            if let Place::Waiting(Some(at)) = task.place {
                let late = at <= self.now && asleep == self.harts.len();
                assert!(!late, "every hart sleeps through {at}: {:?} {:?}", self.state, self.harts);
            }
        }
        let waiting = self.state.queue.len();
        assert!(asleep == 0 || coming >= waiting, "{waiting} are ready: {:?} {:?}", self.state, self.harts);
    }
}

/// Visits everything that can be reached, up to so many states; how many were.
fn search(world: World, most: usize) -> usize {
    let mut seen = HashSet::from([world.clone()]);
    let mut next = VecDeque::from([world]);
    while let Some(world) = next.pop_front() {
        world.check();
        if seen.len() < most {
            next.extend(world.successors().into_iter().filter(|world| seen.insert(world.clone())));
        }
    }
    seen.len()
}

#[test]
fn whatever_happens_the_invariants_hold() {
    let all = [(1, 2, 1), (2, 1, 1), (2, 1, 2), (1, 2, 2)]
        .map(|(guests, each, harts)| search(World::new(guests, each, harts, Mistake::None), usize::MAX));
    assert!(all.iter().all(|states| *states > 100), "{all:?}");
    search(World::new(3, 1, 2, Mistake::None), 60_000);
}

#[test]
#[should_panic = "sleeps through its event"]
fn a_forgotten_event_is_found() {
    search(World::new(1, 2, 2, Mistake::EventForgotten), usize::MAX);
}

#[test]
#[should_panic = "are ready"]
fn a_hart_that_is_not_kicked_is_found() {
    search(World::new(1, 2, 2, Mistake::NobodyKicked), usize::MAX);
}

#[test]
#[should_panic = "in spite of its start"]
fn a_forgotten_start_is_found() {
    search(World::new(1, 2, 2, Mistake::StartForgotten), usize::MAX);
}

/// Harts that are threads: each vCPU sends its neighbour an event and waits for one, a great many times. If one were lost nobody
/// would ever go on.
#[test]
fn threads_pass_events_around_until_all_have_had_theirs() {
    const VCPUS: usize = 3;
    const HARTS: usize = 2;
    const ROUNDS: usize = 3000;
    let latches: Arc<Vec<(StdMutex<bool>, Condvar)>> =
        Arc::new((0..HARTS).map(|_| Default::default()).collect());
    let kicks = latches.clone();
    let scheduler = Scheduler::new(1, VCPUS, HARTS, move |hart: usize| {
        let (kicked, changed) = &kicks[hart];
        *kicked.lock().expect("no panic") = true;
        changed.notify_one();
    });
    let events: Vec<AtomicBool> = (0..VCPUS).map(|_| AtomicBool::new(false)).collect();
    let on: Vec<AtomicBool> = (0..VCPUS).map(|_| AtomicBool::new(false)).collect();
    let left = AtomicUsize::new(VCPUS * ROUNDS);
    (0..VCPUS).for_each(|id| scheduler.start(id));
    events[0].store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        for hart in 0..HARTS {
            let (scheduler, latches, events, on, left) = (&scheduler, &latches, &events, &on, &left);
            scope.spawn(move || {
                loop {
                    match scheduler.next(hart, 0) {
                        Next::Over => return,
                        Next::Sleep { .. } => {
                            let (kicked, changed) = &latches[hart];
                            let kicked = kicked.lock().expect("no panic");
                            *changed.wait_while(kicked, |kicked| !*kicked).expect("no panic") = false;
                        }
                        Next::Run(id) => {
                            assert!(!on[id].swap(true, Ordering::SeqCst), "vCPU {id} is on two harts");
                            if events[id].swap(false, Ordering::SeqCst) {
                                let next = (id + 1) % VCPUS;
                                events[next].store(true, Ordering::SeqCst);
                                scheduler.wake(next);
                                if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                                    scheduler.end();
                                }
                            }
                            on[id].store(false, Ordering::SeqCst);
                            let _ = scheduler.done(hart, id, Parked::WaitsUntil(None));
                        }
                    }
                }
            });
        }
    });
    assert_eq!(left.load(Ordering::SeqCst), 0);
}
