//! The works, each written once for all contenders, and the clock.

use crate::contender::Contender;
use crate::frames;
use crate::threads;
use crate::work::{Sizes, Work};
use std::hint::black_box;
use std::time::Instant;

const PAGE: u64 = 4096;
pub(crate) const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Guest-physical start of everything.
pub(crate) const GPA: u64 = 0;
/// Host physical start of linear mappings; only a number. Off by a page, so that leaves must be of 4 KiB.
pub(crate) const HPA_4K: u64 = (1 << 40) + PAGE;
/// Off by 2 MiB, so that leaves are of 2 MiB.
const HPA_2M: u64 = (1 << 40) + (2 << 20);
/// Off by nothing, so that leaves are of 1 GiB.
const HPA_1G: u64 = 1 << 40;
const REGIONS: u64 = 100_000;

/// What one run of one work took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) nanoseconds: f64,
    pub(crate) units: u64,
}

impl Sample {
    pub(crate) fn per_unit(self) -> f64 {
        self.nanoseconds / self.units as f64
    }
}

/// All that the clock sees, and all that an instruction counter is told to count: hence never inlined.
#[inline(never)]
pub(crate) fn measured_region(body: &mut dyn FnMut()) {
    body();
    black_box(());
}

/// Times `body`, which does `units` units.
pub(crate) fn timed(units: u64, mut body: impl FnMut()) -> Sample {
    let start = Instant::now();
    measured_region(&mut body);
    Sample { nanoseconds: start.elapsed().as_nanos() as f64, units }
}

/// Runs `work` once on a fresh `C`; `None` if it cannot do that.
pub(crate) fn run<C: Contender>(work: Work, sizes: &Sizes) -> Option<Sample> {
    if !C::can(work) || work == Work::Protect4kAtomic && !C::ATOMIC_PROTECT {
        return None;
    }
    if work.is_sharing() {
        return C::share(work, sizes);
    }
    frames::take_share(0, 1);
    Some(match work {
        Work::Map4k => map::<C>(sizes.small, PAGE, HPA_4K),
        Work::Map2m => map::<C>(sizes.large, 2 << 20, HPA_2M),
        Work::TranslateIndependent => translate::<C>(sizes, |_| 0),
        Work::TranslateDependent => translate::<C>(sizes, |result| result),
        Work::ReadObj => read_obj::<C>(sizes),
        Work::Copy1m => copy(sizes, &with_contents::<C>(4 * MIB), C::copy),
        Work::Copy1mLarge => copy(sizes, &with_large_contents::<C>(4 * MIB), C::copy_large),
        Work::LazyDeclare => lazy_declare::<C>(sizes),
        Work::Fault => fault::<C>(sizes, C::fault),
        Work::FaultZeroed => fault::<C::OnZeroingHost>(sizes, C::OnZeroingHost::fault_zeroed),
        Work::PopulateZeroed => populate::<C::OnZeroingHost>(sizes),
        Work::Protect4k => protect(sizes, C::new(), C::protect),
        Work::Protect4kAtomic => protect(sizes, C::new_marked(), C::protect_atomic),
        Work::ProtectEverySecond => protect_every_second::<C>(sizes),
        Work::UnmapLinear => unmap_linear::<C>(sizes),
        Work::UnmapFrames => unmap_frames::<C>(sizes),
        Work::Split1g => split::<C>(sizes),
        Work::RegionsRemoveOne => regions_remove_one::<C>(sizes),
        Work::Growth1g => growth::<C>(sizes, GIB),
        Work::Growth1t => growth::<C>(sizes, 1024 * GIB),
        Work::OneThreadFault => threads::fault::<C>(sizes, 1),
        Work::TwoThreadsFault => threads::fault::<C>(sizes, 2),
        Work::Fork | Work::WriteAfterFork | Work::WriteAfterForkCold | Work::CollectClean => return None,
    })
}

/// Panics unless `gpa` is where it was mapped to.
fn check_linear<C: Contender>(space: &C, gpa: u64, hpa: u64) {
    assert_eq!(space.translate(gpa), Some(hpa), "{}: {gpa:#x} is mapped", C::NAME);
}

fn map<C: Contender>(bytes: u64, leaf: u64, hpa: u64) -> Sample {
    let mut space = C::new();
    let sample = timed(bytes / leaf, || space.map(black_box(GPA), black_box(hpa), black_box(bytes)));
    for offset in [0, bytes / 2 + 0x3004, bytes - 1] {
        check_linear(&space, GPA + offset, hpa + offset);
    }
    sample
}

/// The next state of a linear congruential generator (Knuth's MMIX constants); its high bits are the random ones.
pub(crate) fn random(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

fn translate<C: Contender>(sizes: &Sizes, feedback: impl Fn(u64) -> u64) -> Sample {
    let (bytes, count) = (sizes.small, sizes.translations);
    let shift = 64 - bytes.ilog2();
    let mut space = C::new();
    space.map(GPA, HPA_4K, bytes);
    let (mut state, mut sum) = (1u64, 0u64);
    let sample = timed(count, || {
        for _ in 0..count {
            let gpa = GPA + (state >> shift);
            let hpa = space.translate(gpa).unwrap_or(0);
            sum = sum.wrapping_add(hpa);
            state = random(state).wrapping_add(feedback(hpa));
        }
    });
    let (mut state, mut expected) = (1u64, 0u64);
    for _ in 0..count {
        let hpa = HPA_4K + (state >> shift);
        expected = expected.wrapping_add(hpa);
        state = random(state).wrapping_add(feedback(hpa));
    }
    assert_eq!(sum, expected, "{}: every translation is right", C::NAME);
    sample
}

/// A space of `bytes` bytes in populated 4 KiB leaves of scattered frames; every page holds its own number, in each word.
fn with_contents<C: Contender>(bytes: u64) -> C {
    let mut space = C::new();
    space.populate(GPA, bytes);
    fill(&space, bytes);
    space
}

/// The same in large leaves.
fn with_large_contents<C: Contender>(bytes: u64) -> C {
    let mut space = C::new();
    space.populate_large(GPA, bytes);
    fill(&space, bytes);
    space
}

/// Fills each page with its number.
fn fill<C: Contender>(space: &C, bytes: u64) {
    for page in (GPA..GPA + bytes).step_by(PAGE as usize) {
        let frame = space.translate(page).expect("the page was populated");
        // SAFETY: host physical addresses are addresses of this process, and the space owns the frame.
        let words = unsafe { std::slice::from_raw_parts_mut(frame as *mut u64, 512) };
        words.fill(page / PAGE);
    }
}

/// A multiple of 8 below `bytes`.
#[inline]
fn aligned_below(state: u64, bytes: u64) -> u64 {
    GPA + (state >> (64 - bytes.ilog2()) & !7)
}

fn read_obj<C: Contender>(sizes: &Sizes) -> Sample {
    let (bytes, count) = (sizes.small, sizes.translations);
    let space = with_contents::<C>(bytes);
    let (mut state, mut sum) = (1u64, 0u64);
    let sample = timed(count, || {
        for _ in 0..count {
            sum = sum.wrapping_add(space.read_obj(aligned_below(state, bytes)));
            state = random(state);
        }
    });
    let (mut state, mut expected) = (1u64, 0u64);
    for _ in 0..count {
        expected = expected.wrapping_add(aligned_below(state, bytes) / PAGE);
        state = random(state);
    }
    assert_eq!(sum, expected, "{}: every object is right", C::NAME);
    sample
}

fn copy<C: Contender>(sizes: &Sizes, space: &C, copy: impl Fn(&C, u64, &mut [u8])) -> Sample {
    let mut to = vec![0u8; MIB as usize];
    let at = |index: u64| GPA + (index % 4 << 20);
    let sample = timed(sizes.copies, || {
        for index in 0..sizes.copies {
            copy(space, black_box(at(index)), black_box(&mut to));
        }
    });
    for (page, bytes) in (at(sizes.copies - 1) / PAGE..).zip(to.chunks(PAGE as usize)) {
        let right = bytes.chunks(8).all(|word| word == page.to_le_bytes());
        assert!(right, "{}: the bytes of page {page} are right", C::NAME);
    }
    sample
}

/// The loop of a work that calls the contender for every unit, with calls that do nothing; `None` for other works. So
/// that the instructions of an operation can be told from those of the benchmark.
pub(crate) fn run_loop(work: Work, sizes: &Sizes) -> Option<Sample> {
    #[inline(never)]
    fn translate_nothing(_space: &u64, gpa: u64) -> Option<u64> {
        black_box(());
        Some(gpa)
    }
    #[inline(never)]
    fn read_nothing(_space: &u64, gpa: u64) -> u64 {
        black_box(());
        gpa
    }
    #[inline(never)]
    fn answer_nothing(_space: &mut u64, _gpa: u64) {
        black_box(());
    }
    let translate = |feedback: fn(u64) -> u64| {
        let (count, shift) = (sizes.translations, 64 - sizes.small.ilog2());
        let (mut state, mut sum) = (1u64, 0u64);
        timed(count, || {
            for _ in 0..count {
                let hpa = translate_nothing(&0, GPA + (state >> shift)).unwrap_or(0);
                sum = sum.wrapping_add(hpa);
                state = random(state).wrapping_add(feedback(hpa));
            }
            black_box((sum, state));
        })
    };
    match work {
        Work::TranslateIndependent => Some(translate(|_| 0)),
        Work::TranslateDependent => Some(translate(|result| result)),
        Work::ReadObj => {
            let (mut state, mut sum) = (1u64, 0u64);
            let gpa = |state| aligned_below(state, sizes.small);
            Some(timed(sizes.translations, || {
                for _ in 0..sizes.translations {
                    sum = sum.wrapping_add(read_nothing(&0, gpa(state)));
                    state = random(state);
                }
                black_box((sum, state));
            }))
        }
        Work::Fault | Work::FaultZeroed => Some(timed(sizes.small / PAGE, || {
            for offset in (0..sizes.small).step_by(PAGE as usize) {
                answer_nothing(&mut 0, GPA + offset);
            }
        })),
        _ => None,
    }
}

fn lazy_declare<C: Contender>(sizes: &Sizes) -> Sample {
    let mut space = C::new();
    timed(sizes.declarations * (GIB / PAGE), || {
        for index in 0..sizes.declarations {
            space.declare(black_box(GPA + 2 * index * GIB), black_box(GIB));
        }
    })
}

fn fault<C: Contender>(sizes: &Sizes, answer: impl Fn(&mut C, u64)) -> Sample {
    let mut space = C::new();
    space.declare(GPA, sizes.small);
    let sample = timed(sizes.small / PAGE, || {
        for offset in (0..sizes.small).step_by(PAGE as usize) {
            answer(&mut space, GPA + offset);
        }
    });
    assert!(space.translate(GPA + sizes.small - PAGE).is_some(), "{}: the last page is there", C::NAME);
    sample
}

fn populate<C: Contender>(sizes: &Sizes) -> Sample {
    let mut space = C::new();
    let sample = timed(sizes.small / PAGE, || space.populate(black_box(GPA), black_box(sizes.small)));
    for offset in [0, sizes.small / 2, sizes.small - PAGE] {
        let frame = space.translate(GPA + offset).expect("the page was populated");
        // SAFETY: host physical addresses are addresses of this process, and the space owns the frame.
        let words = unsafe { std::slice::from_raw_parts(frame as *const u64, 512) };
        assert!(words.iter().all(|&word| word == 0), "{}: the frame is zeroed", C::NAME);
    }
    sample
}

fn protect<C: Contender>(sizes: &Sizes, mut space: C, change: impl Fn(&mut C, u64, u64)) -> Sample {
    space.map(GPA, HPA_4K, sizes.small);
    let sample = timed(sizes.small / PAGE, || change(&mut space, black_box(GPA), black_box(sizes.small)));
    check_linear(&space, GPA + sizes.small - PAGE, HPA_4K + sizes.small - PAGE);
    sample
}

fn protect_every_second<C: Contender>(sizes: &Sizes) -> Sample {
    let mut space = C::new();
    space.map(GPA, HPA_4K, 2 * sizes.protects * PAGE);
    timed(sizes.protects, || {
        for index in 0..sizes.protects {
            space.protect(black_box(GPA + 2 * index * PAGE), PAGE);
        }
    })
}

fn unmap_linear<C: Contender>(sizes: &Sizes) -> Sample {
    let mut space = C::new();
    space.map(GPA, HPA_4K, sizes.small);
    let sample = timed(sizes.small / PAGE, || space.unmap(black_box(GPA), black_box(sizes.small)));
    assert_eq!(space.translate(GPA + sizes.small / 2), None, "{}: it is gone", C::NAME);
    sample
}

fn unmap_frames<C: Contender>(sizes: &Sizes) -> Sample {
    let mut space = C::new();
    space.declare(GPA, sizes.small);
    for offset in (0..sizes.small).step_by(PAGE as usize) {
        space.fault(GPA + offset);
    }
    let sample = timed(sizes.small / PAGE, || space.unmap_free(black_box(GPA), black_box(sizes.small)));
    assert_eq!(space.translate(GPA + sizes.small / 2), None, "{}: it is gone", C::NAME);
    sample
}

fn split<C: Contender>(sizes: &Sizes) -> Sample {
    let mut space = C::new();
    space.map(GPA, HPA_1G, sizes.splits * GIB);
    let hole = |index: u64| index * GIB + 0x1234_5000;
    let sample = timed(sizes.splits, || {
        for index in 0..sizes.splits {
            space.unmap_inside(black_box(GPA + hole(index)));
        }
    });
    let offset = hole(sizes.splits - 1);
    assert_eq!(space.translate(GPA + offset), None, "{}: the page is gone", C::NAME);
    for neighbour in [offset - PAGE, offset + PAGE, offset - 0x1234_5000, offset + (4 << 20)] {
        check_linear(&space, GPA + neighbour, HPA_1G + neighbour);
    }
    sample
}

fn regions_remove_one<C: Contender>(sizes: &Sizes) -> Sample {
    let mut space = C::new();
    for index in 0..REGIONS {
        space.map_region(GPA + 2 * index * PAGE, HPA_4K + 2 * index * PAGE, PAGE);
    }
    // Spread over all of them; 7919 is a prime that does not divide their number.
    let victim = |index: u64| GPA + 2 * (index * 7919 % REGIONS) * PAGE;
    let sample = timed(sizes.removals, || {
        for index in 0..sizes.removals {
            space.unmap_region(black_box(victim(index)), PAGE);
        }
    });
    assert_eq!(space.translate(victim(sizes.removals - 1)), None, "{}: it is gone", C::NAME);
    sample
}

fn growth<C: Contender>(sizes: &Sizes, below: u64) -> Sample {
    let mut space = C::new();
    space.map(GPA, HPA_2M, below);
    let end = GPA + below;
    timed(sizes.growth, || {
        for index in 0..sizes.growth {
            space.map(black_box(end + index * PAGE), HPA_4K + index * PAGE, PAGE);
        }
        for index in 0..sizes.growth {
            space.unmap(black_box(end + index * PAGE), PAGE);
        }
    })
}
