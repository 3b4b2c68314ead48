//! What the fuzzer has found interesting so far, replayed.

use std::path::PathBuf;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files =
        std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let paths = files.map(|file| file.expect("a file of the corpus").path());
    paths.map(|path| (path.clone(), std::fs::read(path).expect("a file of the corpus"))).collect()
}

#[test]
fn operations_of_the_corpus_pass() {
    let cases = corpus("operations");
    assert!(cases.len() >= 20, "{} cases", cases.len());
    let mut operations = 0;
    for (path, data) in cases {
        match slat_check::fuzz::operations(&data) {
            Ok(counts) => operations += counts.operations,
            Err(failure) => panic!("{}: {failure}", path.display()),
        }
    }
    assert!(operations > 100, "{operations} operations");
}

#[test]
fn codecs_of_the_corpus_pass() {
    let cases = corpus("codecs");
    assert!(cases.len() >= 10, "{} cases", cases.len());
    cases.iter().for_each(|(_, data)| slat_check::fuzz::codecs(data));
}
