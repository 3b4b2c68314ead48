//! Stale translations: CPU 1 uses a page in a loop without exits, so that its TLB alone decides what it sees, while CPU 0
//! has the hypervisor change what is behind the page.
//!
//! Protocol: CPU 1 looks at what is allowed, then at the page. So it has to see what was written to the page before less
//! was allowed, and may see what is written after more was allowed only a round later: [`allow`] waits for that. Every wait has an end, and CPU 1 goes off when it is told to, or by itself.

use super::Outcome;
use super::machine::{Exception, Function, exception_of, hvc, read64, soon, write64};
use super::scenarios::{check, check_abort};
use super::second::{Work, start_second, wait_until_off};
use super::stage1;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// The page in question.
const PAGE: u64 = stage1::WINDOW;
const PAGE_SIZE: u64 = 4096;
/// Pages behind it that nobody has touched, for frames that have come back to the hypervisor to be used again.
const OTHERS: u64 = 64;

/// What stands in the page first, what later, and what in the other pages.
const OLD: u64 = 0x0101_0101_0101_0101;
const NEW: u64 = 0x0202_0202_0202_0202;
const OTHER: u64 = 0xbad0_bad0_bad0_bad0;

/// Rounds of CPU 1 in which all words of the page have their turn.
const ROUNDS: u64 = 2 * PAGE_SIZE / 8;
/// Rounds after which CPU 1 goes off by itself: more than can be waited for.
const ROUNDS_MAX: u64 = 1 << 32;

/// What the CPUs tell each other. Apart from the page in question.
struct Shared {
    /// Values that CPU 1 may see.
    allowed: [AtomicU64; 2],
    /// What it saw that it must not.
    wrong: AtomicBool,
    /// Its rounds until now.
    rounds: AtomicU64,
    /// It got an exception: the syndrome and the address.
    failed: AtomicBool,
    esr: AtomicU64,
    far: AtomicU64,
    stop: AtomicBool,
}

static SHARED: Shared = Shared {
    allowed: [AtomicU64::new(OLD), AtomicU64::new(OLD)],
    wrong: AtomicBool::new(false),
    rounds: AtomicU64::new(0),
    failed: AtomicBool::new(false),
    esr: AtomicU64::new(0),
    far: AtomicU64::new(0),
    stop: AtomicBool::new(false),
};

/// What CPU 1 does, until it is told to stop or gets an exception.
pub(super) fn work(work: Work) {
    stage1::turn_on();
    for round in 1..ROUNDS_MAX {
        let allowed = [0, 1].map(|index| SHARED.allowed[index].load(SeqCst));
        let address = PAGE + round * 8 % PAGE_SIZE;
        if work == Work::Walk {
            stage1::forget_locally();
        }
        let mut seen = OLD;
        let exception = exception_of(|| match work {
            Work::Write => write64(PAGE, round),
            _ => seen = read64(address),
        });
        if let Ok(Some(Exception { esr, far })) = exception {
            SHARED.esr.store(esr, SeqCst);
            SHARED.far.store(far, SeqCst);
            SHARED.failed.store(true, SeqCst);
            return;
        }
        if !allowed.contains(&seen) {
            SHARED.wrong.store(true, SeqCst);
        }
        SHARED.rounds.store(round, SeqCst);
        if SHARED.stop.load(SeqCst) {
            return;
        }
    }
}

/// Fills the page, starts CPU 1 on `work`, and waits until it is at home there.
fn prepare(work: Work) -> Outcome {
    stage1::prepare();
    stage1::turn_on();
    fill(PAGE, OLD);
    start_second(work)?;
    rounds_pass(10 * ROUNDS)
}

fn fill(page: u64, value: u64) {
    (page..page + PAGE_SIZE).step_by(8).for_each(|word| write64(word, value));
}

fn holds(page: u64, value: u64) -> bool {
    (page..page + PAGE_SIZE).step_by(8).all(|word| read64(word) == value)
}

/// From now on CPU 1 may see these values and no others.
fn allow(values: [u64; 2]) -> Outcome {
    SHARED.allowed.iter().zip(values).for_each(|(allowed, value)| allowed.store(value, SeqCst));
    rounds_pass(2)
}

/// Lets frames that have come back to the hypervisor be used again.
fn use_frames_again() {
    (1..=OTHERS).for_each(|index| fill(PAGE + index * PAGE_SIZE, OTHER));
}

/// Waits for as many rounds of CPU 1, which must go well.
fn rounds_pass(rounds: u64) -> Outcome {
    let until = SHARED.rounds.load(SeqCst) + rounds;
    let over = || SHARED.failed.load(SeqCst) || SHARED.wrong.load(SeqCst);
    let passed = soon(|| SHARED.rounds.load(SeqCst) >= until || over());
    check(!SHARED.failed.load(SeqCst), "CPU 1 got an exception")?;
    check(!SHARED.wrong.load(SeqCst), "CPU 1 saw what is not in the page")?;
    check(passed, "CPU 1 does not get on")
}

/// Writes to the page, and then lets CPU 1 see nothing else.
fn renew_contents() -> Outcome {
    fill(PAGE, NEW);
    allow([NEW, NEW])?;
    rounds_pass(ROUNDS)?;
    finish()
}

fn finish() -> Outcome {
    SHARED.stop.store(true, SeqCst);
    wait_until_off(1)
}

fn request(function: u64, page: u64) -> Outcome {
    check(hvc(function, [page, 0, 0]) == 0, "the hypervisor did not do what was asked for")
}

/// Scenario `stale-move`.
pub(super) fn moved() -> Outcome {
    prepare(Work::Watch)?;
    request(Function::MOVE, PAGE)?;
    use_frames_again();
    rounds_pass(ROUNDS)?;
    allow([OLD, NEW])?;
    renew_contents()
}

/// Scenario `stale-renew`.
pub(super) fn renewed() -> Outcome {
    prepare(Work::Watch)?;
    // Until the call has returned the old contents are fine, afterwards only zeroes.
    allow([OLD, 0])?;
    request(Function::RENEW, PAGE)?;
    use_frames_again();
    allow([0, 0])?;
    rounds_pass(ROUNDS)?;
    allow([0, NEW])?;
    renew_contents()
}

/// Scenario `stale-protect`.
pub(super) fn write_protected() -> Outcome {
    prepare(Work::Write)?;
    request(Function::WRITE_PROTECT, PAGE)?;
    let last = read64(PAGE);
    // One round may be on its way.
    let until = SHARED.rounds.load(SeqCst) + 2;
    let failed = || SHARED.failed.load(SeqCst);
    check(soon(|| failed() || SHARED.rounds.load(SeqCst) >= until), "CPU 1 does not get on")?;
    check(failed(), "CPU 1 goes on writing to a write-protected page")?;
    check(read64(PAGE) == last, "a store to a write-protected page arrived")?;
    let exception = Exception { esr: SHARED.esr.load(SeqCst), far: SHARED.far.load(SeqCst) };
    check_abort(Some(exception), 0x25, PAGE, true)?;
    wait_until_off(1)
}

/// Scenario `stale-table`.
pub(super) fn table_moved() -> Outcome {
    prepare(Work::Walk)?;
    request(Function::MOVE, stage1::window_table())?;
    use_frames_again();
    rounds_pass(ROUNDS)?;
    finish()
}

/// Scenario `stale-alone`.
pub(super) fn alone() -> Outcome {
    stage1::prepare();
    stage1::turn_on();
    fill(PAGE, OLD);
    check(holds(PAGE, OLD), "the page does not hold what was written")?;
    request(Function::MOVE, PAGE)?;
    check(holds(PAGE, OLD), "the page has other contents after it was moved")?;
    request(Function::RENEW, PAGE)?;
    use_frames_again();
    check(holds(PAGE, 0), "the page is not zeroed after it was mapped anew")?;
    fill(PAGE, NEW);
    request(Function::WRITE_PROTECT, PAGE)?;
    let exception = exception_of(|| write64(PAGE, OTHER))?;
    check_abort(exception, 0x25, PAGE, true)?;
    check(holds(PAGE, NEW), "a store to a write-protected page arrived")
}
