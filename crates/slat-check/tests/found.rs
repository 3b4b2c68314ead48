//! What the check has found in slat: each stays as its shortest sequence.

use slat::{LeafSize, MappingFlags};
use slat_check::driver::Settings;
use slat_check::operation::{BatchEnd, Command, Operation, Step};
use slat_check::run::{AnyPlatform, platforms};
use slat_check::shape::{Shape, Span};

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

fn platform(wanted: &str) -> AnyPlatform {
    platforms().into_iter().find(|(name, _)| *name == wanted).unwrap().1
}

fn run(platform: &AnyPlatform, operations: Vec<Operation>) {
    let settings = Settings { cpus: 2, spaces: 1, failing: false, seed: 1 };
    let commands: Vec<_> = operations.into_iter().map(|operation| Command { space: 0, operation }).collect();
    if let Err(failure) = platform.run(&Shape::three_pages(1 << 30), settings, None, &commands) {
        panic!("{failure}");
    }
}

#[test]
fn a_batch_breaks_before_it_makes() {
    let page = Span { first: 0, length: 0 };
    let away = Step::Protect(page, MappingFlags::empty());
    let back = Step::Protect(page, RW | MappingFlags::UNCACHED);
    let flags = RW | MappingFlags::DEVICE;
    run(
        &platform("stage2-4-levels"),
        vec![
            Operation::MapLinear { span: page, flags, shift: 0 },
            Operation::Batch(vec![away, back], BatchEnd::Discharge),
        ],
    );
}

#[test]
fn a_fault_after_a_forgotten_debt_makes_progress() {
    let access = |page| Operation::Access { cpu: 0, page, access: MappingFlags::READ };
    run(
        &platform("ept-4-levels"),
        vec![
            Operation::MapAlloc {
                span: Span { first: 0, length: 1 },
                flags: RW,
                populate: false,
                largest: LeafSize::Size4K,
                around: LeafSize::Size4K,
            },
            access(0),
            Operation::Batch(vec![Step::Unmap(Span { first: 0, length: 0 })], BatchEnd::Forget),
            access(1),
        ],
    );
}
