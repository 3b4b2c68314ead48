use super::{is_compatible, judge};

#[test]
fn an_expression_is_compatible_if_a_choice_of_it_is() {
    for expression in [
        "MIT",
        "MIT OR Apache-2.0",
        "Apache-2.0/MIT",
        "GPL-3.0-only OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        "Unlicense OR MIT",
    ] {
        assert!(is_compatible(expression), "{expression}");
    }
    for expression in [
        "GPL-3.0-only",
        "MIT AND GPL-2.0-only",
        "GPL-2.0-only AND MIT OR MPL-2.0",
        "(MIT OR Apache-2.0) AND GPL-3.0-only",
        "MIT AND",
        "(MIT",
        "MIT)",
        "MIT Apache-2.0",
        "OR MIT",
        "GPL-2.0-only WITH Classpath-exception-2.0",
        "",
    ] {
        assert!(!is_compatible(expression), "{expression}");
    }
}

/// A crate that may be published with one dependency of each kind, and one that may not.
fn metadata(normal: &str, development: &str, private: &str) -> String {
    let package = |name: &str, license: &str, publish: &str| {
        format!(
            r#"{{"id": "{name}", "name": "{name}", "version": "1.0.0", "license": {license}, "publish": {publish}}}"#
        )
    };
    let packages = [
        package("library", "\"MIT\"", "null"),
        package("tool", "\"MIT\"", "[]"),
        package("normal", normal, "null"),
        package("development", development, "null"),
        package("private", private, "null"),
    ];
    format!(
        r#"{{"packages": [{}], "workspace_members": ["library", "tool"], "resolve": {{"nodes": [
            {{"id": "library", "deps": [{{"pkg": "normal", "dep_kinds": [{{"kind": null}}]}},
                                        {{"pkg": "development", "dep_kinds": [{{"kind": "dev"}}]}}]}},
            {{"id": "tool", "deps": [{{"pkg": "private", "dep_kinds": [{{"kind": null}}]}}]}},
            {{"id": "normal", "deps": [{{"pkg": "library", "dep_kinds": [{{"kind": "build"}}]}}]}}]}}}}"#,
        packages.join(",")
    )
}

#[test]
fn only_what_is_published_with_a_crate_is_judged() {
    let gpl = "\"GPL-3.0-only\"";
    assert_eq!(
        judge(&metadata("\"MIT\"", gpl, gpl)).expect("compatible"),
        "2 packages with compatible licences"
    );
}

#[test]
fn what_is_incompatible_or_says_nothing_is_named() {
    let error = |licence: &str| judge(&metadata(licence, "\"MIT\"", "\"MIT\"")).unwrap_err().to_string();
    assert_eq!(error("\"GPL-3.0-only\""), "normal 1.0.0 has GPL-3.0-only");
    assert_eq!(error("null"), "normal 1.0.0 names no licence");
}
