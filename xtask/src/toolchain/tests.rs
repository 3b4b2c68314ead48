use super::{Plan, decide, minor_version};

#[test]
fn the_minor_version_is_read() {
    assert_eq!(minor_version("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some(96));
    assert_eq!(minor_version("rustc 1.85.0+dfsg3-1"), Some(85));
    assert_eq!(minor_version("rustc (none)"), None);
    assert_eq!(minor_version(""), None);
}

#[test]
fn rustup_comes_before_packages() {
    assert_eq!(decide(true, true), Plan::Rustup { else_packages: true });
    assert_eq!(decide(true, false), Plan::Rustup { else_packages: false });
    assert_eq!(decide(false, true), Plan::Packages);
    assert_eq!(decide(false, false), Plan::Impossible);
}
