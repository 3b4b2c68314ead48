//! Gives the linker the memory map of the machine, on the bare-metal targets only.

use slat_hv_protocol::{CPUS_MAX, MemoryMap};
use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    let (os, arch) = (target("OS"), target("ARCH"));
    let mut arguments = match (os.as_str(), arch.as_str()) {
        ("none", "aarch64") => {
            let map = MemoryMap::AARCH64;
            vec![
                format!("--defsym=IMAGE_ADDRESS={:#x}", map.image),
                format!("--defsym=BLOBS_ADDRESS={:#x}", map.blobs),
            ]
        }
        ("none", "riscv64") => {
            let map = MemoryMap::RISCV64;
            vec![
                format!("--defsym=IMAGE_ADDRESS={:#x}", map.image),
                format!("--defsym=PARAMS_ADDRESS={:#x}", map.params),
            ]
        }
        ("none", "x86_64") => {
            let map = MemoryMap::X86_64;
            vec![
                format!("--defsym=IMAGE_ADDRESS={:#x}", map.image),
                format!("--defsym=PARAMS_ADDRESS={:#x}", map.params),
                // The image is loaded where it is linked, and its file has no gaps for pages that nobody maps.
                "--no-pie".to_owned(),
                "-n".to_owned(),
                "-znorelro".to_owned(),
            ]
        }
        _ => return,
    };
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&root).join(format!("src/arch/{arch}/image.ld"));
    println!("cargo::rerun-if-changed={}", script.display());
    arguments.push(format!("-T{}", script.display()));
    arguments.push(format!("--defsym=CPUS_MAX={CPUS_MAX}"));
    arguments.push("--gc-sections".to_owned());
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
