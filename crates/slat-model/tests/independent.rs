//! The model judges slat, so it must not lean on it.

#[test]
fn the_model_has_no_dependencies() {
    let manifest = include_str!("../Cargo.toml");
    let sections: Vec<&str> = manifest.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(sections, ["[package]", "[lints]"], "no dependencies of any kind");
}

#[test]
fn the_model_names_nothing_of_slat() {
    let mut directories = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            files += 1;
            let source = std::fs::read_to_string(&path).unwrap();
            for foreign in ["slat::", "crates/slat/", "extern crate", "#[path"] {
                assert!(!source.contains(foreign), "{} has {foreign}", path.display());
            }
        }
    }
    assert!(files > 10, "the sources were not found");
}
