use super::{MISTAKES, MachineKind, Options, parse_size};
use crate::guests::cache::Kernel;
use crate::guests::image::Program;
use crate::platform::Platform;
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
    assert_eq!((options.platform(), options.machine), (Platform::Arm, MachineKind::Emulator));
    assert_eq!(options.fetched(), Some(Kernel::Linux("linux-image-cloud-arm64")));
    let checked = options.check().unwrap();
    assert_eq!((checked.platform, checked.program), (Platform::Arm, Program::Linux));
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
fn the_vendor_implies_the_architecture() {
    let platform = |words: &[&str]| parse(words).unwrap().platform();
    assert_eq!(platform(&["--arch", "aarch64"]), Platform::Arm);
    assert_eq!(platform(&["--arch", "x86_64"]), Platform::Intel);
    assert_eq!(platform(&["--vendor", "intel"]), Platform::Intel);
    assert_eq!(platform(&["--vendor", "amd"]), Platform::Amd);
    assert_eq!(platform(&["--arch", "x86_64", "--vendor", "amd"]), Platform::Amd);
    assert_eq!(platform(&["--arch", "riscv64"]), Platform::Riscv);
    assert!(parse(&["--arch", "riscv32"]).unwrap_err().contains("invalid value 'riscv32'"));
    for arch in ["aarch64", "riscv64"] {
        let refused = refusal(&["--arch", arch, "--vendor", "amd"]);
        assert!(refused.contains(&format!("--vendor: not with --arch {arch}")), "{refused}");
    }
}

#[test]
fn each_platform_has_its_defaults() {
    let intel = parse(&["--arch", "x86_64"]).unwrap();
    assert_eq!((intel.timeout(), intel.cpu()), (120, "corei7_haswell_4770"));
    assert_eq!(intel.fetched(), Some(Kernel::Linux("linux-image-cloud-amd64")));
    let amd = parse(&["--vendor", "amd"]).unwrap();
    assert_eq!((amd.timeout(), amd.cpu()), (60, "EPYC"));
    let riscv = parse(&["--arch", "riscv64"]).unwrap();
    assert_eq!((riscv.timeout(), riscv.cpu()), (60, "rv64,h=true"));
    assert_eq!(riscv.fetched(), Some(Kernel::Installer));
    assert!(intel.check().is_ok() && amd.check().is_ok() && riscv.check().is_ok());
}

#[test]
fn models_of_bochs_may_be_named_in_part() {
    let options = parse(&["--arch", "x86_64", "--cpu", "skylake_x"]).unwrap();
    assert_eq!(options.cpu(), "corei7_skylake_x");
    assert!(options.check().is_ok());
    let error = refusal(&["--arch", "x86_64", "--cpu", "EPYC"]);
    assert!(
        error.contains("Bochs has no single CPU EPYC; it has ") && error.contains("tigerlake"),
        "{error}"
    );
    assert_eq!(parse(&["--vendor", "amd", "--cpu", "max"]).unwrap().cpu(), "max");
}

#[test]
fn memtest_is_fetched_and_takes_no_user_space() {
    let options = parse(&["--vendor", "amd", "--guest", "memtest86+", "--memory", "16M"]).unwrap();
    assert_eq!(options.fetched(), Some(Kernel::Memtest));
    assert_eq!(options.check().unwrap().program, Program::Memtest);
    assert!(refusal(&["--guest", "memtest86+"]).contains("memtest86+ is for --arch x86_64"));
    let directory = tempfile::tempdir().unwrap();
    let initrd = write(directory.path(), "initrd", b"x");
    let words = ["--vendor", "amd", "--guest", "memtest86+", "--initrd", &initrd];
    assert!(refusal(&words).contains("--initrd: memtest86+ takes none"));
}

#[test]
fn what_the_emulated_pc_cannot_do_is_refused() {
    assert!(refusal(&["--arch", "x86_64", "--compare"]).contains("nothing to compare with, Bochs"));
    assert!(refusal(&["--arch", "x86_64", "--memory", "2G"]).contains("Bochs emulates 2048M in one piece"));
    assert!(refusal(&["--vendor", "amd", "--memory", "3G"]).contains("QEMU emulates 3072M in one piece"));
    assert!(parse(&["--vendor", "amd", "--memory", "2G"]).unwrap().check().is_ok());
}

#[test]
fn u_boot_is_fetched_and_alone() {
    let options = parse(&["--arch", "riscv64", "--guest", "u-boot"]).unwrap();
    assert_eq!(options.fetched(), Some(Kernel::UBoot));
    assert_eq!(options.check().unwrap().program, Program::UBoot);
    assert!(refusal(&["--guest", "u-boot"]).contains("u-boot is for --arch riscv64"));
    let riscv = |words: &[&str]| refusal(&[&["--arch", "riscv64", "--guest", "u-boot"], words].concat());
    assert!(riscv(&["--guests", "2"]).contains("u-boot is alone"));
    let directory = tempfile::tempdir().unwrap();
    let initrd = write(directory.path(), "initrd", b"x");
    assert!(riscv(&["--initrd", &initrd]).contains("--initrd: u-boot takes none"));
    assert!(refusal(&["--arch", "riscv64", "--guest", "memtest86+"]).contains("is for --arch x86_64"));
}

#[test]
fn guests_share_a_machine_on_riscv_only() {
    let words = ["--arch", "riscv64", "--guests", "3", "--cpus", "2", "--host-cpus", "1", "--pool", "200M"];
    let options = parse(&words).unwrap();
    let sharing = options.check().unwrap().choices.sharing;
    assert_eq!((sharing.guests, sharing.cpus, sharing.pool), (3, Some(2), Some(200 << 20)));
    assert_eq!(options.machine_cpus(), 1);
    let alone = parse(&[]).unwrap().check().unwrap().choices.sharing;
    assert_eq!((alone.guests, alone.cpus, alone.pool), (1, None, None));
    for words in [&["--guests", "2"][..], &["--vendor", "amd", "--host-cpus", "2"]] {
        assert!(refusal(words).contains("with --arch riscv64 only"), "{words:?}");
    }
    assert!(parse(&["--pool", "64M"]).unwrap().check().is_ok(), "everywhere");
    for wrong in [["--guests", "0"], ["--guests", "9"], ["--host-cpus", "3"], ["--host-cpus", "0"]] {
        assert!(parse(&wrong).is_err(), "{wrong:?}");
    }
    let riscv = |words: &[&str]| refusal(&[&["--arch", "riscv64"], words].concat());
    assert!(riscv(&["--compare", "--guests", "2"]).contains("--compare: natively there is one guest"));
    assert!(riscv(&["--pool", "3M"]).contains("--pool: 3145728 bytes are no multiple of 2M"));
    assert!(riscv(&["--pool", "0"]).contains("--pool"));
    assert!(riscv(&["--pool", "1024G"]).contains("--pool: 1048576M is too much"));
    assert!(riscv(&["--memory", "3M"]).contains("multiple of 2M"));
}

#[test]
fn paged_memory_has_a_smaller_pool_and_a_store_for_all_of_it() {
    let riscv = |words: &[&str]| parse(&[&["--arch", "riscv64"], words].concat()).unwrap();
    let options = riscv(&["--page-out"]);
    let choices = options.check().unwrap().choices;
    let paged = choices.paging.unwrap();
    assert_eq!(choices.sharing.pool, Some(48 << 20));
    assert!((128 << 20..130 << 20).contains(&paged.store) && paged.idle_scans > 0, "{paged:?}");
    assert_eq!(options.filled_pages(), Some(2048));
    let given = riscv(&["--page-out", "--pool", "64M", "--store", "32M", "--guests", "2"]);
    let choices = given.check().unwrap().choices;
    assert_eq!((choices.sharing.pool, choices.paging.unwrap().store), (Some(64 << 20), 32 << 20));
    assert_eq!(riscv(&["--page-out", "--guest", "u-boot"]).filled_pages(), None, "it has no user space");
    let without = riscv(&[]).check().unwrap().choices;
    assert_eq!((without.paging, without.sharing.pool), (None, None));
    for (words, refused) in [
        (&["--page-out"][..], "--page-out: with --arch riscv64 only"),
        (&["--arch", "riscv64", "--page-out", "--migrate"], "--migrate: not with --page-out"),
        (&["--arch", "riscv64", "--page-out", "--churn"], "--churn: not with --page-out"),
        (&["--arch", "riscv64", "--page-out", "--store", "1M"], "--store"),
    ] {
        assert!(refusal(words).contains(refused), "{words:?}");
    }
}

#[test]
fn the_width_of_an_address_is_what_the_architecture_may_have() {
    assert!(parse(&["--arch", "riscv64", "--gpa-bits", "59"]).unwrap().check().is_ok());
    assert!(refusal(&["--gpa-bits", "50"]).contains("--gpa-bits: at most 48 with --arch aarch64"));
    assert!(parse(&["--arch", "riscv64", "--gpa-bits", "60"]).is_err());
}

#[test]
fn churn_takes_a_seed() {
    let options = parse(&["--churn", "--churn-seed", "7"]).unwrap();
    assert_eq!(options.check().unwrap().choices.churn.unwrap().seed, 7);
    assert!(parse(&["--churn-seed", "7"]).is_err());
    let words = ["--churn", "--churn-per-exit", "1", "--churn-limit", "900000"];
    let churn = parse(&words).unwrap().check().unwrap().choices.churn.unwrap();
    assert_eq!((churn.seed, churn.per_exit, churn.limit), (1, 1, 900_000));
    assert!(
        parse(&["--churn-per-exit", "7"]).is_err() && parse(&["--churn", "--churn-per-exit", "0"]).is_err()
    );
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
        &["--vendor", "amd"],
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
    assert!(on_model(&["--pool", "3M"]).contains("no multiple of 2M"));
    let several = ["--machine", "model", "--guests", "3", "--host-cpus", "2", "--pool", "64M"];
    assert!(parse(&several).unwrap().check_model().is_ok());
    assert!(on_model(&["--memory", "17M"]).contains("multiple of 2M"));
    let arms = ["--format", "ept", "--mistake", "vmalle1-alone"];
    assert!(on_model(&arms).contains("--format stage2 alone"));
    for words in [["--format", "ept"], ["--seed", "7"], ["--tlb", "random"]] {
        assert_eq!(refusal(&words), format!("{}: not with --machine emulator", words[0]));
    }
}

#[test]
fn a_refused_run_leaves_files_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let old = write(directory.path(), "old", b"an older recording");
    let new = format!("{}/new", directory.path().display());
    for file in [&*old, &*new] {
        assert!(parse(&["--machine", "model", "--record", file]).unwrap().check_model().is_err());
        assert!(parse(&["--record", file, "--append", "a\nb"]).unwrap().check().is_err());
        assert!(
            parse(&["--machine", "model", "--trace", file, "--memory", "8M"]).unwrap().check_model().is_err()
        );
    }
    assert!(!Path::new(&new).exists());
    assert!(parse(&["--record", &old]).unwrap().check().is_ok());
    assert_eq!(std::fs::read(old).unwrap(), b"an older recording");
}

#[test]
fn what_is_appended_may_look_like_an_option() {
    assert!(parse(&["--append", "--not-an-option"]).unwrap().check().is_ok());
    assert!(refusal(&["--append", "a\nb"]).contains("--append"));
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

#[test]
fn the_monitor_has_one_guest_and_an_emulator() {
    use crate::boot::session::Asking;
    let asking = |words: &[&str]| parse(words).unwrap().check().unwrap().choices.monitor;
    assert_eq!(asking(&[]), None);
    assert_eq!(asking(&["--monitor"]), Some(Asking::Input));
    let script = "query 0x80000000; stats";
    assert_eq!(asking(&["--arch", "riscv64", "--monitor-commands", script]), Some(Asking::Script(script)));
    for others in [&["--guests", "2"][..], &["--fork", "2"], &["--migrate"]] {
        let words = [&["--arch", "riscv64", "--monitor"], others].concat();
        assert!(refusal(&words).contains("not with --monitor"), "{}", refusal(&words));
    }
    assert!(
        refusal(&["--compare", "--monitor-commands", "map"])
            .contains("--compare: not with --monitor-commands")
    );
    let model = parse(&["--machine", "model", "--monitor"]).unwrap().check_model();
    assert!(model.is_err_and(|error| error.to_string().contains("--monitor: not with --machine model")));
}
