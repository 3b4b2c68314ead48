//! Gives the linker the guest's memory map, on the bare-metal targets only.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    let script = match (target("OS").as_str(), target("ARCH").as_str()) {
        ("none", "aarch64") => "src/guest.ld",
        ("none", "riscv64") => "src/riscv64.ld",
        _ => return,
    };
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&root).join(script);
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
}
