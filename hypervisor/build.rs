//! Gives the linker the memory map of the machine, on the bare-metal target only.

use slat_hv_protocol::{CPUS_MAX, MemoryMap};
use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if (target("OS").as_str(), target("ARCH").as_str()) != ("none", "aarch64") {
        return;
    }
    let map = MemoryMap::AARCH64;
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&root).join("src/arch/aarch64/image.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    for argument in [
        format!("-T{}", script.display()),
        format!("--defsym=IMAGE_ADDRESS={:#x}", map.image),
        format!("--defsym=BLOBS_ADDRESS={:#x}", map.blobs),
        format!("--defsym=CPUS_MAX={CPUS_MAX}"),
        "--gc-sections".to_owned(),
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
