//! Tables that nobody would write: they end, within the budget, and a visit and walks say the same of them.

use super::Leaves;
use crate::{
    Cpu, Descend, End, Format, Mapping, Pointer, Root, Tables, Trouble, TroubleKind, Visitor, WalkEnd, Words,
};
use core::ops::ControlFlow;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const BASE: u64 = 0x1_0000;
const FRAMES: u64 = 12;

/// Memory in which most words are zero, and the others point to frames of it, map something, or are noise.
fn words() -> impl Strategy<Value = Vec<u64>> {
    let word = prop_oneof![
        6 => (0..FRAMES, 0u64..4).prop_map(|(frame, kind)| {
            let table = BASE + 0x1000 * frame;
            [table | 7, table | 0x27, table | 3, table >> 2 | 1][kind as usize]
        }),
        4 => (any::<u64>(), 0u64..5).prop_map(|(page, kind)| {
            let page = page & 0xffff_f000;
            [page | 0x37, page | 0x67, page | 0x7ff, page >> 2 | 0xdf, page & !0x3fff_ffff | 0xb7][kind as usize]
        }),
        1 => any::<u64>(),
    ];
    prop::collection::vec((0..FRAMES * 512, word), 1..400).prop_map(|places| {
        let mut words = vec![0; FRAMES as usize * 512];
        for (place, word) in places {
            // Most of them near the beginnings of tables, so that walks find them.
            let place = if word & 1 << 13 == 0 { place & !0x1f8 } else { place };
            words[place as usize] = word;
        }
        words
    })
}

#[derive(Default)]
struct Everything {
    leaves: Vec<Mapping>,
    troubles: Vec<Trouble>,
}

impl Visitor for Everything {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        self.leaves.push(*mapping);
        ControlFlow::Continue(())
    }

    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        self.troubles.push(*trouble);
        ControlFlow::Continue(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_visit_says_what_walks_say(
        words in words(),
        format in 0usize..10,
        budget in prop_oneof![Just(20_000u64), 0u64..3000],
        addresses in prop::collection::vec(any::<u64>(), 20),
    ) {
        let format = Format::ALL[format];
        let tables = Tables::new(Root::new(format, BASE).unwrap(), Cpu::permissive(format));
        let memory = Words { base: BASE, words: &words };
        let mut seen = Everything::default();
        let summary = tables.visit(&memory, 0..=u64::MAX, budget, &mut seen);
        prop_assert!(summary.entries <= budget);
        prop_assert!(seen.leaves.windows(2).all(|pair| pair[0].address < pair[1].address));
        for leaf in &seen.leaves {
            let walk = tables.walk(&memory, leaf.address);
            prop_assert_eq!(walk.mapping(), Some(leaf));
            let last = tables.walk(&memory, leaf.address + leaf.length - 1);
            prop_assert_eq!(last.output(), Some(leaf.output + leaf.length - 1));
        }
        // The other way round: where the visit came, it has passed over nothing that is mapped.
        for address in addresses {
            let address = tables.root().address(address & (u64::MAX >> (64 - tables.root().input_bits())));
            let is_seen = match summary.end {
                End::Truncated { address: end } => address < end,
                _ => true,
            };
            let within = |trouble: &&Trouble| address.wrapping_sub(trouble.address) < trouble.length;
            let is_cycle = |trouble: &Trouble| matches!(trouble.kind, TroubleKind::Cycle { .. });
            let passed_over = seen.troubles.iter().filter(within).any(is_cycle);
            if is_seen && !passed_over {
                let walk = tables.walk(&memory, address);
                let leaf = seen.leaves.iter().find(|leaf| address.wrapping_sub(leaf.address) < leaf.length);
                prop_assert_eq!(walk.mapping(), leaf);
                let troubled = matches!(walk.end(), WalkEnd::Malformed { .. } | WalkEnd::Unreadable { .. });
                prop_assert!(!troubled || seen.troubles.iter().any(|trouble| within(&trouble)));
            }
        }
    }

    /// A register of any value gives a root whose every walk ends, or an error.
    #[test]
    fn any_register(raw in any::<[u64; 2]>(), address in any::<u64>(), which in 0usize..7) {
        use crate::Register;
        let [a, b] = raw;
        let register = [
            Register::Eptp(a),
            Register::Ncr3 { ncr3: a, la57: b & 1 != 0 },
            Register::Cr3 { cr3: a, la57: b & 1 != 0 },
            Register::Stage2 { vttbr: a, vtcr: b & !(1 << 32 | 3 << 14) },
            Register::Hgatp(a & !(7 << 60) | 8 << 60),
            Register::Satp(a & !(7 << 60) | 8 << 60),
            Register::Satp(a),
        ][which];
        prop_assert!(register.fields().count() > 0);
        if let Ok(root) = register.root() {
            let tables = Tables::new(root, Cpu::permissive(root.format()));
            let nothing = Words { base: 0, words: &[] };
            prop_assert_eq!(tables.walk(&nothing, address).steps().count(), 0);
        }
    }

    /// Any entry, level and registers of a fault can be shown.
    #[test]
    fn everything_has_a_text(raw in any::<u64>(), level in any::<u8>(), more in any::<[u64; 4]>()) {
        use crate::FaultRegisters as F;
        use std::string::ToString;
        let [a, b, c, d] = more;
        for format in Format::ALL {
            let decoder = crate::Decoder::new(format, Cpu::permissive(format));
            prop_assert!(!decoder.decode(level, raw).to_string().is_empty());
            for field in decoder.fields(level, raw) {
                prop_assert!(field.high >= field.low && field.high < 64);
                prop_assert!(!field.to_string().is_empty());
            }
        }
        for fault in [
            F::EptViolation { qualification: raw, gpa: a, linear: Some(b) },
            F::NestedPageFault { exitinfo1: raw, exitinfo2: a },
            F::PageFault { error_code: raw, cr2: a },
            F::Abort { esr: raw & 0x3ff_ffff | 0x24 << 26 | (a & 1) << 26, far: Some(b), hpfar: Some(c) },
            F::Abort { esr: raw, far: None, hpfar: None },
            F::Trap { scause: raw & 31, stval: b, htval: c, htinst: d },
            F::Trap { scause: raw, stval: b, htval: c, htinst: 0x3020 },
        ] {
            prop_assert!(!fault.to_string().is_empty());
            let _ = (fault.access(), fault.address(), fault.is_of_walk(), fault.fields().count());
        }
    }
}

/// Every entry of every table points to the next one, and the last ones to the same page: 2^36 leaves.
#[test]
fn a_fan_ends_with_the_budget() {
    let mut words = vec![0; 4 * 512];
    for (table, below) in [(0, 0x2007), (1, 0x3007), (2, 0x4007), (3, 0x37)] {
        words[table * 512..][..512].fill(below);
    }
    let memory = Words { base: 0x1000, words: &words };
    let tables = Tables::new(Root::new(Format::Ept, 0x1000).unwrap(), Cpu::permissive(Format::Ept));
    let mut leaves = Leaves::default();
    let summary = tables.visit(&memory, 0..=u64::MAX, 100_000, &mut leaves);
    assert_eq!(summary.entries, 100_000);
    let address = leaves.0.last().unwrap().address + 0x1000;
    assert_eq!(summary.end, End::Truncated { address });
}

#[test]
fn a_table_that_is_its_own_ancestor_is_not_entered() {
    for back in 0..4 {
        let mut words = vec![0; 4 * 512];
        for table in 0..3 {
            words[table * 512] = (0x1000 * (table as u64 + 2)) | 7;
        }
        words[1536] = 0x37;
        // The entry of level 1 beside: it points to the root, or to what is below it.
        words[1024 + 1] = (0x1000 * (back + 1)) | 7;
        let memory = Words { base: 0x1000, words: &words };
        let tables = Tables::new(Root::new(Format::Ept, 0x1000).unwrap(), Cpu::permissive(Format::Ept));
        let mut seen = Everything::default();
        let summary = tables.visit(&memory, 0..=u64::MAX, 1 << 20, &mut seen);
        assert_eq!(summary.end, End::Complete);
        let found: Vec<_> = seen.troubles.iter().map(|trouble| (trouble.address, trouble.kind)).collect();
        match back {
            // The table of level 0 is beside it and no ancestor: it is entered twice.
            3 => assert_eq!((found.len(), seen.leaves.len()), (0, 2)),
            _ => assert_eq!(found, [(1 << 21, TroubleKind::Cycle { ancestor: 3 - back as u8 })]),
        }
    }
}

#[test]
fn a_visitor_can_skip_and_stop() {
    struct First(u32, bool);
    impl Visitor for First {
        fn leaf(&mut self, _: &Mapping) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Break(())
        }

        fn table(&mut self, pointer: &Pointer) -> ControlFlow<(), Descend> {
            let skip = self.1 && pointer.at.level == 1;
            ControlFlow::Continue(if skip { Descend::Skip } else { Descend::Yes })
        }
    }
    let mut words = vec![0; 4 * 512];
    (words[0], words[512], words[1024], words[1536], words[1537]) = (0x2007, 0x3007, 0x4007, 0x37, 0x37);
    let memory = Words { base: 0x1000, words: &words };
    let tables = Tables::new(Root::new(Format::Ept, 0x1000).unwrap(), Cpu::permissive(Format::Ept));
    for (skip, leaves, end) in [(false, 1, End::Stopped), (true, 0, End::Complete)] {
        let mut visitor = First(0, skip);
        assert_eq!(tables.visit(&memory, 0..=u64::MAX, 1 << 20, &mut visitor).end, end);
        assert_eq!(visitor.0, leaves);
    }
}
