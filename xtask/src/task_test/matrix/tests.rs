//! The choices of features, from metadata as cargo prints it.

use super::choices;

const METADATA: &str = r#"{ "packages": [
    { "name": "slat", "features": { "default": [], "std": [], "trace": [] } },
    { "name": "slat-x86", "features": {} }
] }"#;

fn of(packages: &[&str], bare: bool) -> Vec<String> {
    let choices = choices(METADATA, packages, bare).expect("packages that are there");
    choices.into_iter().map(|(package, feature)| format!("{package}+{feature}")).collect()
}

#[test]
fn each_feature_is_alone_once_and_none_too() {
    assert_eq!(of(&["slat", "slat-x86"], false), ["slat+", "slat+std", "slat+trace", "slat-x86+"]);
}

#[test]
fn what_needs_std_is_not_for_bare_metal() {
    assert_eq!(of(&["slat"], true), ["slat+", "slat+trace"]);
}

#[test]
fn a_package_that_is_not_there_is_told() {
    assert!(choices(METADATA, &["slat-arm"], false).is_err());
}
