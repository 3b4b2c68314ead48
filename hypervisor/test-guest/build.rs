//! Gives the linker the guest's memory map, on the bare-metal target only.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if (target("OS").as_str(), target("ARCH").as_str()) != ("none", "aarch64") {
        return;
    }
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&root).join("src/guest.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
}
