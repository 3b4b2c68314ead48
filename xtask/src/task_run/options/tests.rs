use super::{MISTAKES, MachineKind, Options, SMALL, bootargs, parse_size};
use clap::Parser;
use slat_hv_model::Cpu;
use slat_hv_protocol::{FaultPolicy, Leaf, Mistake};
use slat_model::Policy;
use std::path::Path;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    options: Options,
}

fn parse(words: &[&str]) -> Result<Options, String> {
    let line = CommandLine::try_parse_from(std::iter::once(&"run").chain(words));
    line.map(|line| line.options).map_err(|error| error.to_string())
}

fn refusal(words: &[&str]) -> String {
    parse(words).unwrap().check().map(|_| ()).map_err(|error| format!("{error:#}")).unwrap_err()
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> String {
    let file = directory.join(name);
    std::fs::write(&file, bytes).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn sizes_take_suffixes() {
    assert_eq!(parse_size("128M"), Ok(128 << 20));
    assert_eq!(parse_size("1g"), Ok(1 << 30));
    assert_eq!(parse_size("65536K"), Ok(64 << 20));
    assert_eq!(parse_size("4096"), Ok(4096));
    for wrong in ["", "M", "12X", "-1M", "1.5G", "99999999999G"] {
        assert!(parse_size(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn defaults_are_the_documented_ones() {
    let options = parse(&[]).unwrap();
    assert_eq!(options.memory, 128 << 20);
    assert_eq!(
        (options.leaf, options.on_fault, options.mistake),
        (Leaf::Auto, FaultPolicy::Stop, Mistake::None)
    );
    assert_eq!((options.timeout(), options.cpu(), options.cpus), (60, "cortex-a72", 1));
    assert_eq!((options.arch(), options.machine), ("aarch64", MachineKind::Emulator));
    let checked = options.check().unwrap();
    assert_eq!(checked.bootargs, "earlycon console=ttyAMA0 panic=-1");
    assert_eq!(checked.choices.churn, None);
}

#[test]
fn every_mistake_of_the_protocol_has_its_name() {
    for name in MISTAKES {
        let options = parse(&["--mistake", name]).unwrap();
        assert_eq!(serde_json::to_value(options.mistake).unwrap(), name);
    }
}

#[test]
fn other_architectures_are_refused() {
    assert!(parse(&["--arch", "riscv64"]).unwrap_err().contains("aarch64 is the only architecture so far"));
}

#[test]
fn churn_takes_a_seed() {
    let options = parse(&["--churn", "--churn-seed", "7"]).unwrap();
    assert_eq!(options.check().unwrap().choices.churn.unwrap().seed, 7);
    assert!(parse(&["--churn-seed", "7"]).is_err());
}

#[test]
fn there_are_one_or_two_cpus_and_more_on_the_model() {
    assert_eq!(parse(&["--cpus", "2"]).unwrap().cpus, 2);
    for wrong in ["0", "9", "-1", "two"] {
        assert!(parse(&["--cpus", wrong]).is_err(), "{wrong}");
    }
    assert!(refusal(&["--cpus", "3"]).contains("--cpus: the emulated machine has at most 2"));
    assert!(parse(&["--machine", "model", "--cpus", "8"]).unwrap().check_model().is_ok());
}

#[test]
fn the_model_has_defaults_of_its_own() {
    let options = parse(&["--machine", "model"]).unwrap();
    assert_eq!((options.machine, options.memory), (MachineKind::Model, 64 << 20));
    let choices = options.check_model().unwrap();
    assert_eq!((choices.cpu, choices.seed, choices.policy), (Cpu::Arm, 1, Policy::Everything));
    let words =
        ["--machine", "model", "--format", "gstage", "--seed", "7", "--tlb", "random", "--memory", "32M"];
    let options = parse(&words).unwrap();
    let choices = options.check_model().unwrap();
    assert_eq!((choices.cpu, choices.policy, options.memory), (Cpu::Riscv, Policy::Seeded(7), 32 << 20));
    assert!(
        parse(&["--machine", "model", "--format", "sv39"]).unwrap_err().contains("stage2, ept, npt, gstage")
    );
}

#[test]
fn what_means_nothing_on_a_machine_is_named() {
    let on_model = |words: &[&str]| {
        let words = [&["--machine", "model"], words].concat();
        parse(&words).unwrap().check_model().map(|_| ()).unwrap_err().to_string()
    };
    for words in [
        &["--arch", "aarch64"][..],
        &["--guest", "x"],
        &["--initrd", "x"],
        &["--append", "x"],
        &["--gpa-bits", "40"],
        &["--on-fault", "inject"],
        &["--timeout", "60"],
        &["--compare"],
        &["--no-native"],
        &["--cpu", "cortex-a72"],
        &["--record", "x"],
    ] {
        assert_eq!(on_model(words), format!("{}: not with --machine model", words[0]));
    }
    assert!(on_model(&["--memory", "8M"]).contains("not between 16M and 512M"));
    assert!(on_model(&["--memory", "17M"]).contains("multiple of 2M"));
    let arms = ["--format", "ept", "--mistake", "vmalle1-alone"];
    assert!(on_model(&arms).contains("--format stage2 alone"));
    for words in [["--format", "ept"], ["--seed", "7"], ["--tlb", "random"]] {
        assert_eq!(refusal(&words), format!("{}: not with --machine emulator", words[0]));
    }
}

#[test]
fn the_command_line_is_appended_to() {
    assert_eq!(bootargs("quiet x=1", SMALL).unwrap(), "earlycon console=ttyAMA0 panic=-1 quiet x=1");
    assert!(bootargs("", SMALL - 1).unwrap().ends_with("panic=-1 lockdown=confidentiality"));
    assert!(bootargs("a\nb", SMALL).is_err());
    assert!(bootargs(&"x".repeat(4000), SMALL).is_err());
    assert!(parse(&["--append", "--not-an-option"]).is_ok());
}

#[test]
fn wrong_files_and_sizes_are_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let text = write(directory.path(), "text", b"hello");
    let empty = write(directory.path(), "empty", b"");
    let mut image = vec![0; 4096];
    image[16..24].copy_from_slice(&(40_u64 << 20).to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    let image = write(directory.path(), "image", &image);

    assert!(
        refusal(&["--guest", "/nonexistent/file"]).contains("cannot read the guest kernel /nonexistent/file")
    );
    assert!(refusal(&["--guest", &text]).contains("not an arm64 Linux Image"));
    assert!(refusal(&["--guest", &image, "--memory", "32M"]).contains("too little"));
    assert!(refusal(&["--guest", &image, "--initrd", &empty]).contains("empty"));
    assert!(refusal(&["--initrd", "/nonexistent/file"]).contains("cannot read the initial RAM disk"));
    assert!(refusal(&["--memory", "3M"]).contains("multiple of 2M"));
    assert!(refusal(&["--memory", "2M"]).contains("too little"));
    assert!(refusal(&["--memory", "1024G"]).contains("too much"));
    assert!(parse(&["--guest", &image]).unwrap().check().is_ok());
}
