use super::{MODELS, complaint, configuration, model, script};
use crate::boot::layout::Layout;
use crate::boot::machine::{Machine, Pace};
use crate::platform::Platform;
use slat_hv_protocol::MemoryMap;

fn machine(pace: Pace) -> Machine {
    let cpu = "corei7_haswell_4770".to_owned();
    Machine { platform: Platform::Intel, emulator: "bochs".into(), cpu, cpus: 2, pace }
}

#[test]
fn a_model_has_its_name_and_short_ones() {
    assert_eq!(model("haswell_4770"), Some("corei7_haswell_4770"));
    assert_eq!(model("skylake_x"), Some("corei7_skylake_x"));
    assert_eq!(model("tigerlake"), Some("tigerlake"));
    assert_eq!(model("corei7"), None, "there are several");
    assert_eq!(model("EPYC"), None);
    for name in MODELS {
        assert_eq!(model(name), Some(name));
    }
    assert_eq!(model(Platform::Intel.default_cpu()), Some(Platform::Intel.default_cpu()));
}

#[test]
fn the_configuration_has_the_layout_in_it() {
    let layout = Layout::new(&MemoryMap::X86_64, 1 << 20, 0, 128 << 20);
    let text = configuration(&machine(Pace::Usual), &layout, "mode=file, dev=/dev/fd/3");
    let memory = layout.machine_memory >> 20;
    for line in [
        "cpu: model=corei7_haswell_4770, count=2, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1",
        &format!("memory: guest={memory}, host={memory}"),
        "optramimage1: file=payload, address=0x1000000",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
    }
    assert!(configuration(&machine(Pace::Waiting), &layout, "mode=null").contains("ips=4000000,"));
}

#[test]
fn the_debugger_goes_on_keeps_the_recording_and_quits() {
    let layout = Layout::new(&MemoryMap::X86_64, 1 << 20, 0, 128 << 20);
    assert_eq!(script(&layout), "c\nq\n");
    let layout = layout.with_recording();
    let (address, size) = (layout.recording.address, layout.recording.size);
    assert_eq!(script(&layout), format!("c\nwritemem \"recording\" {address:#x} {size:#x}\nq\n"));
    let layout = layout.with_trace();
    let (address, size) = (layout.trace.address, layout.trace.size);
    assert!(script(&layout).ends_with(&format!("writemem \"trace\" {address:#x} {size:#x}\nq\n")));
}

#[test]
fn what_bochs_complains_about_stands_between_lines() {
    let text = "00i[      ] reading configuration from bochsrc\n====\n\
        Bochs is exiting with the following message:\n[MEM0  ] ROM: couldn't open ROM image file 'rom'.\n====\n";
    assert_eq!(complaint(text), "[MEM0  ] ROM: couldn't open ROM image file 'rom'.");
    assert_eq!(complaint("00i[SIM   ] quit_sim called with exit code 0\n"), "");
}
