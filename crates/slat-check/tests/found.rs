//! What the check has found in slat: each stays as its shortest sequence.

use slat::{LeafSize, MappingFlags};
use slat_check::driver::Settings;
use slat_check::operation::{BatchEnd, Command, HostAccess, HostAccessKind, Operation, Step};
use slat_check::run::{AnyPlatform, platforms};
use slat_check::shape::{Shape, Span};

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

fn platform(wanted: &str) -> AnyPlatform {
    platforms().into_iter().find(|(name, _)| *name == wanted).expect("a known name").1
}

fn run(platform: &AnyPlatform, shape: &Shape, operations: Vec<Operation>) {
    let settings = Settings { cpus: 2, spaces: 1, failing: false, seed: 1 };
    let commands: Vec<_> = operations.into_iter().map(|operation| Command { space: 0, operation }).collect();
    if let Err(failure) = platform.run(shape, settings, None, &commands) {
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
        &Shape::three_pages(1 << 30),
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
        &Shape::three_pages(1 << 30),
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

#[test]
fn every_removed_table_is_invalidated() {
    let both = Span { first: 5, length: 1 };
    run(
        &platform("stage2-4-levels"),
        &Shape::pages((1 << 30) + (2 << 20)),
        vec![
            Operation::MapLinear { span: both, flags: MappingFlags::empty(), shift: 0 },
            Operation::Unmap(both),
        ],
    );
}

/// A large leaf of host memory was split, and the debt forgotten: the new table waited for an invalidation that never came, and
/// the answer to a fault did not link it.
#[test]
fn a_fault_in_host_memory_after_a_forgotten_split_makes_progress() {
    for (name, platform) in platforms() {
        let shape = Shape::one_block(1 << 30);
        let (block, page) = (Span { first: 1, length: 1 }, Span { first: 1, length: 0 });
        let commands = vec![
            Operation::MapLinear { span: block, flags: RW, shift: 0 },
            Operation::Batch(vec![Step::Protect(page, MappingFlags::READ)], BatchEnd::Forget),
            Operation::Fault { cpu: 0, page: 3, access: MappingFlags::WRITE },
        ];
        println!("{name}");
        run(&platform, &shape, commands);
    }
}

/// RISC-V: that instructions are fetched past the data caches was taken for data that is.
#[test]
fn uncached_memory_that_can_be_executed_takes_atomic_accesses() {
    for (name, platform) in platforms().into_iter().filter(|(name, _)| !name.starts_with("stage2")) {
        let flags = MappingFlags::PERMISSIONS | MappingFlags::UNCACHED;
        if !platform.rules().expressible(flags) {
            continue;
        }
        println!("{name}");
        let (largest, around) = (LeafSize::Size4K, LeafSize::Size4K);
        let span = Span { first: 0, length: 0 };
        let access = HostAccess { kind: HostAccessKind::Exchange, page: 0, offset: 0, length: 8, other: 1 };
        let operations = vec![
            Operation::MapAlloc { span, flags, populate: false, largest, around },
            Operation::Host(access),
        ];
        run(&platform, &Shape::three_pages(1 << 30), operations);
    }
}

/// RISC-V, without marks by the hart: what a load combines of both stages serves no store that the dirty flag refuses. (It
/// was the model that did not know.)
#[test]
fn a_page_that_was_only_read_is_clean_until_the_write() {
    let access = |cpu, access| Operation::Access { cpu, page: 0, access };
    for name in ["gstage-sv39x4-marks-by-fault", "gstage-sv57x4-marks"] {
        let span = Span { first: 0, length: 2 };
        let (largest, around) = (LeafSize::Size4K, LeafSize::Size4K);
        let mut operations = vec![Operation::MapAlloc { span, flags: RW, populate: false, largest, around }];
        for _ in 0..20 {
            operations.extend([0, 1].map(|cpu| access(cpu, MappingFlags::READ)));
            operations.push(Operation::Populate(Span { first: 1, length: 0 }));
        }
        operations.extend([0, 1].map(|cpu| access(cpu, MappingFlags::WRITE)));
        run(&platform(name), &Shape::three_pages(1 << 30), operations);
    }
}

fn alloc(span: Span, flags: MappingFlags) -> Operation {
    let (largest, around) = (LeafSize::Size4K, LeafSize::Size4K);
    Operation::MapAlloc { span, flags, populate: true, largest, around }
}

/// What the guest writes meanwhile is chosen by the seed.
fn run_with_seeds(platform: &AnyPlatform, operations: &[Operation]) {
    for seed in 0..30 {
        let settings = Settings { cpus: 2, spaces: 1, failing: false, seed };
        let command = |operation: &Operation| Command { space: 0, operation: operation.clone() };
        let commands: Vec<_> = operations.iter().map(command).collect();
        if let Err(failure) = platform.run(&Shape::pages(1 << 30), settings, None, &commands) {
            panic!("seed {seed}: {failure}");
        }
    }
}

/// Beside a page that was pinned, one that the guest wrote to during a fork was clean: its mark was set in the table of which the
/// space had a copy already. On Arm that copy followed on the table without an invalidation between.
#[test]
fn a_fork_of_a_space_with_pins_loses_no_mark_and_breaks_before_it_makes() {
    for (name, platform) in platforms() {
        println!("{name}");
        let pinned = Span { first: 2, length: 0 };
        let operations =
            [alloc(Span { first: 0, length: 5 }, RW), Operation::Pin(pinned), Operation::Snapshot];
        run_with_seeds(&platform, &operations);
    }
}

/// Going back to a snapshot brought pages back that it leaves out, of frames that were given back.
#[test]
fn what_a_snapshot_leaves_out_does_not_come_back() {
    for (name, platform) in platforms() {
        println!("{name}");
        let (own, other) = (Span { first: 0, length: 0 }, Span { first: 1, length: 0 });
        let access = |page| Operation::Access { cpu: 1, page, access: MappingFlags::WRITE };
        let custom = Operation::MapCustom { span: other, flags: RW, source: 1 };
        let back = [Operation::Reset, access(0), access(1)];
        let operations = [&[alloc(own, RW), custom, access(1)][..], &back, &back, &back].concat();
        run_with_seeds(&platform, &operations);
        let kept = [alloc(Span { first: 0, length: 1 }, RW), Operation::SetInChildren(other, false)];
        run_with_seeds(&platform, &[&kept[..], &back, &back, &back].concat());
    }
}

/// Writes to a page that can only be written to were answered with a retry for ever once it was shared.
#[test]
fn a_page_that_can_only_be_written_to_is_copied() {
    let span = Span { first: 0, length: 0 };
    let write = Operation::Access { cpu: 0, page: 0, access: MappingFlags::WRITE };
    for (name, platform) in platforms().into_iter().filter(|(name, _)| name.starts_with("stage2")) {
        println!("{name}");
        for flags in [MappingFlags::WRITE, MappingFlags::WRITE | MappingFlags::USER] {
            let protect = Operation::Protect(span, flags);
            run_with_seeds(&platform, &[alloc(span, RW), Operation::Reset, protect.clone(), write.clone()]);
            run_with_seeds(
                &platform,
                &[alloc(span, RW), protect, Operation::Fork { into: 0 }, write.clone()],
            );
        }
    }
}
