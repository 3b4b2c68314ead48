use super::{line_options, of_release, own_suites, parse, sources_file, stanza_options};
use std::fs;

const TARGETS: &str = "\
http://a/debian/|bookworm|main|Debian|bookworm|oldstable|/nonexistent.list:1
http://a/debian/|bookworm|main|Debian|bookworm|oldstable|/nonexistent.list:1
http://a/debian/|bookworm|contrib|Debian|bookworm|oldstable|/nonexistent.list:1
http://a/debian-security/|bookworm-security|main|Debian|bookworm-security|oldstable-security|/nonexistent.list:2
http://pg/|bookworm-pgdg|main|apt.example.org|bookworm-pgdg||/nonexistent.list:3
http://docker/|bookworm|stable|Docker|||/nonexistent.list:4
http://a/debian/|trixie|main|Debian|trixie|stable|/nonexistent.list:5
http://other/|jammy|main|Ubuntu|jammy|jammy|/nonexistent.list:6
";

#[test]
fn only_main_is_read_and_nothing_twice() {
    assert_eq!(parse(TARGETS).len(), 5);
    assert_eq!(parse("nonsense\n\na|b|c\n"), []);
}

#[test]
fn only_the_distributions_own_suites_are_kept() {
    let own = own_suites(parse(TARGETS), "bookworm");
    let releases: Vec<_> = own.iter().map(|source| source.release.as_str()).collect();
    assert_eq!(releases, ["bookworm", "bookworm-security", "trixie"]);
    assert_eq!(own_suites(parse("http://x/|jammy|main|Ubuntu|jammy|jammy|f:1"), "jammy").len(), 1);
    assert_eq!(own_suites(parse("http://x/|jammy|main|Ubuntu|jammy|jammy|f:1"), "bookworm"), []);
}

#[test]
fn another_release_comes_from_the_same_mirror() {
    let other = |codename: &str| of_release(own_suites(parse(TARGETS), codename), codename, "forky");
    let found = other("bookworm");
    assert_eq!(found.len(), 1, "neither security nor updates: {found:?}");
    assert_eq!((found[0].uri.as_str(), found[0].release.as_str()), ("http://a/debian/", "forky"));
    assert!(found[0].entry.ends_with(":1"), "the entry, by which its key is found, stays");
    let rolling =
        parse("http://m/|sid|main|Debian|sid|unstable|f:1\nhttp://m/|sid|main|Debian|sid|unstable|f:2");
    assert_eq!(of_release(rolling, "", "trixie").len(), 1);
}

#[test]
fn a_key_travels_with_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.sources");
    fs::write(
        &file,
        "# comment\nTypes: deb\nURIs: http://a\n\nTypes: deb\nSigned-By: /k.gpg\nURIs: http://b\n",
    )
    .unwrap();
    let line = format!("http://b/|bookworm|main|Debian|bookworm|stable|{}:2", file.display());
    let text = sources_file(&parse(&line), "arm64");
    assert!(text.contains("URIs: http://b/\nSuites: bookworm\nComponents: main\nArchitectures: arm64\n"));
    assert!(text.contains("Signed-By: /k.gpg\n"));
}

#[test]
fn an_inline_key_is_kept_whole() {
    let stanza = "Types: deb\nSigned-By:\n -----BEGIN\n .\n abc\n -----END\nTrusted: yes\nSuites: x\n";
    assert_eq!(stanza_options(stanza, 0), "Signed-By:\n -----BEGIN\n .\n abc\n -----END\nTrusted: yes\n");
    assert_eq!(stanza_options(stanza, 1), "");
}

#[test]
fn options_of_one_line_entries_are_translated() {
    let options = line_options("deb [arch=amd64 signed-by=/a.gpg,/b.gpg trusted=yes] http://x y main");
    assert_eq!(options, "Signed-By: /a.gpg /b.gpg\nTrusted: yes\n");
    assert_eq!(line_options("deb http://x y main"), "");
}
