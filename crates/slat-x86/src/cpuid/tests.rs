//! What is hidden, with what depends on it.

use super::*;

const ALL: Leaf = Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };
const SEEN: Seen = Seen { cr4: 0, xcr0: 1 };

fn of_all(policy: Policy, leaf: u32, subleaf: u32) -> Leaf {
    guest_leaf(policy, SEEN, leaf, subleaf, |_, _| ALL)
}

/// A machine with x87, SSE, AVX, MPX, AVX-512, protection keys and AMX, with the sizes and places of a real one.
fn machine(leaf: u32, subleaf: u32) -> Leaf {
    let component = |size, offset| Leaf { eax: size, ebx: offset, ecx: 0, edx: 0 };
    match (leaf, subleaf) {
        (1, 0) => Leaf { ecx: 1 << 26, ..Leaf::default() },
        (0xd, 0) => Leaf { eax: 0x6_02ff, ebx: 0, ecx: 0, edx: 0 },
        (0xd, 1) => Leaf { eax: 0x1f, ebx: 0x240, ecx: 0x900, edx: 0 },
        (0xd, 2) => component(256, 576),
        (0xd, 3) => component(64, 960),
        (0xd, 4) => component(64, 1024),
        (0xd, 5) => component(64, 1088),
        (0xd, 6) => component(512, 1152),
        (0xd, 7) => component(1024, 1664),
        (0xd, 9) => component(8, 2688),
        (0xd, 17) => component(64, 2752),
        (0xd, 18) => component(8192, 2816),
        _ => Leaf::default(),
    }
}

#[test]
fn no_guest_sees_virtualization_or_what_it_cannot_have() {
    let one = of_all(Policy::default(), 1, 0);
    for hidden in [3, 5, 6, 15, 21, 24, 27] {
        assert_eq!(one.ecx >> hidden & 1, 0, "bit {hidden}");
    }
    assert_eq!(one.ecx.count_ones(), 32 - 7);
    assert_eq!((one.eax, one.ebx, one.edx), (u32::MAX, u32::MAX, u32::MAX));
    let seven = of_all(Policy::default(), 7, 0);
    for hidden in [1, 2, 12, 14, 15, 25] {
        assert_eq!(seven.ebx >> hidden & 1, 0, "bit {hidden}");
    }
    for hidden in [3, 4, 5, 7, 13, 23, 24, 29, 30, 31] {
        assert_eq!(seven.ecx >> hidden & 1, 0, "bit {hidden}");
    }
    for hidden in [5, 18, 19, 20, 22, 24, 25, 26, 27, 28, 29, 30, 31] {
        assert_eq!(seven.edx >> hidden & 1, 0, "bit {hidden}");
    }
    assert_eq!((seven.eax, seven.ebx.count_ones(), seven.ecx.count_ones()), (0, 26, 22));
    assert_eq!(seven.edx.count_ones(), 19);
    let extended = of_all(Policy::default(), 0x8000_0001, 0).ecx;
    for hidden in [2, 9, 10, 12, 13, 15, 23, 24, 28, 29] {
        assert_eq!(extended >> hidden & 1, 0, "bit {hidden}");
    }
    assert_eq!(extended.count_ones(), 22);
    assert_eq!(of_all(Policy::default(), 0x8000_0008, 0).ebx, 0xc0e0_2fb7);
    for leaf in
        [5, 6, 0xa, 0xf, 0x10, 0x12, 0x14, 0x1c, 0x1e, 0x4000_0001, 0x8000_000a, 0x8000_001b, 0x8000_001f]
    {
        assert_eq!(of_all(Policy::default(), leaf, 0), Leaf::default(), "{leaf:#x}");
    }
    assert_eq!(of_all(Policy::default(), 7, 1), Leaf::default());
    for leaf in [0, 2, 4, 0xb, 0x15, 0x16, 0x8000_0000, 0x8000_0002, 0x8000_0006, 0x8000_0007] {
        assert_eq!(of_all(Policy::default(), leaf, 0), ALL, "{leaf:#x}");
    }
}

#[test]
fn the_policy_hides_more() {
    let policy = Policy { hide_random: true, hide_fast_short_rep_mov: true, hide_pcid: true };
    let (without, with) = (of_all(Policy::default(), 1, 0), of_all(policy, 1, 0));
    assert_eq!(without.ecx ^ with.ecx, 1 << 30 | 1 << 17);
    let (without, with) = (of_all(Policy::default(), 7, 0), of_all(policy, 7, 0));
    assert_eq!((without.ebx ^ with.ebx, without.edx ^ with.edx), (1 << 18 | 1 << 10, 1 << 4));
}

#[test]
fn osxsave_follows_the_guest() {
    let on = Seen { cr4: 1 << 18, ..SEEN };
    assert_eq!(guest_leaf(Policy::default(), on, 1, 0, |_, _| ALL).ecx >> 27 & 1, 1);
    assert_eq!(guest_leaf(Policy::default(), on, 1, 0, |_, _| Leaf::default()).ecx, 1 << 31);
}

#[test]
fn the_hypervisor_has_a_name() {
    let Leaf { eax, ebx, ecx, edx } = of_all(Policy::default(), 0x4000_0000, 0);
    assert_eq!(eax, 0x4000_0000);
    let name: std::vec::Vec<u8> = [ebx, ecx, edx].iter().flat_map(|part| part.to_le_bytes()).collect();
    assert_eq!(name, b"slatslatslat");
}

#[test]
fn state_components_are_those_that_are_switched() {
    assert_eq!(guest_xcr0(machine), 0xe7);
    assert_eq!(guest_xcr0(|_, _| Leaf::default()), 1, "a CPU without XSAVE");
    let leaf = |xcr0, subleaf| guest_leaf(Policy::default(), Seen { cr4: 0, xcr0 }, 0xd, subleaf, machine);
    // What is on ends with SSE, AVX, AVX-512; what there is ends with AVX-512.
    for (xcr0, bytes) in [(1, 576), (3, 576), (7, 832), (0xe7, 2688)] {
        assert_eq!(leaf(xcr0, 0), Leaf { eax: 0xe7, ebx: bytes, ecx: 2688, edx: 0 }, "{xcr0:#x}");
        assert_eq!(leaf(xcr0, 1), Leaf { eax: 7, ebx: bytes, ecx: 0, edx: 0 }, "{xcr0:#x}");
    }
    assert_eq!(leaf(7, 2), machine(0xd, 2));
    assert_eq!(leaf(7, 7), machine(0xd, 7));
    for hidden in [3, 4, 9, 17, 18, 64, u32::MAX] {
        assert_eq!(leaf(7, hidden), Leaf::default(), "{hidden}");
    }
}
