//! This crate and slat-model agree on what entries mean; and a reader that is blind to a bit that means something is found out.

use super::model::{Case, Setup, case};
use crate::{Format, PhysicalMemory};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use std::vec::Vec;

fn agrees(case: &Case) -> Result<(), TestCaseError> {
    let setup = case.setup();
    let found = setup.disagreement(&setup.memory());
    prop_assert!(found.is_none(), "{:?} at level {}, {:#x}", found, setup.level, setup.entry);
    Ok(())
}

macro_rules! agreement {
    ($($name:ident $format:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let config = Config { cases: 20_000, failure_persistence: None, ..Config::default() };
                let mut runner = TestRunner::new(config);
                if let Err(error) = runner.run(&case($format), |case| agrees(&case)) {
                    panic!("{error}");
                }
            }
        )*
    };
}

agreement! {
    ept_as_the_model Format::Ept;
    npt_as_the_model Format::Npt;
    stage2_as_the_model Format::Stage2;
    sv39x4_as_the_model Format::Sv39x4;
    sv48x4_as_the_model Format::Sv48x4;
    sv57x4_as_the_model Format::Sv57x4;
    sv39_as_the_model Format::Sv39;
    sv48_as_the_model Format::Sv48;
    sv57_as_the_model Format::Sv57;
    x86_64_as_the_model Format::X86_64;
}

/// A memory in which one bit of every entry is changed: a decoder that reads it wrongly.
struct Distorted<M> {
    memory: M,
    bit: u32,
    set: bool,
}

impl<M: PhysicalMemory> PhysicalMemory for Distorted<M> {
    fn read(&self, address: u64) -> Option<u64> {
        let raw = self.memory.read(address)?;
        let bit = 1 << self.bit;
        Some(if self.set && raw != 0 { raw | bit } else { raw & !bit })
    }
}

/// The bits of an entry to which a reader cannot be blind without being found out by one of `cases`.
fn seen_bits(cases: &[Setup]) -> u64 {
    let is_found = |bit| {
        [false, true].into_iter().all(|set| {
            cases.iter().any(|setup| {
                let memory = Distorted { memory: setup.memory(), bit, set };
                setup.disagreement(&memory).is_some()
            })
        })
    };
    (0..64).filter(|&bit| is_found(bit)).map(|bit| 1 << bit).sum()
}

fn bits(high: u32, low: u32) -> u64 {
    crate::decode::mask(high, low)
}

#[test]
fn a_reader_blind_to_a_bit_is_found_out() {
    // What the verdict on an access does not depend on: bits for software, and flags that refuse nothing; of x86-64 the memory
    // type as well, which the model does not tell.
    let long = bits(6, 5) | bits(11, 9) | bits(62, 52);
    let riscv = bits(5, 5) | bits(9, 8);
    let unseen = [
        (Format::Ept, bits(9, 8) | bits(11, 11) | bits(63, 52)),
        (Format::Npt, long),
        (Format::X86_64, long | bits(4, 3) | bits(8, 8)),
        (Format::Stage2, bits(11, 11) | bits(52, 52) | bits(63, 55)),
        (Format::Sv39x4, riscv),
        (Format::Sv48x4, riscv),
        (Format::Sv57x4, riscv),
        (Format::Sv39, riscv),
        (Format::Sv48, riscv),
        (Format::Sv57, riscv),
    ];
    for (format, unseen) in unseen {
        let mut runner = TestRunner::deterministic();
        let strategy = case(format);
        let cases: Vec<Setup> =
            (0..2000).map(|_| strategy.new_tree(&mut runner).unwrap().current().setup()).collect();
        let seen = seen_bits(&cases);
        assert_eq!(
            !seen,
            unseen,
            "{format}: {:#x} is found, and should not be or the other way round",
            !seen ^ unseen
        );
    }
}
