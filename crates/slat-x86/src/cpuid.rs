//! What a guest learns of its CPU.
//!
//! **Invariant:** a guest sees a subset of what the machine has: what a hypervisor cannot or does not want to give it is
//! hidden together with everything that only exists with it. (Intel SDM vol. 2A, "CPUID"; AMD64 APM vol. 3, appendix E.)

/// The four registers of one leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the manuals name them")]
pub struct Leaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// Further things to hide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// RDRAND and RDSEED, so that two runs are the same.
    pub hide_random: bool,
    /// Fast short REP MOV (CPUID 7 EDX\[4\]): a CPU model that has it only by name is found out by its guests.
    pub hide_fast_short_rep_mov: bool,
    /// PCIDs and INVPCID.
    pub hide_pcid: bool,
}

/// The registers of the guest that CPUID reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
}

const fn bit(position: u32) -> u32 {
    1 << position
}

/// Leaf 1, ECX: MONITOR, VMX, SMX, PDCM, x2APIC, TSC deadline.
const LEAF_1_ECX: u32 = bit(3) | bit(5) | bit(6) | bit(15) | bit(21) | bit(24);
const OSXSAVE: u32 = bit(27);
const RDRAND: u32 = bit(30);
const HYPERVISOR: u32 = bit(31);
const PCID: u32 = bit(17);
/// Leaf 7, EBX: IA32_TSC_ADJUST, SGX, MPX, resource monitoring and allocation, processor trace.
const LEAF_7_EBX: u32 = bit(1) | bit(2) | bit(12) | bit(14) | bit(15) | bit(25);
const INVPCID: u32 = bit(10);
const RDSEED: u32 = bit(18);
/// Leaf 7, ECX: protection keys (with OSPKE), WAITPKG, shadow stacks, TME, key locker, bus-lock detection, ENQCMD, SGX launch
/// control, supervisor keys.
const LEAF_7_ECX: u32 =
    bit(3) | bit(4) | bit(5) | bit(7) | bit(13) | bit(23) | bit(24) | bit(29) | bit(30) | bit(31);
/// Leaf 7, EDX: user interrupts, PCONFIG, architectural LBR, indirect branch tracking, AMX (22, 24, 25), speculation control
/// (26 to 31).
const LEAF_7_EDX: u32 = bit(5) | bit(18) | bit(19) | bit(20) | bit(22) | bit(24) | bit(25) | 0xfc00_0000;
const FAST_SHORT_REP_MOV: u32 = bit(4);
/// Leaf DH.1, EAX: XSAVES and XFD.
const LEAF_D1_EAX: u32 = bit(3) | bit(4);
/// XCR0: x87, SSE, AVX, AVX-512. What else there is has registers that nobody switches.
pub const XCR0: u64 = 0xe7;
/// Leaf 8000_0001H, ECX: SVM, OSVW, IBS, SKINIT, WDT, LWP, performance counters, MONITORX.
const LEAF_EXTENDED_1_ECX: u32 =
    bit(2) | bit(9) | bit(10) | bit(12) | bit(13) | bit(15) | bit(23) | bit(24) | bit(28) | bit(29);
/// Leaf 8000_0008H, EBX: INVLPGB, MBA, IBPB, IBRS, STIBP, their companions, SSBD.
const LEAF_EXTENDED_8_EBX: u32 = bit(3) | bit(6) | bit(12) | bit(14) | bit(15) | 0x1f << 16 | 0x3f << 24;

/// The leaf under which a hypervisor names itself.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// The name, 12 bytes.
const NAME: [u32; 3] =
    [u32::from_le_bytes(*b"slat"), u32::from_le_bytes(*b"slat"), u32::from_le_bytes(*b"slat")];

/// What a guest reads from `leaf` and `subleaf`; `host` is CPUID itself.
#[must_use]
pub fn guest_leaf(
    policy: Policy,
    seen: Seen,
    leaf: u32,
    subleaf: u32,
    host: impl Fn(u32, u32) -> Leaf,
) -> Leaf {
    let own = host(leaf, subleaf);
    match leaf {
        1 => {
            let mut ecx = own.ecx & !LEAF_1_ECX & !OSXSAVE | HYPERVISOR;
            // CR4.OSXSAVE.
            if own.ecx & OSXSAVE != 0 && seen.cr4 >> 18 & 1 != 0 {
                ecx |= OSXSAVE;
            }
            if policy.hide_random {
                ecx &= !RDRAND;
            }
            if policy.hide_pcid {
                ecx &= !PCID;
            }
            Leaf { ecx, ..own }
        }
        7 if subleaf == 0 => {
            let (mut ebx, mut edx) = (own.ebx & !LEAF_7_EBX, own.edx & !LEAF_7_EDX);
            if policy.hide_random {
                ebx &= !RDSEED;
            }
            if policy.hide_pcid {
                ebx &= !INVPCID;
            }
            if policy.hide_fast_short_rep_mov {
                edx &= !FAST_SHORT_REP_MOV;
            }
            // One subleaf: what the others name is not known here.
            Leaf { eax: 0, ebx, ecx: own.ecx & !LEAF_7_ECX, edx }
        }
        0xd => state_components(seen.xcr0, subleaf, own, host),
        // MONITOR; power management; performance counters; resources; SGX; processor trace; AMX.
        5 | 6 | 7 | 0xa | 0xf | 0x10 | 0x12 | 0x14 | 0x1c..=0x1e => Leaf::default(),
        HYPERVISOR_LEAF => {
            let [ebx, ecx, edx] = NAME;
            Leaf { eax: HYPERVISOR_LEAF, ebx, ecx, edx }
        }
        0x4000_0001..=0x4fff_ffff => Leaf::default(),
        0x8000_0001 => Leaf { ecx: own.ecx & !LEAF_EXTENDED_1_ECX, ..own },
        0x8000_0008 => Leaf { ebx: own.ebx & !LEAF_EXTENDED_8_EBX, ..own },
        // SVM; IBS; LWP; encrypted memory.
        0x8000_000a | 0x8000_001b | 0x8000_001c | 0x8000_001f..=0x8000_0026 => Leaf::default(),
        _ => own,
    }
}

/// Leaf DH: which state components there are and how large an XSAVE area is with those that `xcr0` has on.
fn state_components(xcr0: u64, subleaf: u32, own: Leaf, host: impl Fn(u32, u32) -> Leaf) -> Leaf {
    match subleaf {
        0 => {
            let supported = (u64::from(own.edx) << 32 | u64::from(own.eax)) & XCR0;
            Leaf {
                eax: supported as u32,
                ebx: area(xcr0 & supported, &host),
                ecx: area(supported, &host),
                edx: (supported >> 32) as u32,
            }
        }
        // With XSAVES hidden there is no compacted supervisor state.
        1 => Leaf { eax: own.eax & !LEAF_D1_EAX, ebx: area(xcr0 & XCR0, &host), ecx: 0, edx: 0 },
        component if component < 64 && XCR0 >> component & 1 == 1 => own,
        _ => Leaf::default(),
    }
}

/// Bytes of a standard XSAVE area with these components: the legacy region and header, and what ends last.
fn area(components: u64, host: &impl Fn(u32, u32) -> Leaf) -> u32 {
    const LEGACY_AND_HEADER: u32 = 576;
    let extended = (2..63).filter(|component| components >> component & 1 == 1);
    let ends = extended.map(|component| {
        let Leaf { eax: size, ebx: offset, .. } = host(0xd, component);
        offset.saturating_add(size)
    });
    ends.fold(LEGACY_AND_HEADER, u32::max)
}

/// The state components that the machine has and a guest may turn on.
#[must_use]
pub fn guest_xcr0(host: impl Fn(u32, u32) -> Leaf) -> u64 {
    let has_xsave = host(1, 0).ecx & bit(26) != 0;
    let Leaf { eax, edx, .. } = host(0xd, 0);
    if has_xsave { (u64::from(edx) << 32 | u64::from(eax)) & XCR0 } else { 1 }
}

#[cfg(all(test, not(loom)))]
mod tests;
