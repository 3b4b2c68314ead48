//! The names under which instructions are counted.

use slat_model::{BarrierAccess, Domain, Instruction, Tlbi};

/// The mnemonic, with what tells its kinds apart.
pub(crate) fn mnemonic(instruction: Instruction) -> String {
    match instruction {
        Instruction::Tlbi { operation, broadcast, .. } => {
            format!("tlbi {}{}", tlbi(operation), if broadcast { "is" } else { "" })
        }
        Instruction::Dsb { domain, access } => {
            let domain = match domain {
                Domain::NonShareable => "nsh",
                Domain::InnerShareable => "ish",
                Domain::OuterShareable => "osh",
                Domain::FullSystem => return "dsb sy".to_owned(),
            };
            let access = match access {
                BarrierAccess::All => "",
                BarrierAccess::Stores => "st",
                BarrierAccess::Loads => "ld",
            };
            format!("dsb {domain}{access}")
        }
        Instruction::Isb => "isb".to_owned(),
        Instruction::Invept { kind: 1, .. } => "invept single-context".to_owned(),
        Instruction::Invept { .. } => "invept all-context".to_owned(),
        Instruction::Vmrun { tlb_control } => format!("vmrun, TLB_CONTROL {tlb_control}"),
        Instruction::HfenceGvma { address: Some(_), .. } => "hfence.gvma by address".to_owned(),
        Instruction::HfenceGvma { .. } => "hfence.gvma".to_owned(),
        // slat asks for no other, so its name matters little.
        other => format!("{other:?}").split([' ', '{']).next().unwrap_or_default().to_lowercase(),
    }
}

fn tlbi(operation: Tlbi) -> &'static str {
    match operation {
        Tlbi::Ipas2e1 => "ipas2e1",
        Tlbi::Ipas2le1 => "ipas2le1",
        Tlbi::Ripas2e1 => "ripas2e1",
        Tlbi::Ripas2le1 => "ripas2le1",
        Tlbi::Vmalle1 => "vmalle1",
        Tlbi::Vmalls12e1 => "vmalls12e1",
        Tlbi::Alle1 => "alle1",
        Tlbi::Vae1 => "vae1",
        Tlbi::Vaae1 => "vaae1",
        Tlbi::Aside1 => "aside1",
    }
}
